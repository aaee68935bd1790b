"""Compare the arms: long-form results, tables, pictures and the report, from what the other stages left.

Over several pools, scores are means with an interval (evaluation/aggregate.py); levels, rater agreement, pool facts and
subset mixes are means over pools, counts of what was lost are sums. Each pool's own agreement is in agreement.json.
"""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any

CODE = (
    "evaluation/aggregate.py",
    "evaluation/comparison.py",
    "evaluation/results.py",
    "evaluation/stats.py",
    "evaluation/suite.py",
    "evaluation/tables.py",
    "evaluation/plots.py",
    "evaluation/report.py",
    "evaluation/suites",
    "evaluation/extract.py",
    "evaluation/answer_text.py",
    "curation/mini/blind.py",
    "curation/signals/raters/agreement.py",
    "curation/subset.py",
)
DEFECTS = ("wrong", "mismatched", "blind", "leak")


@dataclass(frozen=True)
class World:
    """One pool and what was made from it: the directories by input name."""

    seed: int | None
    inputs: dict[str, Path]

    @cached_property
    def pool(self) -> Any:
        """The opened pool."""
        from curation.pool.read import Pool

        return Pool.open(self.inputs["pool"])

    @cached_property
    def truth(self) -> list[dict[str, Any]]:
        """What the mini world's generator knows of each row of the pool; empty for any other pool."""
        import pyarrow.parquet as pq

        if "truth" not in self.inputs:
            return []
        columns = ["id", "capability", "root", *DEFECTS]
        by_id = {
            t["id"]: t
            for t in pq.read_table(self.inputs["truth"] / "truth.parquet", columns=columns).to_pylist()
        }
        return [by_id[id] for id in self.pool.table["id"].to_pylist()]

    @cached_property
    def sources(self) -> list[str]:
        """Source of each row."""
        return self.pool.table["source"].to_pylist()


BY_POOL = ("pool", "truth", "labels", "scorer", "styler", "seed_model", "signal_capability", "signal_style")


def run(config: dict[str, Any], inputs: dict[str, Any], out: Path, progress: Any) -> dict[str, Any]:
    """Writes results.parquet, agreement.json, levels (bench.json), comparison.json, pictures and report.md."""
    import pyarrow.parquet as pq

    from evaluation.aggregate import Run, collect, compare
    from evaluation.report import write_report
    from evaluation.suite import load_suite

    worlds = [
        World(seed, {key: inputs[key][at] for key in BY_POOL if key in inputs})
        for at, seed in enumerate(config["pool_seeds"])
    ]
    suite = load_suite(config["suite"])
    runs = [
        Run(
            r["arm"],
            r["selection_seed"],
            r["train_seed"],
            str(r["budget"]),
            path,
            r["pool_seed"],
            r["targeted"],
        )
        for r, path in zip(config["runs"], inputs["evaluates"], strict=True)
    ]
    pq.write_table(collect(runs, suite), out / "results.parquet")
    if "bench" in inputs:
        found = [levels(world, inputs["bench"]) for world in worlds]
        (out / "bench.json").write_text(json.dumps(mean_of(found), indent=1))
    comparison = compare(runs, suite, reference=config["reference"], baseline=config["baseline"], bench_dir=out)
    each = [rater_agreement(world) for world in worlds]
    agreement = mean_of(each)
    by_pool = (
        {"pools": {str(world.seed): found for world, found in zip(worlds, each)}} if len(worlds) > 1 else {}
    )
    (out / "agreement.json").write_text(json.dumps({**agreement, **by_pool}, indent=1))
    write_report(comparison, context(config, inputs, worlds, agreement), out)
    for arm in comparison.arms:
        difference = (
            f", {arm.difference.value:+.1f} [{arm.difference.low:+.1f}, {arm.difference.high:+.1f}]"
            if arm.difference
            else ""
        )
        progress.say(f"{arm.arm} {arm.budget}: mean {arm.mean.mean:.2f}{difference}")
    return {arm.arm: round(arm.mean.mean, 4) for arm in comparison.arms}


