"""The recipe of the base model: consecutive phases, gates, log, and resuming."""

import json
import shutil

import numpy as np
import pytest
import torch

from curation.mini.captions import CaptionStream
from curation.mini.tokenizer import build_tokenizer
from recipes.run import main
from training.models import image_mode, load

pytestmark = pytest.mark.slow

SMALL = [
    "pretrain.phases=["
    "{name: first, samples: 64, data: {jitter: 0, most: 3}, train: {lr: 0.001, batch_size: 16}}, "
    "{name: second, samples: 48, data: {jitter: 2, most: 6, direct: 0.5}, "
    "train: {lr: 0.0005, batch_size: 16, grouping: length}}]",
    "pretrain.gates.items=4",
    "track.mode=disabled",
    "--executor=inline",
]


def test_the_base_recipe_trains_its_phases_and_measures_its_gates(tmp_path, capsys):
    assert main(["mini_base.yaml", f"root={tmp_path}", *SMALL]) == 0
    checkpoint = next((tmp_path / "store" / "pretrain").glob("*/checkpoint"))
    model, _ = load(checkpoint)
    assert image_mode(model) == "base" and 1e6 < sum(p.numel() for p in model.parameters()) < 5e6
    gates = json.loads((checkpoint / "gates.json").read_text())
    assert len(gates) == 4 and all(g["n"] == 4 for g in gates.values())
    out = capsys.readouterr().out
    assert "phase second: 48 samples, 3 steps" in out and "gate single_object" in out


def test_an_interrupted_run_resumes_with_its_first_unfinished_phase(tmp_path):
    assert main(["mini_base.yaml", f"root={tmp_path}", *SMALL]) == 0
    artefact = next((tmp_path / "store" / "pretrain").glob("*/done.json")).parent
    before = (artefact / "checkpoint" / "model.safetensors").read_bytes()
    first = (artefact / "first" / "model.safetensors").stat().st_mtime_ns
    (artefact / "done.json").unlink()
    shutil.rmtree(artefact / "second")
    shutil.rmtree(artefact / "checkpoint")
    assert main(["mini_base.yaml", f"root={tmp_path}", *SMALL]) == 0
    assert (artefact / "first" / "model.safetensors").stat().st_mtime_ns == first
    assert (artefact / "checkpoint" / "model.safetensors").read_bytes() == before


def test_a_phase_may_combine_the_tower_of_one_phase_with_the_decoder_of_another(tmp_path):
    joined = SMALL[0].removesuffix("]") + (
        ", {name: third, start: initial, vision: first, samples: 16, data: {}, "
        "train: {lr: 1.0e-9, batch_size: 16}}]"
    )
    assert main(["mini_base.yaml", f"root={tmp_path}", joined, *SMALL[1:]]) == 0
    artefact = next((tmp_path / "store" / "pretrain").glob("*/checkpoint")).parent
    weights = {name: load(artefact / name)[0].state_dict() for name in ("initial", "first", "third")}
    for key, value in weights["third"].items():
        origin, other = (
            ("initial", "first") if "language_model" in key or "lm_head" in key else ("first", "initial")
        )
        assert torch.allclose(value, weights[origin][key], atol=1e-7), key
        assert (
            not value.any()
            or origin == "initial"
            or not torch.allclose(value, weights[other][key], atol=1e-7)
            or "norm" in key
        ), key


def test_lengths_of_captions_correlate_with_their_tokens():
    stream = CaptionStream(200, seed=3, jitter=2, most=8, text_share=0.3, direct=0.5)
    tokenizer = build_tokenizer()
    words = [
        sum(len(tokenizer(f"{t.question} {t.answer}").input_ids) for t in s.turns) + 16 * len(s.images)
        for s in stream
    ]
    assert np.corrcoef(words, stream.lengths())[0, 1] > 0.97
