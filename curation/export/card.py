"""The data set card: a README.md with the front matter that the Hub reads, and how the subset was chosen.

What was not done, or is not known, is said. All text that comes from data is escaped.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from curation.compare import Subset, compare
from curation.export import markdown as md
from curation.export.evidence import Evidence
from curation.pool.read import Pool
from curation.selectors.random import select as select_random

_SIZES = (1_000, 10_000, 100_000, 1_000_000, 10_000_000, 100_000_000, 1_000_000_000)
_SIZE_NAMES = ("1K", "10K", "100K", "1M", "10M", "100M", "1B")
_OTHER_SEED = 1000
_MAX_SOURCES = 200
"""Lines of the table of sources, the largest first; folders of images can be sources by the thousand."""


@dataclass(frozen=True)
class Described:
    """What a card is about. `manifest`, `table`: of the subset. `data_files`: pattern of the data's files.

    counts: what the format counted while it wrote.
    """

    pool: Pool
    manifest: dict[str, Any]
    table: pa.Table
    name: str
    format: str
    data_files: str | None
    evidence: Evidence

    @property
    def rows(self) -> np.ndarray:
        """int64[n], in rank order."""
        return self.table["row"].cast(pa.int64()).to_numpy()


def card(about: Described, counts: Mapping[str, int]) -> str:
    """The whole card, in Markdown with YAML front matter. `counts`: what the format counted, by name."""
    sections = (
        _selection(about),
        _signals(about),
        _overlap(about),
        _sources(about),
        _audit(about),
        _checks(about),
        _hashes(about),
        _reproduce(about, counts),
    )
    return f"---\n{_front_matter(about)}---\n\n{_introduction(about)}\n" + "\n".join(sections)


def _front_matter(about: Described) -> str:
    import yaml

    licences = _licences(about)
    values: dict[str, Any] = {
        "pretty_name": about.name,
        "license": _licence_ids(licences),
        "task_categories": ["image-text-to-text"],
        "size_categories": [_size(len(about.table))],
        "tags": ["instruction-tuning", "data-selection", *_format_tags(about.format)],
    }
    if about.data_files is not None:
        files = [{"split": "train", "path": about.data_files}]
        values["configs"] = [{"config_name": "default", "data_files": files}]
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True)


def _format_tags(name: str) -> list[str]:
    return ["webdataset"] if name == "webdataset" else []


def _licence_ids(licences: Iterable[str | None]) -> str | list[str]:
    """Identifiers for the Hub, in lower case: `other` for what is no identifier, `unknown` for none."""
    ids = set()
    for licence in licences:
        name = "unknown" if licence is None else licence.lower()
        ids.add(name if name.isascii() and name.replace("-", "").replace(".", "").isalnum() else "other")
    listed = sorted(ids)
    return listed[0] if len(listed) == 1 else listed or "unknown"


def _licences(about: Described) -> list[str | None]:
    """The licence of every source in the subset, None if unknown."""
    known = about.evidence.licences or {}
    return [known.get(source) for source in _by_source(about.pool.table, about.rows)]


def _size(n: int) -> str:
    at = int(np.searchsorted(_SIZES, n, side="right"))
    if at == 0:
        return "n<1K"
    return "n>1B" if at == len(_SIZES) else f"{_SIZE_NAMES[at - 1]}<n<{_SIZE_NAMES[at]}"


def _introduction(about: Described) -> str:
    manifest, n = about.manifest, len(about.table)
    pool = manifest["pool_samples"]
    return (
        f"# {md.text(about.name)}\n\n{n:,} of the {pool:,} samples ({n / pool:.1%}) of a pool of multimodal "
        f"instruction data, chosen by {md.code(manifest['selector'])} with seed {manifest['seed']}. Each "
        "sample is a conversation with no, one or several images.\n"
    )


def _selection(about: Described) -> str:
    manifest = about.manifest
    budget, unit = manifest["budget"], manifest.get("text_token_unit")
    lines = [
        ("method", md.code(manifest["selector"])),
        ("parameters", md.value(manifest["params"])),
        ("seed", str(manifest["seed"])),
        ("budget asked for", md.text(str(manifest.get("budget_asked", "not recorded")))),
        ("samples", f"{budget['samples']:,}"),
        ("text tokens", md.value(budget["text_tokens"]) + (f" ({md.text(unit)})" if unit else "")),
        ("image tokens", md.value(budget["image_tokens"])),
        ("notes of the selection", md.value(manifest.get("notes") or {})),
    ]
    return md.bullets("How it was chosen", lines)


def _signals(about: Described) -> str:
    signals = about.manifest.get("signals") or {}
    if not signals:
        return "## Signals\n\nNone: the selection reads the pool alone.\n"
    rows = []
    for name, identity in signals.items():
        info = about.evidence.signals.get(str(identity))
        told = "not given to this card (`--signals`)" if info is None else md.value(info)
        rows.append([md.text(name), md.code(identity), told])
    return md.table("Signals", ["signal", "identity", "made with"], rows)


def _overlap(about: Described) -> str:
    chosen, total = about.rows, len(about.pool)
    n = len(chosen)
    # Selectors that draw by the same seed share their keys with `random`, so this one is another.
    seed = int(about.manifest["seed"]) + _OTHER_SEED
    picked = select_random(about.pool.table, n, seed)
    drawn = Subset(
        "random",
        picked.rows.astype(np.int64),
        about.table,
        about.manifest | {"selector": "random", "params": {}, "seed": seed},
    )
    pair = compare([Subset("chosen", chosen, about.table, about.manifest), drawn])["overlap"]
    common = pair["chosen"]["random"]
    expected, spread = _expected_overlap(n, total)
    share = f"{common['contained']:.1%} of the subset, Jaccard {common['jaccard']:.3f}"
    lines = [
        ("expected of two independent draws", f"{expected:,.1f} samples, standard deviation {spread:,.1f}"),
        (f"actual, with `random` and seed {seed}", f"{common['common']:,} samples, {share}"),
    ]
    return md.bullets("Overlap with a random subset of the same size", lines)


def _expected_overlap(n: int, total: int) -> tuple[float, float]:
    """Mean and standard deviation of the overlap of a fixed with a random n of `total`: hypergeometric."""
    share = n / total
    variance = n * share * (1 - share) * (total - n) / max(total - 1, 1)
    return n * share, variance**0.5


def _sources(about: Described) -> str:
    whole, part = _by_source(about.pool.table, None), _by_source(about.pool.table, about.rows)
    known = about.evidence.licences or {}
    rows = [
        [
            md.text(source),
            f"{count:,}",
            f"{count / len(about.pool):.1%}",
            f"{part.get(source, 0):,}",
            f"{part.get(source, 0) / max(len(about.table), 1):.1%}",
            md.text(known[source]) if source in known else "unknown",
        ]
        for source, count in list(whole.items())[:_MAX_SOURCES]
    ]
    if len(whole) > _MAX_SOURCES:
        rows.append([f"{len(whole) - _MAX_SOURCES:,} further sources", *[""] * 5])
    head = ["source", "pool", "of the pool", "subset", "of the subset", "licence"]
    lacking = sum(1 for source in part if source not in known)
    said = (
        f"\nThe licence of {lacking:,} of the subset's {len(part):,} sources is unknown: none was given for "
        "them (`--licenses`). Unknown does not mean free.\n"
        if lacking
        else ""
    )
    return md.table("Sources and licences", head, rows) + said


def _audit(about: Described) -> str:
    info = about.pool.info
    lines = [("records read", md.value(info.get("records"))), ("samples in the pool", f"{len(about.pool):,}")]
    lines.append(("quarantined", md.value(info.get("quarantined") or {})))
    lines += _told(info, ("ids", "skipped_turns", "unknown_keys", "control_tokens", "repeated_content"))
    lines += [(f"lengths: {key}", shown) for key, shown in md.summary(info.get("preflight") or {})]
    audit = info.get("audit")
    if audit is None:
        lines.append(("images", "not audited"))
    else:
        lines += [(f"images: {key}", shown) for key, shown in md.summary(audit)]
    return md.bullets("Audit", lines)


def _told(info: Mapping[str, Any], keys: Iterable[str]) -> list[tuple[str, str]]:
    return [(key.replace("_", " "), md.value(info[key])) for key in keys if key in info]


def _checks(about: Described) -> str:
    evidence, info = about.evidence, about.pool.info
    parts = ["## Duplicates and leaks\n"]
    if parent := info.get("parent"):
        left = parent["n"] - len(about.pool)
        parts.append(
            f"The pool is one of {parent['n']:,} samples without {left:,} that were dropped from it.\n"
        )
    parts.append(_check("Duplicates", evidence.dups, info.get("dedup"), "--dups"))
    parts.append(_check("Leaks of benchmarks", evidence.leaks, info.get("decontaminate"), "--leaks"))
    if evidence.leaked is not None:
        parts.append(f"Of the samples of this subset, {evidence.leaked:,} are in the list of leaks.\n")
    return "\n".join(parts)


def _check(
    title: str, found: Mapping[str, Any] | None, dropped: Mapping[str, Any] | None, option: str
) -> str:
    """`found`: the report of a search; `dropped`: what the pool says of the search that it was cleaned by."""
    if found is None and dropped is None:
        return f"**{title}**: not done, as far as this card was told (`{option}`).\n"
    done = "searched for" if dropped is None else "searched for, and dropped from the pool"
    lines = [f"- {key}: {shown}" for key, shown in md.summary(dict(dropped or {}) | dict(found or {}))]
    return f"**{title}**: {done}.\n\n" + "\n".join(lines) + "\n"


def _hashes(about: Described) -> str:
    manifest, info = about.manifest, about.pool.info
    lines = [("pool", md.code(about.pool.hash)), ("ids of the subset", md.code(manifest["ids_sha256"]))]
    for file in info["files"]:
        lines.append((f"source file {md.text(Path(file['path']).name)}", f"sha256 {md.code(file['sha256'])}"))
    lines.append(("versions", md.value(manifest.get("versions") or {})))
    return md.bullets("Hashes", lines)


def _reproduce(about: Described, counts: Mapping[str, int]) -> str:
    manifest, n = about.manifest, len(about.table)
    select = ["python", "-m", "curation.select", str(manifest["selector"]), "--pool", "POOL"]
    select += ["--signals", "SIGNALS"] if manifest.get("signals") else []
    select += ["--budget", str(manifest.get("budget_asked", n)), "--seed", str(manifest["seed"])]
    for key, held in manifest["params"].items():
        select += ["--param", f"{key}={json.dumps(held)}"]
    select += ["--out", "SUBSET"]
    commands = (
        ["python", "-m", "curation.pool", "build", "FILES", "--images", "IMAGES", "--out", "POOL"],
        select,
    )
    export = ["python", "-m", "curation.export", "SUBSET", "--pool", "POOL", "--format", about.format]
    lines = [md.command(parts) for parts in (*commands, [*export, "--out", "OUT"])]
    counted = "".join(f"\n{key}: {count:,}.\n" for key, count in counts.items())
    return (
        "## How to reproduce it\n\n" + "\n".join(lines) + "\n\nThe pool must have the "
        "hash above. `rows.parquet` (or the file that ends so) joins every record with its row, id, original "
        f"id, source file and place in it, rank and the reason why it was chosen.\n{counted}"
    )


def _by_source(table: pa.Table, rows: np.ndarray | None) -> dict[str, int]:
    """Samples by source, the largest first."""
    column = table["source"] if rows is None else table["source"].take(rows)
    values, counts = pc.value_counts(column).flatten()
    pairs = zip(values.to_pylist(), counts.to_pylist(), strict=True)
    return dict(sorted(pairs, key=lambda pair: (-pair[1], pair[0])))
