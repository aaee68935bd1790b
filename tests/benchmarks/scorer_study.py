"""Quality of scorer and styler under other training settings, on a pool seed that no published study uses.

    OMP_NUM_THREADS=1 python tests/benchmarks/scorer_study.py --root DIR
    OMP_NUM_THREADS=1 python tests/benchmarks/scorer_study.py --root DIR \\
        --variants shipped --also "scorer.balance=0.3 scorer.holdout=0.1"

Each variant is the recipe with some settings changed; its fits are stages of DIR/store, so a second call
resumes. They are compared with the teacher on the samples that a fit held out, and with the generator's
ground truth on unlabelled samples (the fits see the ground truth through the teacher's labels only). There
are two references: `truth` is the ground truth itself, an upper bound; `words` is a ridge regression on the
words of the conversation, fitted on the labels of the first variant, a baseline that sees no image. Variants
with a different choice of labelled samples have other unlabelled and held-out samples, so the teacher columns
compare only variants with the same labels.
"""

import argparse
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from rich.console import Console

from curation.pool.read import Pool
from curation.signals.core.vlm import PassStats, Vlm
from curation.signals.raters import capability, style
from curation.signals.raters.agreement import STRONG, capability_report, style_report
from curation.signals.raters.queries import load_queries
from curation.taxonomy import CAPABILITY_KEYS
from curation.teacher.draw import uniform
from curation.teacher.labels import read_labels
from recipes.engine import root_of, run
from recipes.graph import Node, store_path
from recipes.load import load
from recipes.plan import make_plan
from recipes.store import read_record

RECIPE = "mmssr_30pct.yaml"
VARIANTS: dict[str, str] = {
    "shipped": "",
    "other-seed": "scorer.seed=1",
    "before": "scorer.start=base teacher.temper=1.0 scorer.train.lr=0.001",
    "base": "scorer.start=base",
    "proportional": "teacher.temper=1.0",
    "equal": "teacher.temper=0.0",
    "rate-0.001": "scorer.train.lr=0.001",
    "rate-0.003": "scorer.train.lr=0.003",
    "epochs-20": "scorer.train.epochs=20",
    "no-balance": "scorer.balance=0.0",
    "decay": "scorer.train.weight_decay=0.3",
    "lora": "scorer.train.lora.r=16 scorer.train.lr=0.003",
    "frozen-tower": "scorer.train.freeze=[vision,projector] scorer.train.lr=0.001",
    "styler-seed": "styler.start=seed_model",
}
RIDGE = 3.0
"""Penalty of the regression on words."""
COLUMNS = (
    "labels",
    "Spearman",
    "AUC > 0",
    "lowest",
    f"precision at n(>= {STRONG})",
    "lowest",
    "digit > 0",
    "MAE",
    "Spearman with the teacher",
    "n",
    "styles exact",
    "macro F1",
    "exact, teacher",
    "n",
    "seconds",
)


