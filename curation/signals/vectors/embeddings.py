"""Named embeddings of samples: vectors of the whole sample, its first image or its text, as emb_<name>.

    embed_pool(pool, Path("llava-7b"), out, name="last_token", pooling="last")
    embed_pool(pool, Path("dinov2-base"), out, preset="dino")  # the column emb_dino, PreSel's settings
    embed_pool(pool, Path("MiniLM"), out, name="question", kind="sentence", text="question")

Kinds:

- "states": states of a vision-language model's decoder over the whole conversation (states.py); one vector,
  or two for the tokens "halves" and "halves_after_image": emb_<name>_image and emb_<name>_text.
- "vision": an image encoder such as DINOv2 on the first image (vision.py).
- "sentence": a sentence encoder on the first instruction, or on other text of the sample (sentence.py).
- "clip": both towers of a dual encoder (CLIP, SigLIP); `part`: "image" (unit mean over the images), "text",
  "pair" (image and text side by side, each of unit length) or "turns" (image and the mean of the turns'
  unit vectors, together of unit length: OnceSelect, arXiv 2605.26761). A text that is longer than the
  encoder's context is truncated, and counted.

A vector is null, and counted, where the sample has no image but the vector needs one, no text, a text that
cannot be rendered, an image that cannot be decoded, or values beyond float16.
"""

import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa

from curation.signals.core.batches import batches_by_tokens
from curation.signals.core.table import Advance, Progress, read_signal, write_signal
from curation.signals.core.vector_files import stack_vectors, vector_array
from curation.signals.vectors.clip import text_of, unit_of
from curation.signals.vectors.presets import columns_of, embedding_settings

if TYPE_CHECKING:
    from curation.pool.read import Pool
    from curation.pool.sample import Sample
    from curation.signals.core.vlm import PassStats
    from curation.signals.vectors.dual_encoder import DualEncoder, EncoderStats

BLOCK = 512
"""Samples whose texts are sorted by length together."""
Vectors = tuple[np.ndarray | None, ...]
"""The vectors of one sample, one for each column."""


class Source(NamedTuple):
    """An opened source of vectors: identity of the signal, dims, function of a shard's rows, statistics."""

    identity: dict[str, Any]
    dims: int
    compute: Callable[[range, Advance], list[Vectors]]
    stats: "PassStats"


def embed_pool(
    pool: "Pool",
    model_dir: Path,
    out: Path,
    *,
    name: str | None = None,
    preset: str | None = None,
    kind: str | None = None,
    layers: Sequence[int] | None = None,
    state: str | None = None,
    tokens: str | None = None,
    pooling: str | None = None,
    squash: str | None = None,
    unit: bool | None = None,
    first_tokens: int | None = None,
    text: str | None = None,
    part: str | None = None,
    max_tokens: int = 2048,
    batch_size: int = 64,
    shard_rows: int = 8192,
    dtype: str = "float32",
    device: str | None = None,
    on_progress: Progress | None = None,
) -> dict[str, Any]:
    """Write the embedding signal of a pool to `out`; parts that are complete are kept.

    name: of the columns; default: the preset's, or "states", "vision", ... preset: one of presets.yaml, whose
    settings those given here replace. kind: "states" (default), "vision", "sentence" or "clip". For "states":
    `layers` of the decoder from 0, negative from the end (default: the last), `state`, `tokens`, `pooling`,
    `squash`, `unit` and `first_tokens` as in `states.pooled_states`; max_tokens, padded tokens in a batch.
    "vision": `pooling`, "cls" (default), "mean" or "pooler". "sentence" and "clip": `text`, the
    "first_instruction" (sentence's default), or of all turns the "question", the "answer" or "both" (clip's);
    "clip": `part`. batch_size: texts or images in a batch.

    Returns samples/s, padding efficiency, dims, rows without vectors by column and by reason; where texts or
    tokens are cut also their number. Raises LayerError, ModelError, ValueError for an unknown setting,
    ImportError with a hint where sentence-transformers is missing.
    """
    settings = embedding_settings(
        {
            "preset": preset,
            "kind": kind,
            "layers": layers,
            "state": state,
            "tokens": tokens,
            "pooling": pooling,
            "squash": squash,
            "unit": unit,
            "first_tokens": first_tokens,
            "text": text,
            "part": part,
        }
    )
    columns = columns_of(name or preset or settings["kind"], settings)
    opened = _open(pool, model_dir, settings, max_tokens, batch_size, dtype, device)
    identity = {**opened.identity, "columns": list(columns)}

    def compute(rows: range, advance: Advance) -> pa.Table:
        vectors = opened.compute(rows, advance)
        parts = [[sample[k] for sample in vectors] for k in range(len(columns))]
        arrays = [vector_array(*stack_vectors(part, opened.dims)) for part in parts]
        return pa.table({"row": pa.array(rows, pa.int32()), **dict(zip(columns, arrays, strict=True))})

    counts = write_signal(out, identity, len(pool), compute, shard_rows=shard_rows, on_progress=on_progress)
    signal = read_signal(out, pool.hash)
    return {
        **opened.stats.summary(),
        **counts,
        "rows": len(signal),
        "dims": {column: signal[column].type.list_size for column in columns},
        "nulls": {column: signal[column].null_count for column in columns},
    }