def mean_of(found: Sequence[Any]) -> Any:
    """Mean over pools of nested results, number by number: `n` is added up, None is left out, and one pool stays as it is."""
    if len(found) == 1:
        return found[0]
    if isinstance(found[0], dict):
        keys = dict.fromkeys(key for one in found for key in one)
        parts = {key: [one[key] for one in found if key in one] for key in keys}
        return {key: sum(values) if key == "n" else mean_of(values) for key, values in parts.items()}
    known = [value for value in found if value is not None]
    return fmean(known) if known else None


def levels(world: World, bench: Path) -> dict[str, dict[str, float]]:
    """bench.json of the benchmarks with what the pool's most frequent answers reach blind (planted leaks left out)."""
    from curation.mini.blind import blind_majority
    from evaluation.extract import score

    known = json.loads((bench / "bench.json").read_text())
    leaked = {t["id"] for t in world.truth if t["leak"]}
    samples = (s for s in world.pool.samples() if s.id not in leaked)
    blind = blind_majority(samples, bench, lambda *item: score(*item).value)
    return {key: {**entry, "blind": round(blind[key], 4)} for key, entry in known.items()}


def rater_agreement(world: World) -> dict[str, Any]:
    """Agreement of scorer and styler with the teacher on labelled samples that they were not trained on."""
    import pyarrow as pa
    import pyarrow.compute as pc

    from curation.signals.core.table import read_signal
    from curation.signals.raters.agreement import capability_report, style_report
    from curation.teacher.labels import read_labels

    out, inputs, pool_hash = {}, world.inputs, world.pool.hash
    for signal, fit, report in (
        ("capability", "scorer", capability_report),
        ("style", "styler", style_report),
    ):
        # A rater that is given or only served was not trained on labels.
        if f"signal_{signal}" in inputs and fit in inputs and (inputs[fit] / "split.json").is_file():
            held_out = json.loads((inputs[fit] / "split.json").read_text())["held_out"]
            labels = read_labels(inputs["labels"], pool_hash)
            labels = labels.filter(pc.is_in(labels["row"], pa.array(held_out, pa.int32())))
            out[signal] = report(read_signal(inputs[f"signal_{signal}"], pool_hash), labels)
    if "signal_capability" in inputs and "truth" in inputs and "labels" in inputs:
        scores = read_signal(inputs["signal_capability"], pool_hash)
        out["capability_truth"] = capability_report(scores, _unlabelled_truth(world))
    return out


def _unlabelled_truth(world: World) -> Any:
    """The generator's own scores (row, cap_<key>) of all samples that the teacher did not label."""
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    from curation.taxonomy import CAPABILITY_KEYS
    from curation.teacher.labels import read_labels

    pool = world.pool.table.select(["row", "id"])
    labelled = read_labels(world.inputs["labels"], world.pool.hash)["row"]
    unlabelled = pool.filter(pc.invert(pc.is_in(pool["row"], labelled)))
    truth = pq.read_table(
        world.inputs["truth"] / "truth.parquet", columns=["id", *(f"cap_{key}" for key in CAPABILITY_KEYS)]
    )
    return unlabelled.join(truth, "id", join_type="inner").sort_by("row")


def context(
    config: dict[str, Any], inputs: dict[str, Any], worlds: Sequence[World], agreement: dict[str, Any]
) -> Any:
    """What the report says beside the comparison."""
    from curation.subset import read_subset
    from evaluation.report import Context

    subsets = [read_subset(path)["row"].to_pylist() for path in inputs["selects"]]
    quarantined: Counter = Counter()
    for world in worlds:
        quarantined.update(world.pool.info["quarantined"])
    scorer = {
        key: {name: values[name] for name in ("n", "spearman", "auc", "mae", "mass")}
        for key, values in agreement.get("capability", {}).get("capabilities", {}).items()
    }
    for key, values in agreement.get("capability_truth", {}).get("capabilities", {}).items():
        scorer.setdefault(key, {}).update(
            {f"{name} (truth)": values[name] for name in ("n", "spearman", "auc")}
        )
    return Context(
        title=config["name"],
        protocol={"scale": config["scale"]},
        modified=config["modified"],
        pool=_facts(worlds),
        quarantined=dict(quarantined),
        subsets=_subsets(config, inputs, worlds, subsets),
        overlap=_overlap(config, subsets),
        scorer=scorer,
        seconds=_seconds(inputs),
        notes=_notes(config, inputs, agreement),
    )


