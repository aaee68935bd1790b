"""CLIP score: how well the text of a sample fits its images, by a dual encoder (CLIP or SigLIP).

    score_clip(pool, Path("clip-vit-large-patch14"), Path("signals/clip"), text="answer")

Columns: clip_score float32 = 100 · mean over the images and the sentences of cos(image, sentence); clip_image
and clip_text, unit vectors (directions of the means over images and over sentences). Source: CLIPScore (arXiv
2104.08718) without its weight and without clipping at 0; the mean over at most ten sentences is that of
InstructionGPT-4's released code (arXiv 2308.12067), which averages the sentences' unit vectors and does not
scale the mean to length 1 again: that would raise the score of texts whose sentences differ. Which text is
compared, and whether by sentence or as one text cut at the encoder's context (`unit`), are settings, because
published numbers of the same baseline differ in them.

Text-only samples have clip_text only; their clip_score and clip_image are null and counted, like those of
broken images.
"""

import re
import time
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa

from curation.pool.sample import IMAGE_PLACEHOLDER, Sample
from curation.signals.core.table import Advance, Progress, read_signal, write_signal
from curation.signals.core.vector_files import stack_vectors, vector_array

if TYPE_CHECKING:
    from curation.pool.read import Pool
    from curation.signals.vectors.dual_encoder import DualEncoder, EncoderStats

TEXTS = ("answer", "question", "both")
UNITS = ("sentences", "whole")
MAX_SENTENCES = 10
BLOCK = 512
"""Samples whose sentences are sorted by length together."""


class Pair(NamedTuple):
    """Image vector, text vector and score of one sample; None where there is no image or no text."""

    image: np.ndarray | None
    text: np.ndarray | None
    score: float | None


def score_clip(
    pool: "Pool",
    model_dir: Path,
    out: Path,
    *,
    text: str = "answer",
    unit: str = "sentences",
    max_sentences: int = MAX_SENTENCES,
    batch_size: int = 64,
    shard_rows: int = 8192,
    dtype: str = "float32",
    device: str | None = None,
    on_progress: Progress | None = None,
) -> dict[str, Any]:
    """Write the clip signal of a pool to `out`; parts that are complete are kept.

    text: what is compared with the images: "answer", "question" or "both" (of all turns). unit: "sentences"
    of it, or the "whole" as one text. Each is truncated to the encoder's context, and the sentences of a text
    to `max_sentences`; both are counted.
    Returns samples/s, padding efficiency of the sentences, the mean score, rows without a score, and by
    reason the counts of missing values and of truncated texts.
    Raises ValueError for an unknown text or unit, ModelError for a checkpoint that is not a dual encoder.
    """
    from curation.signals.vectors.dual_encoder import DualEncoder, EncoderStats

    check_text(text)
    check_unit(unit)
    encoder, stats = DualEncoder(model_dir, dtype=dtype, device=device), EncoderStats()

    def compute(rows: range, advance: Advance) -> pa.Table:
        pairs = list(
            encode_pairs(encoder, pool.samples(rows), text, unit, max_sentences, batch_size, stats, advance)
        )
        return pa.table(
            {
                "row": pa.array(rows, pa.int32()),
                "clip_score": pa.array([pair.score for pair in pairs], pa.float32()),
                "clip_image": vector_array(*stack_vectors([pair.image for pair in pairs], encoder.dims)),
                "clip_text": vector_array(*stack_vectors([pair.text for pair in pairs], encoder.dims)),
            }
        )

    identity = {
        **encoder.identity("clip", pool.hash),
        "text": text,
        "unit": unit,
        "max_sentences": max_sentences,
        "score": "mean of cosines",  # it was the cosine to the mean's direction in signals without this entry
    }
    counts = write_signal(out, identity, len(pool), compute, shard_rows=shard_rows, on_progress=on_progress)
    signal = read_signal(out, pool.hash)
    scores = signal["clip_score"].drop_null().to_numpy()
    return {
        **stats.summary(),
        **counts,
        "rows": len(signal),
        "rows_missing": signal["clip_score"].null_count,
        "rows_without_image": int((pool.table["n_images"].to_numpy() == 0).sum()),
        "rows_without_text": signal["clip_text"].null_count,
        "mean_score": float(scores.mean(dtype=np.float64)) if len(scores) else None,
    }


