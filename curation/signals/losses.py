"""Answer losses of a model given image and question, only one of them, or neither; also EL2N and margin.

Columns, `prefix` before each name; all are means over the answer tokens, float32:

- nll (term `full`): L(A|I,Q), negative log-likelihood in nats; answer_tokens (int32) is the number of answer
  tokens
- el2n (`full`): Euclidean length of softmax - one-hot, over the whole vocabulary (arXiv 2107.07075)
- margin (`full`): p(target) - p(most likely other token) (arXiv 2001.10528)
- nll_noimg (`noimg`): L(A|Q), images and their placeholders removed
- nll_noq (`noq`): L(A|I), the text of all questions removed, image placeholders kept
- nll_a (`a`): L(A), both removed; the chat template (system prompt, role marks) is kept in every term

Answer tokens are those with a label in training: the answers of all turns with their end-of-turn token, each
given the preceding turns, from which the same parts are removed. For a text-only sample noimg equals full and
noq equals a by definition, so each is computed once. `curation/selectors/formulas.py` derives selection
scores from these columns.

With the seed model of MLLM-Selector (arXiv 2503.20502), `nll` is the paper's necessity of a sample.
"""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow as pa

from curation.pool.sample import IMAGE_PLACEHOLDER, Sample
from curation.signals.core.batches import batches_by_tokens
from curation.signals.core.table import Advance, Progress, read_signal, write_signal

if TYPE_CHECKING:
    import torch

    from curation.pool.read import Pool
    from curation.signals.core.vlm import PassStats, Vlm
    from training.render import Encoded

TERMS = {"full": "nll", "noimg": "nll_noimg", "noq": "nll_noq", "a": "nll_a"}
"""Term -> column of its loss."""

HEAD_ELEMENTS = 1 << 25
"""Logits (positions x vocabulary) held at once: 128 MB in float32, 220 positions of a 152k vocabulary."""


class AnswerLoss(NamedTuple):
    """Means over a sample's answer tokens, and the number of these tokens."""

    nll: float
    el2n: float
    margin: float
    tokens: int


def score_losses(
    pool: "Pool",
    model_dir: Path,
    out: Path,
    *,
    terms: Sequence[str] = ("full",),
    prefix: str = "",
    max_tokens: int = 2048,
    shard_rows: int = 8192,
    dtype: str = "float32",
    device: str | None = None,
    on_progress: Progress | None = None,
) -> dict[str, Any]:
    """Write the loss columns of a pool to `out`; parts that are complete are kept.

    terms: some of full, noimg, noq, a. prefix: of all column names. max_tokens: padded tokens in a batch (a
    longer sample runs alone). The forward passes of a shard, of all terms, are sorted by length together: a
    larger `shard_rows` means less padding, but more work lost when a run is killed.

    A value is null where the sample cannot be rendered, its image cannot be decoded, or its loss is not
    finite; `missing` counts such values by reason, `nulls` by column. Returns also samples/s (rows, however
    many forward passes each takes), forwards, padding efficiency, the mean of each column and the number of
    answer tokens.
    Raises ValueError for an unknown term.
    """
    from curation.signals.core.vlm import PassStats, Vlm

    terms = check_terms(terms)
    vlm, stats = Vlm(model_dir, dtype=dtype, device=device), PassStats()
    forwards = 0

    def compute(rows: range, advance: Advance) -> pa.Table:
        nonlocal forwards
        variants, index = _variants(pool.samples(rows), terms)
        values = _losses(vlm, variants, max_tokens, stats, _rows_from(advance, len(variants), len(rows)))
        forwards += len(variants)
        # `Vlm.run` counted each variant as a sample; a sample is a row, however many forward passes it takes.
        stats.samples += len(rows) - len(variants)
        return _table(rows, [[values[i] for i in picks] for picks in index], terms, prefix)

    identity = {**vlm.identity("losses", pool.hash), "terms": list(terms), "prefix": prefix}
    counts = write_signal(out, identity, len(pool), compute, shard_rows=shard_rows, on_progress=on_progress)
    return {
        **stats.summary(),
        **counts,
        "forwards": forwards,
        **_summary(read_signal(out, pool.hash), prefix),
    }


def check_terms(terms: Sequence[str]) -> tuple[str, ...]:
    """The terms without repeats, in the order of TERMS.

    Raises ValueError for an unknown term, or for none at all.
    """
    given = [terms] if isinstance(terms, str) else list(terms)
    if unknown := [term for term in given if term not in TERMS]:
        raise ValueError(f"unknown loss term {unknown[0]!r}: must be one of {', '.join(TERMS)}")
    if not given:
        raise ValueError(f"terms is empty: name at least one of {', '.join(TERMS)}")
    return tuple(term for term in TERMS if term in given)


def ablate(sample: Sample, term: str) -> Sample:
    """The sample whose loss is `term`: without questions, images or both (see the module docstring)."""
    if term == "full" or (term == "noimg" and not sample.images):
        return sample
    turns = tuple(replace(turn, question=_question(turn.question, term)) for turn in sample.turns)
    return replace(sample, images=sample.images if term == "noq" else (), turns=turns)


def _question(text: str, term: str) -> str:
    if term == "noimg":
        return text.replace(IMAGE_PLACEHOLDER, "").strip()
    return "\n".join([IMAGE_PLACEHOLDER] * text.count(IMAGE_PLACEHOLDER)) if term == "noq" else ""