def _open(
    pool: "Pool",
    path: Path,
    settings: dict[str, Any],
    max_tokens: int,
    batch_size: int,
    dtype: str,
    device: str | None,
) -> Source:
    kind = settings["kind"]
    if kind == "states":
        return _from_states(pool, path, settings, max_tokens, dtype, device)
    if kind == "vision":
        return _from_vision(pool, path, settings, batch_size, dtype, device)
    if kind == "clip":
        return _from_clip(pool, path, settings, batch_size, dtype, device)
    if dtype != "float32":
        raise ValueError(f"sentence encoders compute in float32, got dtype {dtype!r}")
    return _from_sentences(pool, path, settings, batch_size, device)


def _from_states(
    pool: "Pool", path: Path, settings: dict[str, Any], max_tokens: int, dtype: str, device: str | None
) -> Source:
    from curation.signals.core.vlm import Vlm
    from curation.signals.vectors.decoder import decoder_layers, resolve_layers
    from curation.signals.vectors.dual_encoder import EncoderStats
    from curation.signals.vectors.states import pooled_states

    vlm, stats = Vlm(path, dtype=dtype, device=device), EncoderStats()
    chosen = resolve_layers(settings["layers"], len(decoder_layers(vlm.model)))
    resolved = {**settings, "layers": chosen}
    options = {key: value for key, value in resolved.items() if key != "kind"}
    limit, parts = settings["first_tokens"], len(columns_of("", settings))

    def score(examples: Sequence[Any]) -> list[Vectors]:
        stats.cut["first_tokens"] += sum(limit is not None and len(example) > limit for example in examples)
        return list(pooled_states(vlm, examples, **options))

    def compute(rows: range, advance: Advance) -> list[Vectors]:
        values = vlm.run(
            pool.samples(rows),
            encode=vlm.renderer.encode,
            make_batches=partial(batches_by_tokens, max_tokens=max_tokens),
            score=score,
            stats=stats,
            advance=advance,
        )
        none: Vectors = (None,) * parts
        return [_finite(value, stats) if value else none for value in values]

    identity = {**vlm.identity("embeddings", pool.hash), **resolved}
    dims = len(chosen) * vlm.model.config.text_config.hidden_size
    return Source(identity, dims * (2 if settings["pooling"] == "attention_pair" else 1), compute, stats)


def _from_vision(
    pool: "Pool", path: Path, settings: dict[str, Any], batch_size: int, dtype: str, device: str | None
) -> Source:
    from curation.signals.core.vlm import PassStats
    from curation.signals.vectors.pictures import image_vectors
    from curation.signals.vectors.vision import VisionEncoder

    encoder = VisionEncoder(path, pooling=settings["pooling"], dtype=dtype, device=device)
    stats = PassStats()

    def encode(block: Sequence["Sample"]) -> list[Vectors]:
        images = image_vectors(encoder, block, batch_size, stats, most=1)
        return [_finite((None if own is None else own[0],), stats) for own in images]

    identity = {**encoder.identity("embeddings", pool.hash), **settings}
    return Source(identity, encoder.dims, _in_blocks(pool, encode, stats), stats)


def _from_sentences(
    pool: "Pool", path: Path, settings: dict[str, Any], batch_size: int, device: str | None
) -> Source:
    from curation.signals.vectors.dual_encoder import EncoderStats
    from curation.signals.vectors.sentence import open_sentence_encoder

    encoder, stats = open_sentence_encoder(path, device), EncoderStats()

    def encode(block: Sequence["Sample"]) -> list[Vectors]:
        texts = ["\n".join(texts_of(sample, settings["text"])).strip() for sample in block]
        return [_finite((vector,), stats) for vector in _text_vectors(encoder, texts, batch_size, stats)]

    identity = {**encoder.identity("embeddings", pool.hash), **settings}
    return Source(identity, encoder.dims, _in_blocks(pool, encode, stats), stats)


