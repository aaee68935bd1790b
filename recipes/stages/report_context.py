"""What the report of a comparison contains besides scores: pools, subsets, costs, counts of lost samples."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from recipes.selection_costs import costs_of_records
from recipes.stages.capability_styles import KIND, names_by_row, shares
from recipes.stages.control_notes import in_words, lengths
from recipes.stages.leaked import Leaked
from recipes.stages.pool_results import DEFECTS, PoolResults, mean_of


def context(
    config: dict[str, Any],
    inputs: dict[str, Any],
    pools: Sequence[PoolResults],
    agreement: dict[str, Any],
    leaked: Leaked,
) -> Any:
    """The report's content besides the comparison, as an `evaluation.report.markdown.Context`."""
    from curation.subset import read_subset
    from evaluation.context import Context

    subsets = [read_subset(path)["row"].to_pylist() for path in inputs["selects"]]
    quarantined: Counter = Counter()
    for pool in pools:
        quarantined.update(pool.data.info["quarantined"])
    scorer = {
        key: {name: values[name] for name in ("n", "spearman", "auc", "mae", "mass")}
        for key, values in agreement.get("capability", {}).get("capabilities", {}).items()
    }
    for key, values in agreement.get("capability_truth", {}).get("capabilities", {}).items():
        scorer.setdefault(key, {}).update(
            {f"{name} (truth)": values[name] for name in ("n", "spearman", "auc")}
        )
    asked = [names_by_row(pool) for pool in pools]
    described = _subsets(config, inputs, pools, subsets, leaked, asked)
    about_controls = (*in_words(config["controls"]), *lengths(config["runs"], described))
    spent = costs_of_records(config["costs"], inputs["costed"])
    return Context(
        title=config["name"],
        protocol={"scale": config["scale"]},
        modified=config["modified"],
        pool=_facts(pools),
        quarantined=dict(quarantined),
        sources=_sources(pools, leaked),
        subsets=described,
        overlap=_overlap(config, subsets),
        pool_mix=_pool_mix(pools, asked),
        scorer=scorer,
        seconds=_seconds(inputs),
        costs=spent.by_arm(),
        notes=[*_notes(config, inputs, agreement), *about_controls, *spent.notes()],
    )


def _selected(config: dict[str, Any]) -> list[dict[str, Any]]:
    """The runs that have a selection: all but the base model itself."""
    return [run for run in config["runs"] if run["selector"] != "none"]


def _facts(pools: Sequence[PoolResults]) -> dict[str, Any]:
    """Size and planted defects of the pool; means for several pools."""
    several = {"pools (seeds)": ", ".join(str(pool.seed) for pool in pools)} if len(pools) > 1 else {}
    each = [
        {
            "samples": len(pool.data),
            "sources": len(pool.data.info["sources"]),
            "text tokens": pool.data.info["text_tokens"]["total"],
            **_measured(pool.data.info),
            **{f"planted: {kind}": n for kind, n in _defects(pool, range(len(pool.data)))[1].items()},
        }
        for pool in pools
    ]
    return {
        **several,
        **({f"{name} (mean)": round(value) for name, value in mean_of(each).items()} if several else each[0]),
    }


def _measured(info: Mapping[str, Any]) -> dict[str, int]:
    """What the pre-flight counted."""
    if "preflight" not in info:
        return {}
    own = info["preflight"]
    return {
        "image tokens": own["image_tokens"],
        "longest sample": own["longest"],
        "truncated": own["truncated"],
    }


def _sources(pools: Sequence[PoolResults], leaked: Leaked) -> dict[str, dict[str, int]]:
    """By source: samples that stay, those that each step took out or cut, and those that are flagged."""
    found: dict[str, Counter] = {}

    def add(source: str, column: str, count: int) -> None:
        found.setdefault(source, Counter())[column] += count

    for info in (pool.data.info for pool in pools):
        for source, count in info["sources"].items():
            add(source, "kept", count)
        for source, count in info.get("decontaminate", {}).get("sources", {}).items():
            add(source, "leaks", count)
        for source, own in info.get("preflight", {}).get("sources", {}).items():
            for reason, count in own.items():
                add(source, reason, count)
        for source, count in info.get("dedup", {}).get("sources", {}).items():
            add(source, "copies", count)
    if leaked.state == "flag":
        for source, count in leaked.by_source.items():
            add(source, "leaks, flagged", count)
    return {source: dict(counts) for source, counts in found.items()}


def _subsets(
    config: dict[str, Any],
    inputs: dict[str, Any],
    pools: Sequence[PoolResults],
    subsets: Sequence[list[int]],
    leaked: Leaked,
    asked: Sequence[list[list[str]]],
) -> list[Any]:
    from curation.subset import read_manifest
    from evaluation.context import Subset

    by_seed, by_key = {pool.seed: pool for pool in pools}, {}
    leaks = {pool.seed: leaked.rows(at) for at, pool in enumerate(pools)}
    names = {pool.seed: own for pool, own in zip(pools, asked, strict=True)}
    for run, path, rows in zip(_selected(config), inputs["selects"], subsets, strict=True):
        pool = by_seed[run["pool_seed"]]
        mix = _mix(pool, rows, names[pool.seed])
        budget = read_manifest(path)["budget"]
        subset = Subset(
            run["arm"],
            run["selection_seed"],
            len(rows),
            budget["text_tokens"],
            budget["image_tokens"],
            mix,
            pool.seed,
            None if (known := leaks[pool.seed]) is None else len(known.intersection(rows)),
        )
        by_key[subset.arm, subset.pool, subset.seed] = subset  # training seeds share a subset
    return list(by_key.values())


