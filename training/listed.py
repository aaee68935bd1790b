"""What a training reads: a list is written into a token store, so that there is one way to read examples.

examples = listed(spec, base, samples, Path("out.job/tokens"))      # StoredExamples
"""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from curation.pool.sample import Sample
    from training.render import Encoded, Renderer
    from training.spec import FitSpec
    from training.token_store import StoredExamples


def listed(
    spec: "FitSpec", base: str | Path, examples: "Sequence[Sample | Encoded]", folder: Path
) -> "StoredExamples":
    """The examples of a list, from a store of them in `folder`; one of another list there is replaced.

    Raises RenderError for an example that is too long while `too_long` is "error".
    """
    from training.token_store import ListSource, RendererOf, StoreMismatch, write

    source, renderer = ListSource(examples), RendererOf.for_training(spec, base)
    try:
        store = write(source, renderer, folder)
    except StoreMismatch:
        shutil.rmtree(folder)
        store = write(source, renderer, folder)
    return store.examples(range(len(store)), spec.max_length, spec.too_long)


def check_stored(spec: "FitSpec", examples: "StoredExamples", renderer: "Renderer") -> None:
    """Raise StoreMismatch unless the examples are those of the settings and of the base's renderer."""
    from training.token_store import StoreMismatch

    own, wanted = examples.store.info.renderer, renderer.fingerprint()
    if own != wanted:
        raise StoreMismatch(
            f"{examples.store.folder} was tokenised by another tokenizer, template, rules or image mode "
            f"({own}) than this training's ({wanted}): write a store for it"
        )
    longest: Any = examples.lengths.max(initial=0)
    if spec.max_length is not None and longest > spec.max_length:
        raise ValueError(
            f"examples of up to {longest} tokens were taken from {examples.store.folder}, but max_length is "
            f"{spec.max_length}: take them with `store.examples(rows, spec.max_length, spec.too_long)`"
        )
