"""Embeddings of samples: vectors of their images (emb_image) and of their text (emb_text).

    embed_pool(pool, Path("llava-7b"), Path("signals/embedding"))  # last layer, means over tokens
    embed_pool(pool, Path("tinyllava"), out, variant="coincide", state="attention", layers=[3, 7, 11, 15, 19])
    embed_pool(pool, Path("all-MiniLM-L6-v2"), out, source="sentence", text="question")  # text only

Sources of the vectors:

- "vlm": hidden states of a vision-language model over the whole conversation, averaged over image tokens
  (emb_image) and over all other tokens (emb_text). Several layers are concatenated. The variant "coincide" is
  that of COINCIDE (arXiv 2406.10995): tanh of the states, mean over the tokens, unit length for each layer
  and modality, times 1/sqrt(2 · layers), so that emb_image and emb_text concatenated have length 1; its
  released code reads attention outputs.
- "sentence": a sentence-transformers encoder on the text of all turns; emb_text only. Texts are truncated to
  its context, and counted.
- "clip": both towers of a dual encoder, as in the signal `clip`.

emb_image is null for text-only samples; both are null for samples that cannot be rendered, whose images
cannot be decoded, or whose states overflow float16.
"""

import hashlib
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa

from curation.signals.core.batches import batches_by_tokens
from curation.signals.core.table import Advance, Progress, read_signal, write_signal
from curation.signals.core.vector_files import stack_vectors, vector_array
from curation.signals.vectors.clip import MAX_SENTENCES, check_text, encode_pairs, text_of

if TYPE_CHECKING:
    import torch

    from curation.pool.read import Pool
    from curation.signals.core.vlm import PassStats, Vlm
    from training.render import Encoded

SOURCES = ("vlm", "sentence", "clip")
VARIANTS = ("mean", "coincide")
STATES = ("hidden", "attention")


class LayerError(ValueError):
    """A layer that the model does not have, or a model whose layers cannot be found."""


class Source(NamedTuple):
    """An opened source of vectors: identity of the signal, function that computes a shard, statistics."""

    identity: dict[str, Any]
    compute: Callable[[range, Advance], pa.Table]
    stats: "PassStats"


def embed_pool(
    pool: "Pool",
    model_dir: Path,
    out: Path,
    *,
    source: str = "vlm",
    layers: Sequence[int] = (-1,),
    state: str = "hidden",
    variant: str = "mean",
    text: str = "both",
    max_tokens: int = 2048,
    batch_size: int = 64,
    shard_rows: int = 8192,
    dtype: str = "float32",
    device: str | None = None,
    on_progress: Progress | None = None,
) -> dict[str, Any]:
    """Write the embedding signal of a pool to `out`; parts that are complete are kept.

    source "vlm": `layers` of the decoder, from 0, negative from the end; `state`, their "hidden" output (of
    the last layer after the final norm) or that of their "attention"; `variant`, "mean" or "coincide";
    max_tokens, padded tokens in a batch. source "sentence" and "clip": `text`, the "question", the "answer"
    or "both" of all turns; batch_size, texts or images in a batch.

    Returns samples/s, padding efficiency, dims, rows without vectors by column and by reason; for texts also
    the number of truncated ones.
    Raises LayerError, ValueError for an unknown setting, ImportError with a hint where sentence-transformers
    is missing.
    """
    for name, value, known in (
        ("source", source, SOURCES),
        ("state", state, STATES),
        ("variant", variant, VARIANTS),
    ):
        if value not in known:
            raise ValueError(f"{name} must be one of {', '.join(known)}, got {value!r}")
    check_text(text)
    if source == "vlm":
        opened = _from_vlm(pool, model_dir, list(layers), state, variant, max_tokens, dtype, device)
    elif source == "clip":
        opened = _from_clip(pool, model_dir, text, batch_size, dtype, device)
    elif dtype != "float32":
        raise ValueError(f"sentence encoders compute in float32, got dtype {dtype!r}")
    else:
        opened = _from_sentences(pool, model_dir, text, batch_size, device)
    identity, compute, stats = opened
    counts = write_signal(out, identity, len(pool), compute, shard_rows=shard_rows, on_progress=on_progress)
    signal = read_signal(out, pool.hash)
    columns = [name for name in ("emb_image", "emb_text") if name in signal.column_names]
    return {
        **stats.summary(),
        **counts,
        "rows": len(signal),
        "dims": {name: signal[name].type.list_size for name in columns},
        "nulls": {name: signal[name].null_count for name in columns},
    }