def _mix(pool: PoolResults, rows: Sequence[int], names: list[list[str]]) -> dict[str, dict[str, float]]:
    """`evaluation.context.Subset.mix` of these rows; `names`: what `names_by_row` says of the pool."""
    capability, defects = _defects(pool, rows)
    return {
        "source": _shares(Counter(pool.sources[r] for r in rows), len(rows)),
        "capability": _shares(capability, len(rows)),
        "defect": _shares(defects, len(rows)),
        KIND: shares(names, rows) if names else {},
    }


def _pool_mix(pools: Sequence[PoolResults], asked: Sequence[list[list[str]]]) -> dict[str, dict[str, float]]:
    """The mix of the whole pool, mean over pools; a name that a pool lacks has the share 0 there."""
    from evaluation.figures.arms import mean_mix

    each = [_mix(pool, range(len(pool.data)), own) for pool, own in zip(pools, asked, strict=True)]
    return {kind: mean_mix([mix[kind] for mix in each]) for kind in each[0]}


def _shares(counts: Counter, total: int) -> dict[str, float]:
    return {name: count / total for name, count in counts.items()}


def _defects(pool: PoolResults, rows: Sequence[int]) -> tuple[Counter, Counter]:
    """Counts of (main capability, planted defects) by the ground truth of the mini world, else empty."""
    if not pool.truth:
        return Counter(), Counter()
    chosen = [pool.truth[r] for r in rows]
    defects = Counter({kind: sum(t[kind] for t in chosen) for kind in DEFECTS})
    defects["repeats another of the subset"] = len(chosen) - len({t["root"] for t in chosen})
    return Counter(t["capability"] for t in chosen), defects


def _overlap(config: dict[str, Any], subsets: Sequence[list[int]]) -> dict[tuple[str, str], float]:
    """Share of one arm's subset that is in another's, for the first seed of each, mean over pools.

    Arms with the selector `all` are left out.
    """
    first: dict[str, dict[int | None, set[int]]] = {}
    for run, rows in zip(_selected(config), subsets, strict=True):
        if run["selector"] != "all":
            first.setdefault(run["arm"], {}).setdefault(run["pool_seed"], set(rows))
    return {
        (a, b): fmean(len(rows & first[b][pool]) / len(rows) for pool, rows in first[a].items())
        for a in first
        for b in first
        if a != b
    }


def _records(inputs: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """stage.json of every input of this comparison, each once; inputs that are files have none."""
    paths = [p for value in inputs.values() for p in (value if isinstance(value, list) else [value])]
    for path in dict.fromkeys(paths):
        if (path / "stage.json").is_file():
            yield json.loads((path / "stage.json").read_text())


def _seconds(inputs: Mapping[str, Any]) -> dict[str, float]:
    """Seconds that the input stages of this comparison took when they ran, by family."""
    seconds: Counter = Counter()
    for record in _records(inputs):
        seconds[record["family"]] += record["seconds"]
    return dict(seconds)


def _mixed(inputs: Mapping[str, Any]) -> Iterator[str]:
    """A sentence for the code and for each library if the stages ran with different versions of it."""
    stages: dict[str, Counter] = {}
    for record in _records(inputs):
        made_with = {**record["versions"], "commit": (record["commit"] or "unknown")[:12]}
        for name, version in made_with.items():
            stages.setdefault(name, Counter())[version] += 1
    for name, versions in sorted(stages.items()):
        if len(versions) > 1:
            counts = ", ".join(f"{version} ({n} stages)" for version, n in versions.most_common())
            what = (
                "made at different commits" if name == "commit" else f"made with different versions of {name}"
            )
            yield f"Mixed: the stages of this comparison were {what}: {counts}. See lineage.json for "
            "each stage."


def _notes(config: dict[str, Any], inputs: dict[str, Any], agreement: dict[str, Any]) -> list[str]:
    """Notes of the report: mixed versions, missing runs, dropped samples, selectors' notes, styler scores."""
    notes = list(_mixed(inputs))
    if len(config["runs"]) < config["planned_runs"]:
        notes.append(
            f"Not finished: this comparison is based on {len(config['runs'])} of "
            f"{config['planned_runs']} runs, those of the repetitions that are finished for every arm on "
            "every pool."
        )
    dropped: Counter = Counter()
    for path in inputs["trains"]:
        dropped.update(_summary(path)["dropped"])
    notes.append(f"Samples dropped by the trainings, by reason: {dict(dropped) or 'none'}.")
    of_selector: dict[str, dict[str, int]] = {}
    for run, path in zip(_selected(config), inputs["selects"], strict=True):
        of_selector.setdefault(run["arm"], _summary(path)["notes"])
    notes += [f"Selector of {arm}, first seed: {counts}." for arm, counts in of_selector.items() if counts]
    notes += _labelled_twice(inputs)
    if (style := agreement.get("style")) and style["n"]:
        notes.append(
            f"Styler on held-out labels: exact style set {style['exact']:.3f}, macro F1 "
            f"{style['macro_f1']:.3f} (n {style['n']}), unknown text {style['other']:.3f}, no prediction "
            f"for {style['missing']}."
        )
    return notes


def _labelled_twice(inputs: Mapping[str, Any]) -> list[str]:
    """How far two labels of one sample by the teacher agree, for each pool that has such."""
    from curation.teacher.agreement import in_words

    records = [record for record in _records(inputs) if record["kind"] == "labels_api"]
    return [
        f"Teacher: {in_words(r['summary']['agreement'])}." for r in records if "agreement" in r["summary"]
    ]


def _summary(artefact: Path) -> dict[str, Any]:
    return json.loads((artefact / "stage.json").read_text())["summary"]