def _facts(worlds: Sequence[World]) -> dict[str, Any]:
    """Size and planted defects of the pool, or the means of several."""
    several = {"pools (seeds)": ", ".join(str(world.seed) for world in worlds)} if len(worlds) > 1 else {}
    each = [
        {
            "samples": len(world.pool),
            "sources": len(world.pool.info["sources"]),
            "text tokens": world.pool.info["text_tokens"]["total"],
            **{f"planted: {kind}": n for kind, n in _defects(world, range(len(world.pool)))[1].items()},
        }
        for world in worlds
    ]
    return {
        **several,
        **({f"{name} (mean)": round(value) for name, value in mean_of(each).items()} if several else each[0]),
    }


def _subsets(
    config: dict[str, Any], inputs: dict[str, Any], worlds: Sequence[World], subsets: Sequence[list[int]]
) -> list[Any]:
    from curation.subset import read_manifest
    from evaluation.report import Subset

    by_seed, out = {world.seed: world for world in worlds}, {}
    for run, path, rows in zip(config["runs"], inputs["selects"], subsets, strict=True):
        world = by_seed[run["pool_seed"]]
        capability, defects = _defects(world, rows)
        mix = {
            "source": _shares(Counter(world.sources[r] for r in rows), len(rows)),
            "capability": _shares(capability, len(rows)),
            "defect": _shares(defects, len(rows)),
        }
        budget = read_manifest(path)["budget"]
        subset = Subset(
            run["arm"],
            run["selection_seed"],
            len(rows),
            budget["text_tokens"],
            budget["image_tokens"],
            mix,
            world.seed,
        )
        out[subset.arm, subset.pool, subset.seed] = subset
    return list(out.values())


def _shares(counts: Counter, total: int) -> dict[str, float]:
    return {name: count / total for name, count in counts.items()}


def _defects(world: World, rows: Sequence[int]) -> tuple[Counter, Counter]:
    """(main capability, planted defects) of the rows, counted, as the mini world's generator knows them; else empty."""
    if not world.truth:
        return Counter(), Counter()
    chosen = [world.truth[r] for r in rows]
    defects = Counter({kind: sum(t[kind] for t in chosen) for kind in DEFECTS})
    defects["repeats another of the subset"] = len(chosen) - len({t["root"] for t in chosen})
    return Counter(t["capability"] for t in chosen), defects


def _overlap(config: dict[str, Any], subsets: Sequence[list[int]]) -> dict[tuple[str, str], float]:
    """Share of one arm's subset that is in another's: first seed of each, mean over pools; arms that take the whole pool are
    left out."""
    first: dict[str, dict[int | None, set[int]]] = {}
    for run, rows in zip(config["runs"], subsets, strict=True):
        if run["selector"] != "all":
            first.setdefault(run["arm"], {}).setdefault(run["pool_seed"], set(rows))
    return {
        (a, b): fmean(len(rows & first[b][pool]) / len(rows) for pool, rows in first[a].items())
        for a in first
        for b in first
        if a != b
    }


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
    notes = []
    if len(config["runs"]) < config["planned_runs"]:
        notes.append(
            f"Not finished: this rests on {len(config['runs'])} of {config['planned_runs']} runs, the repetitions that were "
            "finished for every arm on every pool."
        )
    dropped: Counter = Counter()
    for path in inputs["trains"]:
        dropped.update(json.loads((path / "stage.json").read_text())["summary"]["dropped"])
    notes += [f"Samples dropped by the trainings, by reason: {dict(dropped) or 'none'}."]
    met = {}
    for run, path in zip(config["runs"], inputs["selects"], strict=True):
        met.setdefault(run["arm"], json.loads((path / "stage.json").read_text())["summary"]["notes"])
    notes += [f"Selector of {arm}, first seed: {found}." for arm, found in met.items() if found]
    if (style := agreement.get("style")) and style["n"]:
        notes.append(
            f"Styler on held-out labels: exact style set {style['exact']:.3f}, macro F1 {style['macro_f1']:.3f} (n {style['n']}), "
            f"unknown text {style['other']:.3f}, no prediction for {style['missing']}."
        )
    return notes