@dataclass
class Variant:
    """One setting of the recipe, its fits in the store, and the number of unlabelled rows to evaluate on."""

    overrides: Sequence[str]
    rows: int

    def __post_init__(self) -> None:
        """Run the fits and the stages they need, unless they are in the store."""
        loaded = load(RECIPE, self.overrides)
        plan = make_plan(loaded)
        self.root, self.recipe = root_of(loaded), loaded.recipe
        self.nodes: dict[str, Node] = {node.family: node for node in plan.nodes}
        with open(os.devnull, "w") as nowhere:
            for kind in ("fit_rater[scorer]", "fit_rater[styler]"):
                run(loaded, plan, until=kind, console=Console(file=nowhere))

    def path(self, kind: str) -> Path:
        node = self.nodes[kind]
        return store_path(self.root, node.kind, node.hash)

    @cached_property
    def pool(self) -> Pool:
        return Pool.open(self.path("pool"))

    @cached_property
    def labels(self) -> pa.Table:
        return read_labels(self.path("labels"), self.pool.hash)

    @cached_property
    def truth(self) -> pa.Table:
        """Ground truth (row, cap_<key>, styles) of a seeded sample of the unlabelled rows."""
        table = self.pool.table.select(["row", "id"])
        table = table.filter(pc.invert(pc.is_in(table["row"], self.labels["row"])))
        draws = np.array([uniform("scorer study", 0, id) for id in table["id"].to_pylist()])
        table = table.take(np.argsort(draws, kind="stable")[: self.rows])
        known = pq.read_table(
            self.path("source") / "truth.parquet",
            columns=["id", *(f"cap_{key}" for key in CAPABILITY_KEYS), "styles"],
        )
        return known.take(pc.index_in(table["id"], known["id"])).append_column("row", table["row"])

    def held_out(self, kind: str) -> pa.Table:
        rows = json.loads((self.path(kind) / "split.json").read_text())["held_out"]
        return self.labels.filter(pc.is_in(self.labels["row"], pa.array(rows, pa.int32())))

    def scored(self, kind: str, score: Callable[[Path, list[int]], pa.Table]) -> pa.Table:
        """The signal of a fit on the evaluated rows, read from DIR/scorer_study if it exists."""
        kept = self.root / "scorer_study" / f"{self.nodes[kind].hash[:12]}-{self.rows}.parquet"
        if not kept.exists():
            kept.parent.mkdir(parents=True, exist_ok=True)
            rows = [*self.truth["row"].to_pylist(), *self.held_out(kind)["row"].to_pylist()]
            pq.write_table(score(self.path(kind), rows), kept.with_suffix(".tmp"))
            os.replace(kept.with_suffix(".tmp"), kept)
        return pq.read_table(kept)

    def capabilities(self) -> pa.Table:
        def score(model: Path, rows: list[int]) -> pa.Table:
            vlm, queries = Vlm(model), load_queries(self.recipe.scorer.prompts)
            return capability.score_rows(
                self.pool, rows, vlm, queries, self.recipe.scoring.batch_size, PassStats(), lambda k: None
            )

        return self.scored("fit_rater[scorer]", score)

    def styles(self) -> pa.Table:
        def score(model: Path, rows: list[int]) -> pa.Table:
            vlm, queries = Vlm(model), load_queries(self.recipe.styler.prompts)
            return style.score_rows(
                self.pool, rows, vlm, queries, self.recipe.scoring.batch_size, PassStats(), lambda k: None
            )

        return self.scored("fit_rater[styler]", score)

    def seconds(self) -> float:
        """Seconds that labels and fits took when they were computed."""
        kinds = {"labels", "fit_seed", "fit_rater[scorer]", "fit_rater[styler]"} & set(self.nodes)
        return sum(read_record(self.path(kind))["seconds"] for kind in kinds)


def truth_signal(variant: Variant) -> pa.Table:
    """The generator's ground truth as a signal."""
    known = pq.read_table(variant.path("source") / "truth.parquet")
    known = known.take(pc.index_in(variant.pool.table["id"], known["id"]))
    return signal(
        variant.pool.table["row"].to_pylist(),
        np.stack([known[f"cap_{key}"].to_numpy() for key in CAPABILITY_KEYS], axis=1),
    )


def words_signal(variant: Variant) -> pa.Table:
    """Ridge regression of the training labels on the words that occur in questions and answers."""
    trained = json.loads((variant.path("fit_rater[scorer]") / "split.json").read_text())["train"]
    labels = variant.labels.filter(pc.is_in(variant.labels["row"], pa.array(trained, pa.int32())))
    rows = [*variant.truth["row"].to_pylist(), *variant.held_out("fit_rater[scorer]")["row"].to_pylist()]
    x, other = words(variant.pool, labels["row"].to_pylist()), words(variant.pool, rows)
    vocabulary = sorted(set().union(*x))
    x, other = (
        np.array([[word in sample for word in vocabulary] for sample in samples], float)
        for samples in (x, other)
    )
    y = np.stack([labels[f"cap_{key}"].to_numpy() for key in CAPABILITY_KEYS], axis=1)
    centred = x - x.mean(axis=0)
    weights = np.linalg.solve(
        centred.T @ centred + RIDGE * np.eye(len(vocabulary)), centred.T @ (y - y.mean(axis=0))
    )
    return signal(rows, (other - x.mean(axis=0)) @ weights + y.mean(axis=0))


def words(pool: Pool, rows: Sequence[int]) -> list[set[str]]:
    """The words of each sample's questions (q:word) and answers (a:word)."""

    def marked(side: str, texts: Sequence[str]) -> set[str]:
        return {f"{side}:{word}" for text in texts for word in text.split()}

    return [
        marked("q", [turn.question for turn in sample.turns])
        | marked("a", [turn.answer for turn in sample.turns])
        for sample in pool.samples(rows)
    ]


