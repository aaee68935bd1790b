"""The cost of labels before they are paid for, and what is said of it after the first."""

import pyarrow as pa
import pytest

from curation.teacher.base import Cost
from curation.teacher.estimate import MEASURED_AFTER, estimate, measuring

TABLE = pa.table(
    {
        "n_images": pa.array([0, 1, 2], pa.int32()),
        "text_tokens": pa.array([100, None, 300], pa.int32()),
        "byte_length": pa.array([9999, 800, 9999], pa.int32()),
    }
)


def test_the_estimate_is_the_mean_of_texts_and_images_and_the_instructions():
    found = estimate(TABLE, labels=10, system="x" * 400, image_tokens=50, prices=(1e6, 0.0))
    # 800 bytes are 200 tokens: (100 + 200 + 300) / 3, one image each, 400 bytes of instructions
    assert found.input_tokens == pytest.approx(200 + 50 + 100)
    assert found.usd_each == pytest.approx(350) and found.usd == pytest.approx(3500)
    half = estimate(
        TABLE, labels=10, system="x" * 400, image_tokens=50, prices=(1e6, 0.0), share_of_price=0.5
    )
    assert half.usd == pytest.approx(1750)
    assert "10 labels of about 350 input" in str(found) and "$350.0000 each, $3,500.00 in all" in str(found)


def test_without_prices_it_is_said_in_tokens():
    free = estimate(TABLE, labels=10, system="", image_tokens=0, prices=(0.0, 0.0))
    assert free.usd == 0 and "no prices are given" in str(free)
    answers = estimate(TABLE, labels=1, system="", image_tokens=0, prices=(0.0, 1e6))
    assert answers.usd_each == pytest.approx(answers.output_tokens) and 50 < answers.output_tokens < 400


class Costly:
    """A teacher that has cost something."""

    def __init__(self):
        self.spent = Cost()

    def cost(self):
        return self.spent


def test_the_measured_price_is_said_once():
    teacher, said, steps = Costly(), [], []
    on_progress = measuring(teacher, said.append, lambda *step: steps.append(step))
    teacher.spent = Cost(usd=1.0, kept=60)
    on_progress(64, 200)  # four are new
    assert not said
    teacher.spent = Cost(usd=8.0, kept=60)
    on_progress(60 + MEASURED_AFTER, 200)
    on_progress(200, 200)
    assert said == ["measured: $0.5000 a label over the first 16; about $100.00 for all"]
    assert [done for done, _ in steps] == [64, 76, 200]
