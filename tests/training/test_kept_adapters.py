"""The adapters that a LoRA training keeps: one per epoch, with Adam's state, also after a resume."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file

from curation.pool.sample import Sample, Turn
from training.adapters import AdapterError, kept_adapters
from training.fit import FitSpec, LoraSpec, fit
from training.models import checkpoint_hash, load
from training.step_log import TrainingDiverged

pytestmark = pytest.mark.slow

SPEC = FitSpec(epochs=2.5, batch_size=8, lr=3e-3, warmup=0.25, lora=LoraSpec(r=2, alpha=4))


@pytest.fixture(scope="module")
def kept(base, tmp_path_factory):
    """(24 samples, their training in batches of 8: steps 3, 6 and 8 end an epoch or the training)."""
    folder = tmp_path_factory.mktemp("kept")
    samples = [
        Sample(row, f"s{row}", "test", (), (Turn(f"score {row % 10} ?", f"yes {row % 7} ."),))
        for row in range(24)
    ]
    fit(SPEC, base, samples, folder / "out", keep_adapters=True)
    return samples, folder / "out"


def files(folder):
    return {
        file.relative_to(folder): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()
    }


def test_one_adapter_for_each_epoch_with_its_learning_rate(kept):
    rates = [
        json.loads(line)["learning_rate"] for line in (kept[1] / "fit.log.jsonl").read_text().splitlines()
    ]
    found = kept_adapters(kept[1])
    assert [adapter.step for adapter in found] == [3, 6, 8] and [a.folder.name for a in found] == [
        "1",
        "2",
        "3",
    ]
    means = [sum(part) / len(part) for part in (rates[:3], rates[3:6], rates[6:])]
    assert [adapter.lr for adapter in found] == pytest.approx(means)
    # two of eight steps warm up from 0; then cosine to 0 at step 8
    expected = [
        0,
        1.5e-3,
        3e-3,
        *(1.5e-3 * (1 + torch.cos(torch.tensor(torch.pi * k / 6)).item()) for k in range(1, 6)),
    ]
    assert rates == pytest.approx(expected, rel=1e-4, abs=1e-9)


def test_the_last_adapter_is_what_the_checkpoint_has_merged(base, kept):
    from peft import PeftModel

    def merged(folder):
        return PeftModel.from_pretrained(load(base)[0], str(folder)).merge_and_unload().state_dict()

    first, *_, last = (merged(adapter.folder) for adapter in kept_adapters(kept[1]))
    trained = load(kept[1])[0].state_dict()
    assert all(torch.allclose(last[name], trained[name], atol=1e-6) for name in trained)
    assert not all(torch.allclose(first[name], trained[name], atol=1e-6) for name in trained)


def test_adams_moments_are_those_of_the_steps(kept):
    first, *_, last = (load_file(adapter.adam) for adapter in kept_adapters(kept[1]))
    assert (int(first["step"]), int(last["step"])) == (3, 8)
    weights = [name for name in last if name.endswith(".exp_avg")]
    assert len(weights) == 2 * 2 * 7 and all(
        f"{name}_sq" in last for name in weights
    )  # A and B, two layers, seven projections
    assert all((last[f"{name}_sq"] >= 0).all() for name in weights)
    assert not torch.equal(first[weights[0]], last[weights[0]])


def test_keeping_changes_no_outcome_and_bytes_repeat(base, kept, tmp_path):
    fit(SPEC, base, kept[0], tmp_path / "plain")
    assert (
        checkpoint_hash(tmp_path / "plain") == checkpoint_hash(kept[1])
        and not (tmp_path / "plain" / "adapters").exists()
    )
    shutil.copytree(base, tmp_path / "elsewhere")
    fit(SPEC, tmp_path / "elsewhere", kept[0], tmp_path / "again", keep_adapters=True)
    assert files(tmp_path / "again" / "adapters") == files(kept[1] / "adapters")
    with pytest.raises(FileExistsError, match="another finished checkpoint"):
        fit(SPEC, base, kept[0], tmp_path / "plain", keep_adapters=True)  # it has none


class Stopped(Exception):
    pass


def test_a_resume_leaves_the_same_adapters(base, kept, tmp_path):
    spec = SPEC.model_copy(update={"save_steps": 2})

    def stop(step, steps, message):
        if step == 5:
            raise Stopped

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("training.step_log.time.monotonic", iter(range(10_000)).__next__)  # every step reports
        with pytest.raises(Stopped):
            fit(spec, base, kept[0], tmp_path / "out", stop, keep_adapters=True)
    assert [adapter.step for adapter in kept_adapters(tmp_path / "out")] == [3]
    fit(spec, base, kept[0], tmp_path / "out", keep_adapters=True)
    assert files(tmp_path / "out" / "adapters") == files(kept[1] / "adapters")


def test_adapters_of_another_training_are_removed(base, kept, tmp_path):
    with pytest.raises(TrainingDiverged):
        fit(
            SPEC.model_copy(update={"epochs": 9, "lr": 1e30}),
            base,
            kept[0],
            tmp_path / "out",
            keep_adapters=True,
        )
    (tmp_path / "out" / "adapters" / "7").mkdir(parents=True)
    (tmp_path / "out" / "adapters" / "7" / "kept.json").write_text('{"epoch": 7, "step": 21, "lr": 1}')
    fit(SPEC.model_copy(update={"epochs": 1}), base, kept[0], tmp_path / "out", keep_adapters=True)
    assert [adapter.step for adapter in kept_adapters(tmp_path / "out")] == [3]


def test_what_has_no_adapters_to_keep_is_refused(base, kept, tmp_path):
    with pytest.raises(ValueError, match="adapters are kept of a LoRA training: set `lora`"):
        fit(SPEC.model_copy(update={"lora": None}), base, kept[0], tmp_path / "out", keep_adapters=True)
    with pytest.raises(AdapterError, match="holds no adapters"):
        kept_adapters(tmp_path)