def _from_vlm(
    pool: "Pool",
    path: Path,
    layers: list[int],
    state: str,
    variant: str,
    max_tokens: int,
    dtype: str,
    device: str | None,
) -> Source:
    from curation.signals.core.vlm import PassStats, Vlm

    vlm, stats = Vlm(path, dtype=dtype, device=device), PassStats()
    chosen = resolve_layers(layers, len(decoder_layers(vlm.model)))

    def compute(rows: range, advance: Advance) -> pa.Table:
        values = vlm.run(
            pool.samples(rows),
            encode=vlm.renderer.encode,
            make_batches=partial(batches_by_tokens, max_tokens=max_tokens),
            score=partial(pooled_states, vlm, layers=chosen, state=state, variant=variant),
            stats=stats,
            advance=advance,
        )
        pairs = [_finite(value, stats) if value else (None, None) for value in values]
        return _table(rows, pairs, len(chosen) * vlm.model.config.text_config.hidden_size)

    identity = {**vlm.identity("embeddings", pool.hash), "layers": chosen, "state": state, "variant": variant}
    return Source(identity, compute, stats)


def pooled_states(
    vlm: "Vlm", examples: Sequence["Encoded"], *, layers: Sequence[int], state: str, variant: str
) -> list[tuple[np.ndarray | None, np.ndarray]]:
    """(image vector or None, text vector) of every example, each float32 [layers · hidden size]."""
    import torch

    batch = vlm.batch(examples)
    image = batch["input_ids"] == vlm.renderer.image_id
    text = batch["attention_mask"].bool() & ~image
    with captured(vlm.model, layers, state) as outputs:
        after_norm = vlm.hidden(batch)
    # The last block's output lacks the decoder's final norm, which the model's last hidden state includes.
    last = len(decoder_layers(vlm.model)) - 1
    states = [after_norm if state == "hidden" and layer == last else outputs[layer] for layer in layers]
    pooled = [
        torch.cat([_pool(layer, mask, variant, len(layers)) for layer in states], dim=1).cpu().numpy()
        for mask in (image, text)
    ]
    has_image = image.any(dim=1).tolist()
    return [(pooled[0][i] if has_image[i] else None, pooled[1][i]) for i in range(len(examples))]


def _pool(states: "torch.Tensor", mask: "torch.Tensor", variant: str, layers: int) -> "torch.Tensor":
    """float32 [B, H]: the variant's mean of states [B, T, H] where mask [B, T] is set; 0 if it is nowhere."""
    import torch

    states = states.float().tanh() if variant == "coincide" else states.float()
    mean = (states * mask[..., None]).sum(dim=1) / mask.sum(dim=1, keepdim=True).clamp(min=1)
    if variant == "coincide":
        return torch.nn.functional.normalize(mean, dim=1) / math.sqrt(2 * layers)
    return mean


def decoder_layers(model: Any) -> Sequence[Any]:
    """The blocks of a vision-language model's decoder. Raises LayerError where they are in another place."""
    decoder = getattr(getattr(model, "model", model), "language_model", None)
    if decoder is None or not hasattr(decoder, "layers"):
        raise LayerError(
            f"{type(model).__name__} has no model.language_model.layers: "
            "its hidden states cannot be read by layer"
        )
    return decoder.layers


def resolve_layers(layers: Sequence[int], count: int) -> list[int]:
    """Layer numbers from 0, of `count` layers.

    Raises LayerError for a number out of range, and for none at all.
    """
    if not layers or any(not -count <= layer < count for layer in layers):
        raise LayerError(
            f"layers must be from 0 (or -{count}) to {count - 1} (or -1), "
            f"the model has {count}; got {list(layers)}"
        )
    return [layer % count for layer in layers]


@contextmanager
def captured(model: Any, layers: Sequence[int], state: str) -> Iterator[dict[int, Any]]:
    """Inside the block, a dictionary of the layers' outputs in the last forward pass: {layer: [B, T, H]}."""
    outputs: dict[int, Any] = {}

    def keep(layer: int, _module: Any, _inputs: Any, output: Any) -> None:
        outputs[layer] = output[0] if isinstance(output, tuple) else output

    blocks = decoder_layers(model)
    targets = [
        (layer, blocks[layer].self_attn if state == "attention" else blocks[layer]) for layer in layers
    ]
    hooks = [module.register_forward_hook(partial(keep, layer)) for layer, module in targets]
    try:
        yield outputs
    finally:
        for hook in hooks:
            hook.remove()


