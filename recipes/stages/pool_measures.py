"""What a comparison measures on each pool besides scores: blind levels of benchmarks, agreement of raters."""

import json
from pathlib import Path
from typing import Any

from recipes.stages.pool_results import PoolResults


def levels(pool: PoolResults, bench: Path) -> dict[str, dict[str, float]]:
    """bench.json with the blind level of each benchmark: the score of the pool's most frequent answers.

    Planted leaks are excluded.
    """
    from curation.mini.blind import blind_majority
    from evaluation.extract import score

    known = json.loads((bench / "bench.json").read_text())
    leaked = {t["id"] for t in pool.truth if t["leak"]}
    samples = (s for s in pool.data.samples() if s.id not in leaked)
    blind = blind_majority(samples, bench, lambda *item: score(*item).value)
    return {key: {**entry, "blind": round(blind[key], 4)} for key, entry in known.items()}


def rater_agreement(pool: PoolResults) -> dict[str, Any]:
    """Agreement of scorer and styler with the teacher on held-out labels."""
    import pyarrow as pa
    import pyarrow.compute as pc

    from curation.signals.core.table import read_signal
    from curation.signals.raters.agreement import capability_report, style_report
    from curation.teacher.labels import read_labels

    out, inputs, pool_hash = {}, pool.inputs, pool.data.hash
    for signal, fit, report in (
        ("capability", "scorer", capability_report),
        ("style", "styler", style_report),
    ):
        # A released or served rater was not trained on these labels, so it has no held-out ones.
        if f"signal_{signal}" in inputs and fit in inputs and (inputs[fit] / "split.json").is_file():
            held_out = json.loads((inputs[fit] / "split.json").read_text())["held_out"]
            labels = read_labels(inputs["labels"], pool_hash)
            labels = labels.filter(pc.is_in(labels["row"], pa.array(held_out, pa.int32())))
            out[signal] = report(read_signal(inputs[f"signal_{signal}"], pool_hash), labels)
    if "signal_capability" in inputs and "truth" in inputs and "labels" in inputs:
        scores = read_signal(inputs["signal_capability"], pool_hash)
        out["capability_truth"] = capability_report(scores, _unlabelled_truth(pool))
    return out


def _unlabelled_truth(pool: PoolResults) -> Any:
    """The generator's true scores (row, cap_<key>) of all samples that the teacher did not label."""
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    from curation.taxonomy import CAPABILITY_KEYS
    from curation.teacher.labels import read_labels

    table = pool.data.table.select(["row", "id"])
    labelled = read_labels(pool.inputs["labels"], pool.data.hash)["row"]
    unlabelled = table.filter(pc.invert(pc.is_in(table["row"], labelled)))
    truth = pq.read_table(
        pool.inputs["truth"] / "truth.parquet", columns=["id", *(f"cap_{key}" for key in CAPABILITY_KEYS)]
    )
    return unlabelled.join(truth, "id", join_type="inner").sort_by("row")
