"""Small tables for tests of selectors: every column, many ties, several styles per row, missing values."""

import hashlib

import numpy as np
import pyarrow as pa

CAPABILITIES = ("spatial", "ocr", "logic")
STYLE_NAMES = ("yes_no", "word", "multi_choice", "other")

CASES = [
    ("all", {}),
    ("random", {}),
    ("random_balanced", {}),
    ("top_k", {"column": "nll"}),
    ("top_k", {"column": "cap_ocr", "order": "ascending"}),
    ("mllm_selector", {}),
    ("mllm_selector", {"tau": 0.1, "strata": 3}),
    ("mllm_selector", {"tau": float("inf")}),
    ("mllm_selector", {"necessity": "delta", "strata_by": "cluster_text", "exclude_seed": True}),
    ("mllm_selector", {"necessity": "visual", "diversity": "farthest"}),
    ("mllm_selector", {"diversity": "mmd", "vectors": ["clip_text", "emb_text"], "strata": 2}),
    ("mllm_selector", {"necessity": "answer", "diversity": "kl"}),
    ("instructiongpt4", {}),
    ("instructiongpt4", {"quota": "remainders"}),
    ("instructiongpt4", {"cluster": "text", "over": 1.0, "text_only": "keep"}),
    *(("mmssr", {"bins": bins}) for bins in ("none", "source", "style", "style_x_source")),
    ("mmssr", {"score": "expected", "order": "scarce_first"}),
    ("mmssr", {"threshold": 4, "fill": "random"}),
    ("mmssr", {"capabilities": ["ocr", "spatial"], "fill": "none"}),
    ("mmssr_official", {}),
    ("mmssr_official", {"capabilities": ["ocr", "spatial"], "threshold": 2}),
    ("matched_random", {}),
    ("matched_random", {"match": ["source", "length", "image_tokens"], "bins": 3}),
    ("token_matched", {}),
    ("length", {}),
    ("length", {"column": "answer_tokens", "rule": "mid"}),
    ("band", {"column": "base_nll", "low": 0.2, "high": 0.9}),
    ("quota_by_group", {}),
    (
        "quota_by_group",
        {
            "group": ["source", "cluster_text"],
            "allocation": "equal",
            "pick": "farthest",
            "vectors": "emb_text",
        },
    ),
    (
        "quota_by_group",
        {"allocation": "softmax", "stat": "base_nll", "tau": 0.5, "pick": "soft_sample", "score": "el2n"},
    ),
    (
        "quota_by_group",
        {
            "allocation": "explicit",
            "group": "task",
            "shares": {"vqa": 3},
            "pick": "bottom",
            "score": "margin",
        },
    ),
    (
        "quota_by_group",
        {
            "group": "cluster_spectral",
            "pick": "mmd",
            "vectors": ["clip_image", "clip_text"],
            "text_only": "keep",
        },
    ),
    ("perplexity", {}),
    ("perplexity", {"rule": "top", "model": "seed"}),
    ("el2n", {}),
    ("aum", {}),
    ("aum", {"rule": "bottom", "model": "seed"}),
    ("grand", {}),
    ("grand", {"rule": "mid"}),
    ("self_sup", {}),
    ("self_sup", {"cluster": "text", "keep": "easy", "text_only": "keep"}),
    ("typiclust", {}),
    ("typiclust", {"cluster": "text", "vectors": "emb_text", "neighbours": 2, "smallest": 1}),
    ("ifd", {}),
    ("ifd", {"model": "base", "highest": float("inf")}),
    ("visnec", {}),
    ("visnec", {"model": "seed", "cluster": "spectral", "text_only": "keep"}),
    ("visnec", {"variant": "clean", "text_only": "exclude"}),
    ("cvs", {}),
    ("cvs", {"shift": "ratio", "above": float("-inf"), "text_only": "keep"}),
    ("clip_score", {}),
    ("clip_score", {"rule": "mid", "text_only": "keep"}),
    ("deita", {}),
    ("deita", {"variant": "clean", "threshold": 0.95, "fill": "score"}),
    ("deita", {"threshold": 0.5, "vectors": ["emb_image", "emb_text"], "within": "text", "fill": "score"}),
    ("semdedup", {}),
    ("semdedup", {"variant": "clean", "text_only": "keep"}),
    ("semdedup", {"vectors": "clip_text", "cluster": "text", "keep": "random", "text_only": "exclude"}),
    ("d2", {}),
    ("d2", {"variant": "clean", "text_only": "keep"}),
    ("d2", {"edges": "symmetrised", "distance": "euclidean", "neighbours": 3}),
    ("d2", {"mode": "product", "vectors": "emb_text", "within": "text", "neighbours": 2, "text_only": None}),
    ("coincide", {}),
    ("coincide", {"variant": "clean"}),
    ("coincide", {"cluster": "text", "vectors": "emb_text", "tau": 2.0, "text_only": None}),
    ("datatailor", {}),
    ("datatailor", {"normalise": "none", "vectors": "emb_text", "cluster": "text", "text_only": "keep"}),
    ("prism", {}),
    ("prism", {"correlation": "pearson", "text_only": "keep"}),
    ("prism", {"vectors": "emb_text", "text_only": None}),
    ("scalselect", {}),
    ("scalselect", {"text_only": "keep"}),
    ("ards", {}),
    ("ards", {"hard": 2, "similarity": "mean", "text_only": "keep"}),
    ("presel", {"reference": None}),
    ("presel", {"variant": "clean", "reference": None, "text_only": None}),
    ("presel", {"reference": None, "temperature": 5.0, "neighbours": 1, "text_only": "keep"}),
    ("icons", {}),
    ("icons", {"variant": "clean", "unnormalised": ["vqa"]}),
    ("icons", {"percent": 30, "tasks": ["vqa", "ocr"]}),
    ("less", {}),
    ("less", {"variant": "clean"}),
    ("less", {"adam": False, "tasks": ["vqa", "chart"]}),
    ("rds", {}),
    ("rds", {"tasks": ["vqa"]}),
    ("seed", {}),
    ("seed", {"neighbours": 2, "least": 0.3, "tasks": ["ocr"], "within": "text"}),
    ("ost", {}),
    ("tive", {}),
    ("tive", {"scale": 2.0, "text_only": "keep"}),
    ("self_filter", {}),
    ("self_filter", {"vectors": "emb_text", "within": "text", "neighbours": 2, "text_only": None}),
    ("coido", {}),
    ("coido", {"text_only": "exclude"}),
    ("once_select", {}),
    ("once_select", {"vectors": "emb_text", "cluster": "text", "over": 3.0, "block": 5, "text_only": None}),
]
"""Every selector, with parameters that take different paths through it."""