def answer_losses(
    vlm: "Vlm", examples: Sequence["Encoded"], *, head_elements: int = HEAD_ELEMENTS
) -> list[AnswerLoss]:
    """Means over the labelled tokens of each example; an example without any has NaN means and 0 tokens.

    Only hidden states that predict a labelled token go through the vocabulary head, at most `head_elements`
    logits at a time: the logits of all positions would be the largest tensor in memory.
    """
    import torch

    batch = vlm.batch(examples)
    rows, hidden, targets = answer_states(vlm, batch)
    step = head_step(vlm, head_elements)
    chunks = zip(hidden.split(step), targets.split(step), strict=True)
    scores = torch.cat([_token_scores(vlm.log_probs(states), tokens) for states, tokens in chunks])
    sums = torch.zeros(len(examples), 3, dtype=torch.float64, device=scores.device)
    sums.index_add_(0, rows, scores)
    counts = torch.bincount(rows, minlength=len(examples))
    means = (sums / counts[:, None]).tolist()
    return [
        AnswerLoss(nll, el2n, margin, tokens)
        for (nll, el2n, margin), tokens in zip(means, counts.tolist(), strict=True)
    ]


def answer_states(
    vlm: "Vlm", batch: dict[str, "torch.Tensor"]
) -> tuple["torch.Tensor", "torch.Tensor", "torch.Tensor"]:
    """Of the N labelled tokens of a batch: batch row int64 [N], predicting state [N, H], token int64 [N]."""
    import torch

    from training.render import IGNORE

    targets = batch["labels"][:, 1:]
    rows, positions = torch.nonzero(targets != IGNORE, as_tuple=True)
    return rows, vlm.hidden(batch)[rows, positions], targets[rows, positions]


def head_step(vlm: "Vlm", head_elements: int = HEAD_ELEMENTS) -> int:
    """Number of positions whose logits are computed at a time, so that at most `head_elements` exist."""
    return max(1, head_elements // vlm.head.weight.shape[0])


def _token_scores(log_probs: "torch.Tensor", targets: "torch.Tensor") -> "torch.Tensor":
    """float64 [N, 3]: loss, |softmax - one-hot|, p(target) - p(best other); log_probs are [N, vocabulary]."""
    import torch

    index = targets[:, None]
    target = log_probs.gather(1, index)[:, 0]
    others = log_probs.exp().scatter_(1, index, 0)
    el2n = ((1 - target.exp()).square() + others.square().sum(dim=1)).sqrt()
    return torch.stack([-target, el2n, target.exp() - others.amax(dim=1)], dim=1).double()


def _variants(samples: Iterable[Sample], terms: Sequence[str]) -> tuple[list[Sample], list[list[int]]]:
    """The distinct samples to compute, and for each row the index among them of each term's loss."""
    variants: list[Sample] = []
    index = []
    for sample in samples:
        places: dict[Sample, int] = {}
        for variant in (ablate(sample, term) for term in terms):
            if variant not in places:
                places[variant] = len(variants)
                variants.append(variant)
        index.append([places[ablate(sample, term)] for term in terms])
    return variants, index


def _losses(
    vlm: "Vlm", samples: list[Sample], max_tokens: int, stats: "PassStats", advance: Advance
) -> list[AnswerLoss | None]:
    return vlm.run(
        samples,
        encode=vlm.renderer.encode,
        make_batches=partial(batches_by_tokens, max_tokens=max_tokens),
        score=partial(_finite_losses, vlm, stats),
        stats=stats,
        advance=advance,
    )


def _finite_losses(vlm: "Vlm", stats: "PassStats", examples: Sequence["Encoded"]) -> list[AnswerLoss | None]:
    """As `answer_losses`; None, counted as `not_finite`, for an example whose loss is NaN or infinite."""
    values = answer_losses(vlm, examples)
    finite = [all(map(math.isfinite, value)) for value in values]
    # An example without labels has a broken image (the collator removes its labels): `Vlm.run` counts it.
    overflowed = sum(not ok and value.tokens > 0 for ok, value in zip(finite, values, strict=True))
    stats.missing += Counter(not_finite=overflowed)
    return [value if ok else None for ok, value in zip(finite, values, strict=True)]


def _rows_from(advance: Advance, forwards: int, rows: int) -> Advance:
    """Convert progress over `forwards` forward passes into progress over `rows` rows."""
    done = 0

    def step(passes: int) -> None:
        nonlocal done
        before, done = done * rows // forwards, done + passes
        advance(done * rows // forwards - before)

    return step


def _table(rows: range, values: list[list[AnswerLoss | None]], terms: Sequence[str], prefix: str) -> pa.Table:
    columns: dict[str, pa.Array] = {"row": pa.array(rows, pa.int32())}
    for term, losses in zip(terms, zip(*values, strict=True), strict=True):
        columns[prefix + TERMS[term]] = _column(losses, "nll", pa.float32())
        if term == "full":
            columns |= {prefix + name: _column(losses, name, pa.float32()) for name in ("el2n", "margin")}
            columns[prefix + "answer_tokens"] = _column(losses, "tokens", pa.int32())
    return pa.table(columns)


def _column(losses: Iterable[AnswerLoss | None], name: str, kind: pa.DataType) -> pa.Array:
    return pa.array([loss and getattr(loss, name) for loss in losses], kind)


def _summary(signal: pa.Table, prefix: str) -> dict[str, Any]:
    names = [name for name in signal.column_names if name != "row"]
    nulls = {name: signal[name].null_count for name in names}
    known = {name: signal[name].drop_null().to_numpy() for name in names}
    summary: dict[str, Any] = {"rows": len(signal), "rows_missing": max(nulls.values()), "nulls": nulls}
    summary |= {
        f"mean_{name}": float(values.mean()) if len(values) else None for name, values in known.items()
    }
    if prefix + "answer_tokens" in known:
        summary["answer_tokens"] = int(known[prefix + "answer_tokens"].sum())
    return summary