def _from_clip(
    pool: "Pool", path: Path, text: str, batch_size: int, dtype: str, device: str | None
) -> Source:
    from curation.signals.vectors.dual_encoder import DualEncoder, EncoderStats

    encoder, stats = DualEncoder(path, dtype=dtype, device=device), EncoderStats()

    def compute(rows: range, advance: Advance) -> pa.Table:
        pairs = encode_pairs(encoder, pool.samples(rows), text, MAX_SENTENCES, batch_size, stats, advance)
        return _table(rows, [(pair.image, pair.text) for pair in pairs], encoder.dims)

    identity = {**encoder.identity("embeddings", pool.hash), "text": text, "max_sentences": MAX_SENTENCES}
    return Source(identity, compute, stats)


def _from_sentences(pool: "Pool", path: Path, text: str, batch_size: int, device: str | None) -> Source:
    from curation.signals.vectors.dual_encoder import EncoderStats

    try:
        from sentence_transformers import SentenceTransformer
    except ImportError as error:
        raise ImportError(
            "sentence embeddings need sentence-transformers: pip install winnow[sentence]"
        ) from error
    encoder, stats = SentenceTransformer(str(path), device=device), EncoderStats()
    dims = len(encoder.encode("a", show_progress_bar=False))

    def compute(rows: range, advance: Advance) -> pa.Table:
        start = time.perf_counter()
        texts = ["\n".join(text_of(sample, text)).strip() for sample in pool.samples(rows)]
        given = [text for text in texts if text]
        stats.missing.update("no_text" for text in texts if not text)
        stats.cut["long_text"] += _too_long(encoder, given)
        encoded = iter(
            encoder.encode(given, batch_size=batch_size, convert_to_numpy=True, show_progress_bar=False)
        )
        vectors = [next(encoded) if text else None for text in texts]
        stats.samples += len(rows)
        stats.seconds += time.perf_counter() - start
        advance(len(rows))
        column = vector_array(*stack_vectors(vectors, dims))
        return pa.table({"row": pa.array(rows, pa.int32()), "emb_text": column})

    identity = {
        "producer": "embeddings",
        "pool_hash": pool.hash,
        "model_hash": _directory_hash(path),
        "text": text,
        "device": str(encoder.device.type),
        "versions": {name: version(name) for name in ("sentence-transformers", "torch", "transformers")},
    }
    return Source(identity, compute, stats)


def _too_long(encoder: Any, texts: Sequence[str]) -> int:
    """Number of texts that a sentence encoder truncates; static embeddings have no limit."""
    limit = encoder.max_seq_length
    if not texts or limit is None or math.isinf(limit):
        return 0
    return sum(len(ids) > limit for ids in encoder.tokenizer(list(texts), verbose=False)["input_ids"])


def _directory_hash(path: Path) -> str:
    """sha256 over all files of a sentence-transformers directory and its subfolders, but no Markdown."""
    files = sorted(file for file in Path(path).rglob("*") if file.is_file() and file.suffix != ".md")
    if not files:
        raise FileNotFoundError(f"{path} is not a model directory: it holds no files")
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.relative_to(path).as_posix().encode() + b"\0")
        with file.open("rb") as handle:
            digest.update(hashlib.file_digest(handle, "sha256").digest())
    return digest.hexdigest()


def _finite(
    pair: tuple[np.ndarray | None, np.ndarray], stats: "PassStats"
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """The pair, or (None, None), counted as `not_finite`, where a vector is not finite in float16."""
    # Written as <=, so that NaN fails.
    if all(np.abs(vector).max() <= np.finfo(np.float16).max for vector in pair if vector is not None):
        return pair
    stats.missing["not_finite"] += 1
    return None, None


def _table(
    rows: Sequence[int], pairs: Sequence[tuple[np.ndarray | None, np.ndarray | None]], dims: int
) -> pa.Table:
    image, text = (vector_array(*stack_vectors([pair[k] for pair in pairs], dims)) for k in (0, 1))
    return pa.table({"row": pa.array(rows, pa.int32()), "emb_image": image, "emb_text": text})