def random_table(seed: int, n: int, missing: float = 0.1, width: int = 5) -> pa.Table:
    """row, id, source and every signal column; `missing`: share of nulls; `width`: length of vectors."""
    rng = np.random.default_rng(seed)
    columns: dict[str, pa.Array] = {
        "row": pa.array(np.arange(n), pa.int32()),
        "id": pa.array([f"s{i:03d}é" for i in rng.permutation(n)]),
        "source": pa.array([f"src{int(x)}" for x in rng.geometric(0.5, n)]),
        "styles": pa.array([_styles(rng, missing) for _ in range(n)], pa.list_(pa.string())),
        "nll": pa.array(np.round(rng.gamma(2.0, 1.0, n), 1), mask=rng.random(n) < missing),
    }
    for key in CAPABILITIES:
        level = rng.choice(6, n, p=[0.5, 0.1, 0.1, 0.1, 0.1, 0.1])
        gone = rng.random(n) < missing
        columns[f"cap_{key}"] = pa.array(level.astype(np.int8), mask=gone)
        expected = np.clip(level + rng.choice([-0.25, 0.0, 0.25], n), 0, 5).astype(np.float32)
        columns[f"exp_{key}"] = pa.array(expected, mask=gone | (rng.random(n) < missing))
    return pa.table(columns | _signals(np.random.default_rng([seed, 1]), n, missing, width))


