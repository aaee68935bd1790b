"""Answer losses: the mean negative log-likelihood of a sample's answer tokens under a model.

With the seed model of MLLM-Selector (arXiv 2503.20502) this is the sample's necessity: what the model could not yet
predict. Columns: nll float32 (mean over answer tokens, nats) and answer_tokens int32. Answer tokens are those with a
label in training: the answers of all turns with their end-of-turn token.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from curation.signals.batches import batches_by_tokens
from curation.signals.table import Advance, Progress, read_signal, write_signal

if TYPE_CHECKING:
    from curation.pool.read import Pool
    from curation.signals.vlm import Pass, Vlm
    from training.render import Encoded


def score_losses(
    pool: "Pool",
    model_dir: Path,
    out: Path,
    *,
    max_tokens: int = 2048,
    shard_rows: int = 8192,
    on_progress: Progress | None = None,
) -> dict[str, Any]:
    """Write the answer-loss signal of a pool to `out`; parts that are complete are kept.

    max_tokens: padded tokens in a batch (a longer sample runs alone). Returns samples/s, padding efficiency, the mean
    loss, the number of answer tokens, and the rows without a value by reason.
    """
    from curation.signals.vlm import Pass, Vlm

    vlm, done = Vlm(model_dir), Pass()

    def compute(rows: range, advance: Advance) -> pa.Table:
        return _score_rows(pool, rows, vlm, max_tokens, done, advance)

    identity = vlm.identity("losses", pool.hash)
    counts = write_signal(out, identity, len(pool), compute, shard_rows=shard_rows, on_progress=on_progress)
    signal = read_signal(out, pool.hash)
    nll = signal["nll"].drop_null().to_numpy()
    return {
        **done.summary(),
        **counts,
        "rows": len(signal),
        "rows_missing": signal["nll"].null_count,
        "mean_nll": float(nll.mean()) if len(nll) else None,
        "answer_tokens": int(signal["answer_tokens"].drop_null().to_numpy().sum()),
    }


def answer_losses(vlm: "Vlm", examples: Sequence["Encoded"]) -> list[tuple[float, int]]:
    """(mean loss in nats, number of tokens) over the labelled tokens of each example.

    Only the hidden states that predict a labelled token go through the vocabulary head.
    """
    import torch

    from training.render import IGNORE

    batch = vlm.batch(examples)
    targets = batch["labels"][:, 1:]
    rows, positions = torch.nonzero(targets != IGNORE, as_tuple=True)
    log_probs = vlm.log_probs(vlm.hidden(batch)[rows, positions])
    losses = -log_probs.gather(1, targets[rows, positions][:, None])[:, 0].double()
    sums = torch.zeros(len(examples), dtype=torch.float64, device=losses.device).index_add_(0, rows, losses)
    counts = torch.bincount(rows, minlength=len(examples))
    return list(zip((sums / counts).tolist(), counts.tolist(), strict=True))


def _score_rows(pool: "Pool", rows: range, vlm: "Vlm", max_tokens: int, done: "Pass", advance: Advance) -> pa.Table:
    values = vlm.run(
        pool.samples(rows),
        encode=vlm.renderer.encode,
        make_batches=partial(batches_by_tokens, max_tokens=max_tokens),
        score=partial(answer_losses, vlm),
        done=done,
        advance=advance,
    )
    return pa.table(
        {
            "row": pa.array(rows, pa.int32()),
            "nll": pa.array([value and value[0] for value in values], pa.float32()),
            "answer_tokens": pa.array([value and value[1] for value in values], pa.int32()),
        }
    )