def signal(rows: Sequence[int], scores: np.ndarray) -> pa.Table:
    """Scores [n, 14] as a capability signal."""
    columns: dict[str, Any] = {"row": pa.array(rows, pa.int32())}
    for k, key in enumerate(CAPABILITY_KEYS):
        columns |= {
            f"exp_{key}": scores[:, k].astype(np.float32),
            f"mass_{key}": np.ones(len(rows), np.float32),
            f"cap_{key}": np.clip(np.rint(scores[:, k]), 0, 5).astype(np.int8),
        }
    return pa.table(columns)


def reached(scores: pa.Table, truth: pa.Table) -> dict[str, float]:
    """For each capability, the share of its strong samples with a digit above 0: mmSSR can pick these."""
    scores = scores.take(pc.index_in(truth["row"], scores["row"]))
    strong = {key: truth[f"cap_{key}"].to_numpy() >= STRONG for key in CAPABILITY_KEYS}
    return {
        key: float((scores[f"cap_{key}"].to_numpy()[at] > 0).mean()) for key, at in strong.items() if at.any()
    }


def judge(
    variant: Variant, scores: pa.Table, styles: pa.Table | None, seconds: float | None
) -> tuple[list[Any], dict[str, dict[str, Any]]]:
    """A row of the table, and the metrics by capability."""
    on_truth, taught = (
        capability_report(scores, variant.truth),
        capability_report(scores, variant.held_out("fit_rater[scorer]")),
    )
    shares = reached(scores, variant.truth)
    by_key = {
        key: {**values, "reached": shares.get(key), "teacher": taught["capabilities"][key]["spearman"]}
        for key, values in on_truth["capabilities"].items()
    }
    lowest = {
        name: min(v[name] for v in by_key.values() if v[name] is not None) for name in ("auc", "precision")
    }
    mean = on_truth["mean"]
    style_cells: list[Any] = [None] * 4
    if styles is not None:
        ours, theirs = (
            style_report(styles, variant.truth),
            style_report(styles, variant.held_out("fit_rater[styler]")),
        )
        style_cells = [ours["exact"], ours["macro_f1"], theirs["exact"], theirs["n"]]
    return [
        len(variant.labels),
        mean["spearman"],
        mean["auc"],
        lowest["auc"],
        mean["precision"],
        lowest["precision"],
        float(np.mean(list(shares.values()))),
        mean["mae"],
        taught["mean"]["spearman"],
        len(variant.held_out("fit_rater[scorer]")),
        *style_cells,
        seconds,
    ], by_key


def cells(values: Sequence[float | None]) -> str:
    """The cells of a table row; counts and seconds without decimals."""
    return " | ".join(
        "–" if v is None else f"{v:.3f}" if isinstance(v, float) and abs(v) < 10 else f"{v:.0f}"
        for v in values
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--root", required=True, help="directory for the store")
    parser.add_argument(
        "--variants", default=",".join(VARIANTS), help=f"of {', '.join(VARIANTS)}; comma-separated"
    )
    parser.add_argument(
        "--also",
        action="append",
        default=[],
        metavar="OVERRIDES",
        help="one more variant, as `key=value key=value`",
    )
    parser.add_argument("--pool-seed", type=int, default=100)
    parser.add_argument("--rows", type=int, default=1500, help="number of unlabelled samples to evaluate on")
    options = parser.parse_args()
    chosen = {name: VARIANTS[name] for name in options.variants.split(",") if name} | {
        text: text for text in options.also
    }
    fixed = [
        f"pool.seed={options.pool_seed}",
        f"root={options.root}",
        "resources.executor=inline",
        "track.mode=disabled",
    ]

    print("| variant | " + " | ".join(COLUMNS) + " |\n" + "| :-- " + "| --: " * len(COLUMNS) + "|")
    details = {}
    for name, changes in chosen.items():
        variant = Variant([*fixed, *changes.split()], options.rows)
        if not details:
            for reference, made in (("truth", truth_signal), ("words", words_signal)):
                row, details[reference] = judge(variant, made(variant), None, None)
                print(f"| {reference} | {cells(row)} |", flush=True)
        row, details[name] = judge(variant, variant.capabilities(), variant.styles(), variant.seconds())
        print(f"| {name} | {cells(row)} |", flush=True)

    for figure in ("spearman", "auc", "precision", "reached", "teacher"):
        print(
            f"\n| {figure} | "
            + " | ".join(CAPABILITY_KEYS)
            + " |\n"
            + "| :-- "
            + "| --: " * len(CAPABILITY_KEYS)
            + "|"
        )
        for name, by_key in details.items():
            print(f"| {name} | {cells([by_key[key][figure] for key in CAPABILITY_KEYS])} |")


if __name__ == "__main__":
    main()