def _signals(rng: np.random.Generator, n: int, missing: float, width: int) -> dict[str, pa.Array]:
    """The pool's counts and every other signal; values are rounded, so that many rows are equal."""
    images = rng.choice([0, 1, 2], n, p=[0.2, 0.7, 0.1])
    text_only = images == 0

    def some(values, image_only=False):
        gone = (rng.random(n) < missing) | (text_only & image_only)
        return pa.array(values.astype(np.int32 if values.dtype.kind == "i" else np.float32), mask=gone)

    found = {
        "n_images": pa.array(images, pa.int32()),
        "text_tokens": pa.array(rng.integers(1, 12, n), pa.int32()),
        "image_tokens": pa.array(images * 16, pa.int32()),
        "clip_score": some(np.round(rng.normal(0.2, 0.1, n), 1), image_only=True),
        "in_reference": pa.array((rng.random(n) < 0.3) | (np.arange(n) == 0)),
        "task": pa.array(np.where(np.arange(n) == 0, "vqa", rng.choice(["vqa", "ocr"], n))),
        "in_seed": pa.array(rng.random(n) < 0.05),
        "grad": _vectors(rng, n, missing, width),
        "value": some(np.round(rng.normal(0, 1, n), 1)),
        "answer_score": some(np.round(rng.random(n), 1)),
    }
    for prefix in ("", "base_"):
        if prefix:
            found[f"{prefix}nll"] = some(np.round(rng.gamma(2.0, 1.0, n), 1))
        found[f"{prefix}el2n"] = some(np.round(rng.random(n) * 1.4, 1))
        found[f"{prefix}margin"] = some(np.round(rng.normal(0, 3, n)))
        found[f"{prefix}answer_tokens"] = some(rng.integers(1, 9, n))
        for name in ("nll_noimg", "nll_noq", "nll_a"):
            found[f"{prefix}{name}"] = some(
                np.round(rng.gamma(3.0, 1.0, n), 1), image_only=name == "nll_noimg"
            )
    for name in ("reward", "judge", "complexity", "quality", "grad_norm"):
        found[name] = some(np.round(rng.gamma(2.0, 1.0, n)))
    for task in ("vqa", "ocr", "chart"):
        found[f"influence_{task}"] = some(np.round(rng.normal(0, 1, n), 1))
    for name in ("emb_image", "emb_text", "clip_image", "clip_text"):
        found[name] = _vectors(rng, n, missing, width, text_only if name.endswith("image") else None)
    for name in ("activation", "text", "image", "spectral"):
        found[f"cluster_{name}"] = some(rng.integers(0, 4, n), image_only=name in ("activation", "image"))
        found[f"similarity_{name}"] = some(
            np.round(rng.random(n), 1), image_only=name in ("activation", "image")
        )
    for name in ("tanh_attention_image", "tanh_attention_text", "dino", "last_token", "token_mean"):
        gone = text_only if name in ("tanh_attention_image", "tanh_attention_text", "dino") else None
        found[f"emb_{name}"] = _vectors(rng, n, missing, width, gone)
    for name in ("coincide", "semdedup", "presel", "visnec", "instructiongpt4"):
        image_only = name in ("coincide", "presel", "instructiongpt4")
        found[f"cluster_{name}"] = some(rng.integers(0, 4, n), image_only=image_only)
        found[f"similarity_{name}"] = some(np.round(rng.random(n), 1), image_only=image_only)
    for task in ("vqa", "ocr", "chart"):
        found[f"adam_influence_{task}"] = some(np.round(rng.normal(0, 1, n), 1))
        found[f"raw_influence_{task}"] = some(np.round(rng.normal(0, 1, n), 1))
        found[f"clean_adam_influence_{task}"] = some(np.round(rng.normal(0, 1, n), 1))
    found["deita_score"] = some(np.round(rng.gamma(2.0, 3.0, n)))
    found["n_turns"] = pa.array(rng.integers(1, 4, n), pa.int32())
    for name in ("filter_score", "coido_score", "once_confidence"):
        found[name] = some(np.round(rng.normal(0, 1, n), 1), image_only=True)
    for name in ("emb_clip_pair", "emb_clip_turns"):
        found[name] = _vectors(rng, n, missing, width, text_only)
    found["cluster_once_select"] = some(rng.integers(0, 4, n), image_only=True)
    for name in ("valid_with", "valid_without"):
        found[name] = some(np.round(rng.random(n), 1))
    for name in ("self_sup", "typiclust"):
        found[f"cluster_{name}"] = some(rng.integers(0, 4, n))
        found[f"similarity_{name}"] = some(np.round(rng.random(n), 1))
    return found | _states(rng, n, missing, width, text_only) | _targets(rng, n, missing, width)