def check_text(text: str) -> None:
    """Raises ValueError unless `text` is one of TEXTS."""
    if text not in TEXTS:
        raise ValueError(f"text must be one of {', '.join(TEXTS)}, got {text!r}")


def check_unit(unit: str) -> None:
    """Raises ValueError unless `unit` is one of UNITS."""
    if unit not in UNITS:
        raise ValueError(f"unit must be one of {', '.join(UNITS)}, got {unit!r}")


def text_of(sample: Sample, text: str) -> list[str]:
    """The questions, the answers, or both in order, of all turns, without image placeholders."""
    parts = {"question": ("question",), "answer": ("answer",), "both": ("question", "answer")}[text]
    return [
        getattr(turn, part).replace(IMAGE_PLACEHOLDER, " ").strip() for turn in sample.turns for part in parts
    ]


def sentences_of(texts: Iterable[str]) -> list[str]:
    """Sentences of the texts: they end at . ! ? before a space, and at line ends.

    Those without a letter or digit are dropped.
    """
    pieces = [piece.strip() for text in texts for piece in re.split(r"(?<=[.!?])\s+|\n+", text)]
    return [piece for piece in pieces if re.search(r"\w", piece)]


def whole_text(texts: Iterable[str]) -> list[str]:
    """The texts as one, joined by spaces; no text where none has a letter or digit."""
    whole = " ".join(piece for text in texts for piece in text.split())
    return [whole] if re.search(r"\w", whole) else []


def encode_pairs(
    encoder: "DualEncoder",
    samples: Iterable[Sample],
    text: str,
    unit: str,
    max_sentences: int,
    batch_size: int,
    stats: "EncoderStats",
    advance: Advance,
) -> Iterator[Pair]:
    """One Pair for each sample, in order; missing values and truncated texts are counted in `stats`."""
    from curation.signals.vectors.pictures import image_vectors

    samples = iter(samples)
    while block := list(islice(samples, BLOCK)):
        start = time.perf_counter()
        texts = _text_vectors(encoder, block, text, unit, max_sentences, batch_size, stats)
        images = image_vectors(encoder, block, batch_size, stats)
        stats.seconds += time.perf_counter() - start
        stats.samples += len(block)
        advance(len(block))
        yield from map(_pair, images, texts)


def _pair(images: np.ndarray | None, text: np.ndarray | None) -> Pair:
    """The Pair of unit image vectors [k, d] and the mean of unit sentence vectors [d]."""
    direction = None if text is None else unit_of(text)
    if images is None:
        return Pair(None, direction, None)
    score = None if text is None else float(100 * (images @ text).mean(dtype=np.float64))
    return Pair(unit_of(images.mean(axis=0)), direction, score)


def unit_of(vector: np.ndarray) -> np.ndarray:
    """The vector [d] scaled to length 1; zeros stay zeros."""
    return vector / max(float(np.linalg.norm(vector)), 1e-12)


def _text_vectors(
    encoder: "DualEncoder",
    block: Sequence[Sample],
    text: str,
    unit: str,
    max_sentences: int,
    batch_size: int,
    stats: "EncoderStats",
) -> list[np.ndarray | None]:
    """Mean of the unit vectors of each sample's first sentences; None for a sample without text.

    With the unit "whole" a sample's only sentence is its text.
    """
    split = sentences_of if unit == "sentences" else whole_text
    by_sample = [split(text_of(sample, text)) for sample in block]
    stats.cut["more_sentences"] += sum(len(sentences) > max_sentences for sentences in by_sample)
    stats.missing.update("no_text" for sentences in by_sample if not sentences)
    by_sample = [sentences[:max_sentences] for sentences in by_sample]
    # All sentences of the block in one call, so that batches of similar length can be formed.
    flat = [sentence for sentences in by_sample for sentence in sentences]
    vectors = encoder.texts(flat, batch_size, stats)
    ends = np.cumsum([len(sentences) for sentences in by_sample])
    return [
        vectors[end - len(sentences) : end].mean(axis=0) if sentences else None
        for sentences, end in zip(by_sample, ends, strict=True)
    ]
