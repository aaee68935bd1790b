"""The recipe of the base model runs through the engine: phases follow each other, gates and log are written."""

import json

from recipes.run import main
from training.models import image_mode, load

SMALL = ["pretrain.phases=[{name: first, samples: 64, data: {jitter: 0, most: 3}, train: {lr: 0.001, batch_size: 16}}, "
         "{name: second, samples: 48, data: {jitter: 2, most: 6, direct: 0.5}, train: {lr: 0.0005, batch_size: 16}}]",
         "pretrain.gates.items=4", "track.wandb.mode=disabled", "--executor=inline"]


def test_the_base_recipe_trains_its_phases_and_measures_its_gates(tmp_path, capsys):
    assert main(["mini_base.yaml", f"root={tmp_path}", *SMALL]) == 0
    checkpoint = next((tmp_path / "store" / "pretrain").glob("*/checkpoint"))
    model, _ = load(checkpoint)
    assert image_mode(model) == "base" and 1e6 < sum(p.numel() for p in model.parameters()) < 5e6
    gates = json.loads((checkpoint / "gates.json").read_text())
    assert len(gates) == 4 and all(g["n"] == 4 for g in gates.values())
    said = capsys.readouterr().out
    assert "phase second: 48 samples, 3 steps" in said and "gate single_object" in said