def _targets(rng: np.random.Generator, n: int, missing: float, width: int) -> dict[str, pa.Array]:
    """Columns of the targeted methods: similarities to queries, influences in a subspace, gains of a step."""
    found = {"adam_mean_grad": _vectors(rng, n, missing, width)}
    for name in ("masked_influence_vqa", "masked_influence_ocr", "step_gain"):
        values = np.round(rng.normal(0, 1, n), 1).astype(np.float32)
        found[name] = pa.array(values, mask=rng.random(n) < missing)
    for task in ("vqa", "ocr", "chart"):
        lists, gone = np.round(rng.random((n, 3)), 1).tolist(), rng.random(n) < missing
        lists = [None if lost else own for own, lost in zip(lists, gone, strict=True)]
        found[f"rds_{task}"] = pa.array(lists, pa.list_(pa.float32()))
    return found


def _states(
    rng: np.random.Generator, n: int, missing: float, width: int, text_only: np.ndarray
) -> dict[str, pa.Array]:
    """Columns of the methods that read states of tokens, losses under perturbation and attention."""

    def some(values, image_only=False):
        gone = (rng.random(n) < missing) | (text_only & image_only)
        return pa.array(np.round(values, 1).astype(np.float32), mask=gone)

    return {
        "spectrum_entropy": some(rng.gamma(3.0, 1.0, n)),
        "spectrum_top": some(0.1 + 0.8 * rng.random(n)),
        "cluster_datatailor": pa.array(rng.integers(0, 3, n).astype(np.int32), mask=rng.random(n) < missing),
        "leverage": some(rng.random(n), image_only=True),
        "nll_noised": some(rng.gamma(2.0, 1.0, n), image_only=True),
        "nll_permuted": pa.array(
            np.round(rng.gamma(2.0, 1.0, n), 1).astype(np.float32), mask=rng.random(n) < 0.7
        ),
        "cluster_ards": pa.array(rng.integers(0, 4, n).astype(np.int32), mask=rng.random(n) < missing),
        "emb_ards": _vectors(rng, n, missing, width),
        "emb_shallow_visual": _vectors(rng, n, missing, width, text_only),
    }


def _vectors(
    rng: np.random.Generator, n: int, missing: float, width: int, gone: np.ndarray | None = None
) -> pa.Array:
    """Near, equal, zero and not-a-number vectors, and null ones."""
    apart = np.where(rng.random((n, 1)) < 0.5, 0, rng.normal(0, 0.1, (n, width)))
    values = np.round(rng.normal(0, 1, (8, width)))[rng.integers(0, 8, n)] + apart
    values[rng.random(n) < missing / 5] = np.nan
    gone = (rng.random(n) < missing) | (False if gone is None else gone)
    return pa.FixedSizeListArray.from_arrays(
        pa.array(values.astype(np.float16).reshape(-1)), width, mask=pa.array(gone)
    )


def _styles(rng: np.random.Generator, missing: float) -> list[str] | None:
    if rng.random() < missing:
        return None if rng.random() < 0.5 else []
    return [STYLE_NAMES[i] for i in rng.integers(0, len(STYLE_NAMES), rng.integers(1, 4))]


def shuffled(table: pa.Table, seed: int) -> pa.Table:
    """The same rows in another order."""
    return table.take(np.random.default_rng(seed).permutation(len(table)))


MASK = (1 << 64) - 1


def plain_key(seed: int, name: str) -> int:
    """`seeded_keys` for one name, in plain integers."""

    def mix(x):
        x = (x + 0x9E3779B97F4A7C15) & MASK
        x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK
        return x ^ (x >> 31)

    data = name.encode()
    total = (sum(mix(at << 8 | byte) for at, byte in enumerate(data)) + len(data)) & MASK
    return mix(
        mix(total) ^ int.from_bytes(hashlib.blake2b(str(seed).encode(), digest_size=8).digest(), "little")
    )
