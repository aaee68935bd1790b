"""Compare the arms: long-form results, tables, pictures and the report, from what the other stages left."""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

CODE = ("evaluation/aggregate.py", "evaluation/results.py", "evaluation/stats.py", "evaluation/suite.py", "evaluation/tables.py",
        "evaluation/plots.py", "evaluation/report.py", "evaluation/suites", "evaluation/extract.py", "evaluation/answer_text.py",
        "curation/mini/blind.py", "curation/signals/rater_report.py", "curation/subset.py")
DEFECTS = ("wrong", "mismatched", "blind", "leak")


def run(config: dict[str, Any], inputs: dict[str, Any], out: Path, progress: Any) -> dict[str, Any]:
    """Writes results.parquet, agreement.json, levels (bench.json), comparison.json, pictures and report.md."""
    import pyarrow.parquet as pq

    from curation.pool.read import Pool
    from evaluation.aggregate import Run, collect, compare
    from evaluation.report import write_report
    from evaluation.suite import load_suite

    pool = Pool.open(inputs["pool"])
    suite = load_suite(config["suite"])
    runs = [Run(r["arm"], r["selection_seed"], r["train_seed"], str(r["budget"]), path)
            for r, path in zip(config["runs"], inputs["evaluates"], strict=True)]
    pq.write_table(collect(runs, suite), out / "results.parquet")
    if "bench" in inputs:
        (out / "bench.json").write_text(json.dumps(levels(pool, inputs), indent=1))
    comparison = compare(runs, suite, full=config["reference"], baseline=config["baseline"], bench_dir=out)
    agreement = rater_agreement(inputs, pool.hash)
    (out / "agreement.json").write_text(json.dumps(agreement, indent=1))
    write_report(comparison, context(config, inputs, pool, agreement), out)
    for arm in comparison.arms:
        difference = f", {arm.difference.value:+.1f} [{arm.difference.low:+.1f}, {arm.difference.high:+.1f}]" if arm.difference else ""
        progress.say(f"{arm.arm} {arm.budget}: mean {arm.mean.mean:.2f}{difference}")
    return {arm.arm: round(arm.mean.mean, 4) for arm in comparison.arms}


def levels(pool: Any, inputs: dict[str, Any]) -> dict[str, dict[str, float]]:
    """bench.json of the benchmarks with what the pool's most frequent answers reach blind (planted leaks left out)."""
    import pyarrow.parquet as pq

    from curation.mini.blind import blind_majority
    from evaluation.extract import score

    known = json.loads((inputs["bench"] / "bench.json").read_text())
    leaked = set()
    if "truth" in inputs:
        truth = pq.read_table(inputs["truth"] / "truth.parquet", columns=["id", "leak"])
        leaked = set(truth.filter(truth["leak"])["id"].to_pylist())
    samples = (s for s in pool.samples() if s.id not in leaked)
    blind = blind_majority(samples, inputs["bench"], lambda *item: score(*item).value)
    return {key: {**entry, "blind": round(blind[key], 4)} for key, entry in known.items()}


def rater_agreement(inputs: dict[str, Any], pool_hash: str) -> dict[str, Any]:
    """Agreement of scorer and styler with the teacher on labelled samples that they were not trained on."""
    import pyarrow as pa
    import pyarrow.compute as pc

    from curation.signals.rater_report import capability_report, style_report
    from curation.signals.table import read_signal
    from curation.teacher.labels import read_labels

    out = {}
    for signal, fit, report in (("capability", "scorer", capability_report), ("style", "styler", style_report)):
        if f"signal_{signal}" in inputs:
            held_out = json.loads((inputs[fit] / "split.json").read_text())["held_out"]
            labels = read_labels(inputs["labels"], pool_hash)
            labels = labels.filter(pc.is_in(labels["row"], pa.array(held_out, pa.int32())))
            out[signal] = report(read_signal(inputs[f"signal_{signal}"], pool_hash), labels)
    if "signal_capability" in inputs and "truth" in inputs:
        scores = read_signal(inputs["signal_capability"], pool_hash)
        out["capability_truth"] = capability_report(scores, _unlabelled_truth(inputs, pool_hash))
    return out


def _unlabelled_truth(inputs: dict[str, Any], pool_hash: str) -> Any:
    """The generator's own scores (row, cap_<key>) of all samples that the teacher did not label."""
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    from curation.pool.read import Pool
    from curation.taxonomy import CAPABILITY_KEYS
    from curation.teacher.labels import read_labels

    pool = Pool.open(inputs["pool"]).table.select(["row", "id"])
    unlabelled = pool.filter(pc.invert(pc.is_in(pool["row"], read_labels(inputs["labels"], pool_hash)["row"])))
    truth = pq.read_table(inputs["truth"] / "truth.parquet", columns=["id", *(f"cap_{key}" for key in CAPABILITY_KEYS)])
    return unlabelled.join(truth, "id", join_type="inner").sort_by("row")


