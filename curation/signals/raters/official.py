"""The way in which mmSSR's own code asks a rater (arXiv 2503.13383): one query of one sample at a time, greedily generated.

Nothing is shared: prefix and images are computed again for each of the 15 queries. It is here to compare with. As there,
samples without an image cannot be rated (reason `no_image`). Use a prompt set with `conversation: flat` for its form.
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

if TYPE_CHECKING:
    from curation.pool.read import Pool
    from curation.pool.sample import Sample
    from curation.signals.core.vlm import Pass, Vlm
    from training.render import Encoded

MAX_NEW_TOKENS = 1024
"""The longest text that the paper's code lets a rater write."""


def generate(vlm: "Vlm", example: "Encoded", max_new_tokens: int) -> str:
    """Greedy continuation of one example by the model's own `generate`."""
    from transformers import GenerationConfig

    batch = vlm.batch([example])
    del batch["labels"]
    # Our own settings: a checkpoint may ship others (sampling, repetition penalty) in its generation_config.
    greedy = GenerationConfig(
        max_new_tokens=max_new_tokens,
        do_sample=False,
        eos_token_id=vlm.renderer.end_id,
        pad_token_id=vlm.renderer.pad_id,
    )
    tokens = vlm.model.generate(**batch, generation_config=greedy)[0, batch["input_ids"].shape[1] :]
    return vlm.tokenizer.decode(tokens, skip_special_tokens=True)


def asked(example: "Encoded", prompt: Sequence[int]) -> "Encoded":
    """A prefix with one query after it, as an example of its own."""
    ids = np.concatenate([example.input_ids, np.array(prompt, dtype=np.int32)])
    return replace(example, input_ids=ids, labels=np.full_like(ids, example.labels[0]))


def generate_rows(
    pool: "Pool",
    rows: Sequence[int],
    vlm: "Vlm",
    questions: Sequence[str],
    flat: bool,
    done: "Pass",
    advance: Advance,
    max_new_tokens: int = MAX_NEW_TOKENS,
) -> list[list[str] | None]:
    """The generated answer to each question for some rows of a pool; None where a row cannot be rated."""
    prompts = [vlm.renderer.query_tokens(question, flat) for question in questions]

    def texts(examples: Sequence["Encoded"]) -> list[list[str]]:
        return [
            [generate(vlm, asked(example, prompt), max_new_tokens) for prompt in prompts]
            for example in examples
        ]

    return vlm.run(
        pool.samples(rows),
        encode=partial(_with_image, vlm, flat),
        make_batches=partial(batches_by_count, batch_size=1),
        score=texts,
        done=done,
        advance=advance,
    )


def parse_score(text: str, unparsed: Counter) -> int | None:
    """The score that a text states, read by int() as in the paper's code; None, counted, if it is none of 0..5."""
    try:
        score = int(text)
    except ValueError:
        unparsed["no_integer"] += 1
        return None
    if not 0 <= score <= MAX_SCORE:
        unparsed["out_of_range"] += 1
        return None
    return score


def _with_image(vlm: "Vlm", flat: bool, sample: "Sample") -> "Encoded":
    from training.render import RenderError

    if not sample.images:
        raise RenderError("no_image", f"sample {sample.id}")
    return vlm.renderer.context(sample, flat)
