"""Steps that are unlike others: of texts only, without any label, with a spike."""

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from curation.pool.sample import Sample, Turn
from training.fit import FitSpec, fit
from training.plan import epoch_order
from training.step_log import TrainingDiverged
from training.trainer import PlannedTrainer

pytestmark = pytest.mark.slow
ONE = FitSpec(batch_size=1, lr=3e-3, warmup=0, schedule="constant", max_steps=2)


def vision(out) -> torch.Tensor:
    """Weights of the vision tower's first layer, [n]."""
    found = load_file(out / "model.safetensors")
    return torch.cat([found[k].flatten() for k in sorted(found) if "patch_embedding" in k])


@pytest.fixture
def pair(samples):
    """A sample with an image and one without, the latter in the second step."""
    image, text = samples[0], samples[4]
    assert image.images and not text.images
    return [image, text] if epoch_order(2, ONE.seed, 0)[0] == 0 else [text, image]


def test_a_step_of_texts_moves_the_vision_tower_in_one_process_as_in_several(
    base, pair, tmp_path, monkeypatch
):
    fit(ONE.model_copy(update={"max_steps": 1}), base, pair, tmp_path / "image")
    fit(ONE, base, pair, tmp_path / "both")
    moved = vision(tmp_path / "both") - vision(tmp_path / "image")
    assert moved.abs().max() > 1e-4  # Adam's momentum goes on while gradients are 0
    monkeypatch.setattr("training.fit.touch_vision", None)  # not called: a blank image would be for nothing
    fit(ONE.model_copy(update={"freeze": ("vision", "projector")}), base, pair, tmp_path / "frozen")


def test_a_step_without_any_label_has_loss_0_and_the_training_goes_on(base, samples, tmp_path):
    path = tmp_path / "late.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (90, 90, 3), dtype=np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:-200])  # its header can be read, its pixels cannot
    broken = Sample(0, "late", "t", (path,), (Turn("<image> what colour ?", "red"),))
    spec = ONE.model_copy(update={"max_steps": None, "epochs": 1, "max_bad_fraction": 0.5})
    result = fit(spec, base, [broken, *samples[1:4]], tmp_path / "out")
    at = int(np.flatnonzero(epoch_order(4, spec.seed, 0) == 0)[0])
    assert [loss == 0 for loss in result["losses"]] == [step == at for step in range(4)]
    assert result["dropped"] == {"broken_image_late": 1}
    assert all(tensor.isfinite().all() for tensor in load_file(tmp_path / "out/model.safetensors").values())


def test_a_spike_stops_the_training_with_step_rows_and_the_last_good_state(
    base, samples, tmp_path, monkeypatch
):
    plain = PlannedTrainer.compute_loss

    def compute_loss(self, *args, **options):
        return plain(self, *args, **options) * (50 if self.state.global_step == 10 else 1)

    monkeypatch.setattr(PlannedTrainer, "compute_loss", compute_loss)
    spec = FitSpec(epochs=12, batch_size=8, warmup=0, save_steps=5, loss_spike=5)
    with pytest.raises(
        TrainingDiverged, match=r"more than 5 times the median .* at step 11: .*\(s\d.*checkpoint-10$"
    ):
        fit(spec, base, samples[:8], tmp_path / "out")
    assert (tmp_path / "out/checkpoints/checkpoint-10/COMPLETE").exists()
    assert not (tmp_path / "out/COMPLETE").exists()
