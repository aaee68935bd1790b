"""What makes two trainings the same, and what a message says about two that are not."""

import numpy as np
import pytest

from training.identity import Identity, deciding, row_hashes
from training.render import Encoded
from training.spec import LIMITS, OPERATIONAL, FitSpec


def examples(count: int = 6, at: str = "/data") -> list[Encoded]:
    ids = np.arange(8, dtype=np.int32)
    return [
        Encoded(ids + i, ids + i, (f"{at}/{i}.png", f"{at}/x/{i}.png"), name=f"s{i}") for i in range(count)
    ]


def identity(rows=None, **settings) -> Identity:
    return Identity.of(FitSpec(**settings), "base", examples() if rows is None else rows)


@pytest.mark.parametrize(
    "settings",
    [
        {"save_steps": 5},
        {"save_minutes": 1},
        {"cache_mb": 1},
        {"micro_batch": 2},
        {"processes": 8},
        {"gradient_checkpointing": True},
        {"deepspeed": "zero2"},
        {"deepspeed": "zero3"},
        {"loss_spike": 3},
        {"max_bad_fraction": 0.5},
    ],
)
def test_operational_settings_and_limits_do_not_decide(settings):
    assert identity(**settings).hash == identity().hash
    assert settings.keys() <= {*OPERATIONAL, *LIMITS}


@pytest.mark.parametrize(
    "settings",
    [
        {"lr": 2e-3},
        {"seed": 1},
        {"precision": "bf16"},
        {"lora": {"r": 4}},
        {"max_grad_norm": "none"},
        {"part_lr": {"projector": 1e-5}},
        {"lora": {"r": 4}, "train_parts": ["projector"]},
    ],
)
def test_everything_else_decides_and_is_named(settings):
    changed = identity(**settings)
    assert changed.hash != identity().hash
    assert settings.keys() == {line.partition(":")[0] for line in changed.differences(identity())}


def test_every_field_exists():
    assert {*OPERATIONAL, *LIMITS} <= FitSpec.model_fields.keys()


def test_micro_batches_decide_while_the_loss_is_their_mean():
    def of(world, **settings):
        spec = FitSpec(batch_size=16, loss_norm="microbatch", **settings)
        return Identity.of(spec, "base", examples(), world=world)

    assert of(2, micro_batch=4).hash == of(4, micro_batch=4, processes=4).hash == of(1, micro_batch=4).hash
    assert of(2, micro_batch=4).hash != of(2, micro_batch=8).hash
    assert of(2).differences(of(1)) == ["micro_batches: 1 -> 2"]
    counted = {"micro_batch", "processes"}
    assert counted <= FitSpec(loss_norm="microbatch").identity().keys()
    assert not counted & FitSpec().identity().keys()


def test_precision_optimizer_and_unknown_keys_of_a_deepspeed_config_decide():
    plain = {"zero_optimization": {"stage": 3}, "bf16": {"enabled": "auto"}, "gradient_clipping": "auto"}
    assert deciding(plain, "fp32") == {}
    assert deciding(plain, "bf16") == {"weights": "bfloat16"}
    assert deciding(plain | {"fp16": {"enabled": True, "loss_scale": "auto"}}, "fp32") == {
        "fp16": {"enabled": True}
    }
    assert deciding(plain | {"new": {"x": 1}}, "fp32") == {"new": {"x": 1}}
    quantised = {"zero_optimization": {"stage": 3, "zero_quantized_weights": True}}
    assert deciding(quantised, "fp32") == {"zero_optimization": {"zero_quantized_weights": True}}


def test_rows_that_differ_are_counted_and_named(tmp_path):
    rows = examples()
    before = identity(rows)
    before.write(tmp_path)
    read = Identity.read(tmp_path)
    assert read.hash == before.hash and not identity(rows).differences(read)
    other = [*rows[:4], Encoded(rows[0].input_ids + 90, rows[0].labels, name="new")]
    assert identity(other).differences(read, [e.name for e in other]) == [
        "examples differ: 1 of 5 rows are new, such as new; 2 of the 6 before are gone"
    ]
    assert identity(rows[::-1]).differences(read) == ["examples are in another order"]
    assert identity(lr=1.0).differences(read) == ["lr: 0.001 -> 1.0"]
    assert identity().differences(None) == ["it was written by an earlier version of this program"]


def test_moved_images_are_the_same_and_renamed_ones_are_not():
    assert np.array_equal(row_hashes(examples(at="/a")), row_hashes(examples(at="/b/c")))
    renamed = examples()
    renamed[2] = Encoded(renamed[2].input_ids, renamed[2].labels, ("/data/x/9.png", "/data/8.png"), name="s2")
    assert (row_hashes(renamed) != row_hashes(examples())).tolist() == [
        False,
        False,
        True,
        False,
        False,
        False,
    ]
