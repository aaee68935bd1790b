"""What labelling will cost, before it is paid for, and after the first labels."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from curation.taxonomy import CAPABILITY_KEYS, STYLES

if TYPE_CHECKING:
    import pyarrow as pa

    from curation.teacher.base import Teacher

BYTES_PER_TOKEN = 4
"""Of English text, by the tokenisers of current models; the limit of the cost counts one byte a token."""
MEASURED_AFTER = 16
"""Labels from which the measured price of one is worth saying."""


@dataclass(frozen=True)
class Estimate:
    """Labels, mean tokens of one, and US dollars of one and of all (0 without prices)."""

    labels: int
    input_tokens: float
    output_tokens: float
    usd_each: float

    @property
    def usd(self) -> float:
        return self.labels * self.usd_each

    def __str__(self) -> str:
        tokens = (
            f"{self.labels:,} labels of about {self.input_tokens:,.0f} input and "
            f"{self.output_tokens:,.0f} output tokens"
        )
        if not self.usd_each:
            return f"estimate: {tokens}; no prices are given (input_price, output_price)"
        return f"estimate: {tokens}: ${self.usd_each:.4f} each, ${self.usd:,.2f} in all"


def estimate(
    table: "pa.Table",
    *,
    labels: int,
    system: str,
    image_tokens: int,
    prices: tuple[float, float],
    share_of_price: float = 1.0,
) -> Estimate:
    """The cost of `labels` labels of samples as they are on average in `table`.

    table: columns n_images, text_tokens and byte_length of a pool; where the text's tokens are not known, its
    bytes count. system: the instructions of every request. image_tokens: of one image, for the model that is
    asked. prices: US dollars per million input and output tokens. Answers sent back are not in it.
    """
    import numpy as np
    import pyarrow.compute as pc

    by_bytes = pc.divide(table["byte_length"].cast("float64"), float(BYTES_PER_TOKEN))
    texts = pc.coalesce(table["text_tokens"].cast("float64"), by_bytes)
    images = table["n_images"].cast("float64")
    each = texts.to_numpy() + image_tokens * images.to_numpy()
    asked = len(system.encode()) / BYTES_PER_TOKEN + (float(np.mean(each)) if len(table) else 0.0)
    answer = {**dict.fromkeys(CAPABILITY_KEYS, 3), "styles": list(STYLES)[:2]}
    answered = len(json.dumps(answer)) / 3  # keys and digits: shorter tokens than prose
    usd = share_of_price * (asked * prices[0] + answered * prices[1]) / 1e6
    return Estimate(labels, asked, answered, usd)


def measuring(
    teacher: "Teacher", say: Callable[[str], None], then: Callable[[int, int], None]
) -> Callable[[int, int], None]:
    """An `on_progress` that calls `then`, and says once, after the first labels, what one has cost."""
    said = False

    def on_progress(done: int, total: int) -> None:
        nonlocal said
        then(done, total)
        cost = teacher.cost()
        new = done - cost.kept
        if not said and new >= min(MEASURED_AFTER, total) and cost.usd:
            said = True
            each = cost.usd / new
            say(f"measured: ${each:.4f} a label over the first {new:,}; about ${each * total:,.2f} for all")

    return on_progress
