"""Rating as in mmSSR's own code (arXiv 2503.13383): one query of one sample at a time, generated greedily.

Nothing is shared: prefix and images are computed again for each of the 15 queries, so it serves as a
reference. As in the paper's code, samples without an image cannot be rated (reason `no_image`). The paper's
protocol is a prompt set, which `curation.signals.prompts` makes from a clone of the released code.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from curation.signals.core.batches import batches_by_count
from curation.signals.core.table import Advance
from curation.taxonomy import MAX_SCORE
from training.one_turn import OneTurn

if TYPE_CHECKING:
    from curation.pool.read import Pool
    from curation.pool.sample import Sample
    from curation.signals.core.vlm import PassStats, Vlm
    from training.render import Encoded

MAX_NEW_TOKENS = 1024
"""The longest text that a rater may write in the paper's code."""


def with_prompt(prefix: "Encoded", prompt: Sequence[int]) -> "Encoded":
    """A sample's prefix followed by the tokens of one query, without labels."""
    ids = np.concatenate([prefix.input_ids, np.array(prompt, dtype=np.int32)])
    return replace(prefix, input_ids=ids, labels=np.full_like(ids, prefix.labels[0]))


def generate_rows(
    pool: "Pool",
    rows: Sequence[int],
    vlm: "Vlm",
    queries: Sequence[str],
    flat: OneTurn | bool,
    stats: "PassStats",
    advance: Advance,
    max_new_tokens: int = MAX_NEW_TOKENS,
) -> list[list[str] | None]:
    """The generated answer to each query for some rows of a pool; None for a row that cannot be rated."""
    from curation.signals.core.generate import generate

    prompts = [vlm.renderer.query_tokens(query, flat) for query in queries]

    def score(examples: Sequence["Encoded"]) -> list[list[str]]:
        return [
            [generate(vlm, [with_prompt(example, prompt)], max_new_tokens)[0] for prompt in prompts]
            for example in examples
        ]

    return vlm.run(
        pool.samples(rows),
        encode=partial(_with_image, vlm, flat),
        make_batches=partial(batches_by_count, batch_size=1),
        score=score,
        stats=stats,
        advance=advance,
    )


def parse_score(text: str, unparsed: Counter[str]) -> int | None:
    """The score 0..5 that a text is, by int() as in the paper's code; else None, counted in `unparsed`."""
    try:
        score = int(text)
    except ValueError:
        unparsed["no_integer"] += 1
        return None
    if not 0 <= score <= MAX_SCORE:
        unparsed["out_of_range"] += 1
        return None
    return score


def _with_image(vlm: "Vlm", flat: OneTurn | bool, sample: "Sample") -> "Encoded":
    from training.render import RenderError

    if not sample.images:
        raise RenderError("no_image", f"sample {sample.id}")
    return vlm.renderer.context(sample, flat)