def context(config: dict[str, Any], inputs: dict[str, Any], pool: Any, agreement: dict[str, Any]) -> Any:
    """What the report says beside the comparison."""
    from curation.subset import read_subset
    from evaluation.report import Context

    subsets = [read_subset(path)["row"].to_pylist() for path in inputs["selects"]]
    facts = {"samples": len(pool), "sources": len(pool.info["sources"]), "text tokens": pool.info["text_tokens"]["total"],
             **{f"planted: {kind}": n for kind, n in _defects(inputs, pool, range(len(pool)))[1].items()}}
    scorer = {key: {name: values[name] for name in ("n", "spearman", "auc", "mae", "mass")}
              for key, values in agreement.get("capability", {}).get("capabilities", {}).items()}
    for key, values in agreement.get("capability_truth", {}).get("capabilities", {}).items():
        scorer[key] |= {f"{name} (truth)": values[name] for name in ("n", "spearman", "auc")}
    return Context(
        title=config["name"], protocol={"scale": config["scale"]}, modified=config["modified"], pool=facts,
        quarantined=pool.info["quarantined"], subsets=_subsets(config, inputs, pool, subsets), overlap=_overlap(config, subsets),
        scorer=scorer, seconds=_seconds(inputs), notes=_notes(config, inputs, agreement))


def _subsets(config: dict[str, Any], inputs: dict[str, Any], pool: Any, subsets: Sequence[list[int]]) -> list[Any]:
    from curation.subset import read_manifest
    from evaluation.report import Subset

    sources, out = pool.table["source"].to_pylist(), []
    for run, path, rows in zip(config["runs"], inputs["selects"], subsets, strict=True):
        capability, defects = _defects(inputs, pool, rows)
        mix = {"source": _shares(Counter(sources[r] for r in rows), len(rows)), "capability": _shares(capability, len(rows)),
               "defect": _shares(defects, len(rows))}
        budget = read_manifest(path)["budget"]
        out.append(Subset(run["arm"], run["selection_seed"], len(rows), budget["text_tokens"], budget["image_tokens"], mix))
    return list({(s.arm, s.seed): s for s in out}.values())


def _shares(counts: Counter, total: int) -> dict[str, float]:
    return {name: count / total for name, count in counts.items()}


def _defects(inputs: dict[str, Any], pool: Any, rows: Sequence[int]) -> tuple[Counter, Counter]:
    """(main capability, planted defects) of the rows, counted, as the mini world's generator knows them; else empty."""
    import pyarrow.parquet as pq

    if "truth" not in inputs:
        return Counter(), Counter()
    truth = pq.read_table(inputs["truth"] / "truth.parquet", columns=["id", "capability", "root", *DEFECTS]).to_pylist()
    by_id = {t["id"]: t for t in truth}
    ids = pool.table["id"].to_pylist()
    chosen = [by_id[ids[r]] for r in rows]
    defects = Counter({kind: sum(t[kind] for t in chosen) for kind in DEFECTS})
    defects["repeats another of the subset"] = len(chosen) - len({t["root"] for t in chosen})
    return Counter(t["capability"] for t in chosen), defects


def _overlap(config: dict[str, Any], subsets: Sequence[list[int]]) -> dict[tuple[str, str], float]:
    """Share of one arm's subset that is in another's, first seed of each; arms that take the whole pool are left out."""
    first = {}
    for run, rows in zip(config["runs"], subsets, strict=True):
        if run["selector"] != "all":
            first.setdefault(run["arm"], set(rows))
    return {(a, b): len(first[a] & first[b]) / len(first[a]) for a in first for b in first if a != b}


def _seconds(inputs: dict[str, Any]) -> dict[str, float]:
    """Seconds of the stages that this comparison rests on, by kind, when they ran."""
    seconds: Counter = Counter()
    for value in inputs.values():
        for path in value if isinstance(value, list) else [value]:
            record = json.loads((path / "stage.json").read_text())
            seconds[record["kind"]] += record["seconds"]
    return dict(seconds)


def _notes(config: dict[str, Any], inputs: dict[str, Any], agreement: dict[str, Any]) -> list[str]:
    """Counts that must not get lost: what trainings dropped, what selectors met, how well styles were named."""
    dropped: Counter = Counter()
    for path in inputs["trains"]:
        dropped.update(json.loads((path / "stage.json").read_text())["summary"]["dropped"])
    notes = [f"Samples dropped by the trainings, by reason: {dict(dropped) or 'none'}."]
    met = {}
    for run, path in zip(config["runs"], inputs["selects"], strict=True):
        met.setdefault(run["arm"], json.loads((path / "stage.json").read_text())["summary"]["notes"])
    notes += [f"Selector of {arm}, first seed: {found}." for arm, found in met.items() if found]
    if style := agreement.get("style"):
        notes.append(f"Styler on held-out labels: exact style set {style['exact']:.3f}, macro F1 {style['macro_f1']:.3f} (n {style['n']}), "
                     f"unknown text {style['other']:.3f}.")
    return notes