def _from_clip(
    pool: "Pool", path: Path, settings: dict[str, Any], batch_size: int, dtype: str, device: str | None
) -> Source:
    from curation.signals.vectors.dual_encoder import DualEncoder, EncoderStats
    from curation.signals.vectors.pictures import image_vectors

    encoder, stats = DualEncoder(path, dtype=dtype, device=device), EncoderStats()
    part = settings["part"]

    def encode(block: Sequence["Sample"]) -> list[Vectors]:
        nothing: list[None] = [None] * len(block)
        images = nothing if part == "text" else image_vectors(encoder, block, batch_size, stats)
        texts = nothing if part == "image" else _clip_texts(encoder, block, settings, batch_size, stats)
        vectors = [(_clip_vector(part, own, words),) for own, words in zip(images, texts, strict=True)]
        return [_finite(vector, stats) for vector in vectors]

    identity = {**encoder.identity("embeddings", pool.hash), **settings}
    dims = encoder.dims * (2 if part in ("pair", "turns") else 1)
    return Source(identity, dims, _in_blocks(pool, encode, stats), stats)


def _clip_texts(
    encoder: "DualEncoder",
    block: Sequence["Sample"],
    settings: dict[str, Any],
    batch_size: int,
    stats: "EncoderStats",
) -> list[np.ndarray | None]:
    """Unit vector of each sample's whole text; for the part "turns", the mean of its turns' unit vectors."""
    text = settings["text"]
    if settings["part"] != "turns":
        texts = ["\n".join(texts_of(sample, text)).strip() for sample in block]
        return _text_vectors(encoder, texts, batch_size, stats)
    by_sample = [turn_texts(sample, text) for sample in block]
    flat = _text_vectors(encoder, [turn for turns in by_sample for turn in turns], batch_size, stats)
    vectors = iter(flat)
    own = [[vector for vector in islice(vectors, len(turns)) if vector is not None] for turns in by_sample]
    return [np.mean(turns, axis=0) if turns else None for turns in own]


def _clip_vector(part: str, images: np.ndarray | None, text: np.ndarray | None) -> np.ndarray | None:
    """A part of unit image vectors [k, d] and a text vector [d]; None where it lacks one that it needs."""
    if part == "text":
        return text
    image = None if images is None else unit_of(images.mean(axis=0))
    if part == "image" or image is None:
        return image
    if text is None:
        return None
    both = np.concatenate([image, text])
    return unit_of(both) if part == "turns" else both


def _text_vectors(
    encoder: Any, texts: Sequence[str], batch_size: int, stats: "EncoderStats"
) -> list[np.ndarray | None]:
    """The vector of each text; None, counted as `no_text`, for an empty one."""
    given = [text for text in texts if text]
    stats.missing.update("no_text" for text in texts if not text)
    encoded = iter(encoder.texts(given, batch_size, stats))
    return [next(encoded) if text else None for text in texts]


def texts_of(sample: "Sample", text: str) -> list[str]:
    """The texts of a sample in order, without image placeholders: of all turns, or the first instruction."""
    if text == "first_instruction":
        return text_of(sample, "question")[:1]
    return text_of(sample, text)


def turn_texts(sample: "Sample", text: str) -> list[str]:
    """One text for each turn of a sample: question and answer on a line each, or one of them."""
    texts = texts_of(sample, text)
    step = 2 if text == "both" else 1
    return ["\n".join(texts[at : at + step]).strip() for at in range(0, len(texts), step)]


def _in_blocks(
    pool: "Pool", encode: Callable[[Sequence["Sample"]], list[Vectors]], stats: "PassStats"
) -> Callable[[range, Advance], list[Vectors]]:
    """A function that encodes a shard's samples in blocks, timed and counted in `stats`."""

    def compute(rows: range, advance: Advance) -> list[Vectors]:
        samples, vectors = iter(pool.samples(rows)), []
        while block := list(islice(samples, BLOCK)):
            start = time.perf_counter()
            vectors += encode(block)
            stats.seconds += time.perf_counter() - start
            stats.samples += len(block)
            advance(len(block))
        return vectors

    return compute


def _finite(vectors: Vectors, stats: "PassStats") -> Vectors:
    """The vectors, or Nones, counted as `not_finite`, where one of them is not finite in float16."""
    # Written as <=, so that NaN fails.
    if all(np.abs(vector).max() <= np.finfo(np.float16).max for vector in vectors if vector is not None):
        return vectors
    stats.missing["not_finite"] += 1
    return (None,) * len(vectors)
