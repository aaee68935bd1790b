"""Planted defects: each occurs at its rate, none at rate zero, and never where it makes no sense."""

import json
import math
from collections import Counter
from pathlib import Path
from random import Random

import pyarrow.parquet as pq
import pytest

import curation.mini
from curation.mini.atom import Split
from curation.mini.bench import build_bench
from curation.mini.draft import FIRST_COPY, Defects, _misdescribed, draft, sources
from curation.mini.makers import MAKERS, describe
from curation.mini.pool import build_source

NONE = Defects(**dict.fromkeys(Defects.model_fields, 0))
SIZE = 3000
OF_ALL = ("wrong_answers", "text_only")
OF_IMAGES = ("mismatched", "blind")


def drawn(defects: Defects, size: int = SIZE, seed: int = 0):
    return [draft(i, seed, defects) for i in range(size)]


def has(sample, defect: str) -> bool:
    return {
        "wrong_answers": sample.wrong,
        "mismatched": sample.mismatched,
        "blind": sample.blind,
        "text_only": sample.scene is None,
        "near_duplicates": sample.root is not None,
    }[defect]


def within_binomial_error(count: int, n: int, rate: float) -> bool:
    """Within four standard deviations of a binomial count (a false alarm in 16,000)."""
    return abs(count - n * rate) <= 4 * (n * rate * (1 - rate)) ** 0.5


@pytest.mark.parametrize(
    "defects",
    [Defects(), Defects(wrong_answers=0.2, mismatched=0.15, blind=0.2, text_only=0.4, near_duplicates=0.5)],
)
def test_rates_are_the_parameters(defects):
    samples = drawn(defects)
    originals = [s for s in samples if not has(s, "near_duplicates")]
    copies = len(samples) - len(originals)
    assert within_binomial_error(copies, SIZE - FIRST_COPY - 1, defects.near_duplicates)
    for name in OF_ALL:
        assert within_binomial_error(
            sum(has(s, name) for s in originals), len(originals), getattr(defects, name)
        ), name
    seen = [s for s in originals if not has(s, "text_only")]
    for name in OF_IMAGES:
        assert within_binomial_error(sum(has(s, name) for s in seen), len(seen), getattr(defects, name)), name


@pytest.mark.parametrize("name", ["near_duplicates", "wrong_answers", "mismatched", "blind", "text_only"])
def test_rate_zero_plants_none_of_this_defect(name):
    samples = drawn(Defects(**{name: 0}), 1000)
    assert not any(has(s, name) for s in samples)
    assert sum(has(s, "wrong_answers" if name != "wrong_answers" else "blind") for s in samples) > 10


def test_all_zero_is_clean_and_uniform(tmp_path):
    summary = build_source(tmp_path, 600, defects=NONE)
    assert summary["defects"] == {}
    assert len(summary["sources"]) == len(sources()) and max(summary["sources"].values()) < 3 * min(
        summary["sources"].values()
    )
    assert all("image" in record for record in json.loads((tmp_path / "pool.json").read_text()))


@pytest.mark.slow
def test_leaks_at_their_rate_and_none_at_zero(tmp_path):
    build_bench(tmp_path / "bench", items=4)
    for rate in (0.0, 0.1):
        build_source(tmp_path / str(rate), 1000, bench=tmp_path / "bench", defects=Defects(leaks=rate))
        leaked = pq.read_table(tmp_path / str(rate) / "truth.parquet")["leak"].to_pylist()
        assert within_binomial_error(sum(leaked), 1000, rate)


def test_at_most_one_of_wrong_mismatched_and_blind_and_only_the_first_without_an_image():
    for sample in drawn(Defects(wrong_answers=0.3, mismatched=0.3, blind=0.3, text_only=0.3), 800):
        assert sum(has(sample, name) for name in ("wrong_answers", *OF_IMAGES)) <= 1
        assert not (has(sample, "text_only") and (sample.mismatched or sample.blind))
    with pytest.raises(ValueError, match="above 1"):
        Defects(wrong_answers=0.5, mismatched=0.4, blind=0.2)


def test_a_sample_without_an_image_is_of_the_text_source():
    for sample in drawn(Defects(text_only=0.5), 400):
        if sample.scene is None:
            assert next(s for s in sources() if s.name == sample.source).text


def test_imbalance_and_zipf_change_their_frequencies():
    def largest(**changed) -> float:
        counts = Counter(s.source for s in drawn(Defects(text_only=0, near_duplicates=0, **changed), 2000))
        return max(counts.values()) / 2000

    assert largest(imbalance=0) < 0.1
    assert 0.15 < largest() < 0.3 < largest(imbalance=2)

    def commonest(exponent: float) -> float:
        rng, split = Random(0), Split(zipf=exponent)
        counts = Counter(MAKERS["activity"](rng, split)[1][0].answer for _ in range(2000))
        return max(counts.values()) / 2000

    assert commonest(0) < 0.17
    assert commonest(1) > 0.2


def test_a_wrong_description_differs_from_the_right_one_in_one_thing():
    rng = Random(0)
    for _ in range(50):
        scene, (atom,) = MAKERS["generation"](rng, Split())
        wrong = _misdescribed(atom, scene, rng)
        right, changed = describe(scene).split(" , "), wrong.answer.split(" , ")
        assert sum(a != b for a, b in zip(right, changed, strict=True)) == 1
        assert wrong.statement == wrong.answer.removesuffix(" .")


def test_the_described_shares_of_sources_are_those_of_the_file():
    own, text = {s.name: s.share for s in sources()}, Defects().text_only
    shares = {s.name: (1 - text) * s.share / sum(own.values()) + (text if s.text else 0) for s in sources()}
    ranked = sorted(shares.values(), reverse=True)
    effective = math.exp(-sum(x * math.log(x) for x in ranked))
    middle = (ranked[7] + ranked[8]) / 2
    row = (
        f"| here | {len(ranked)} | {ranked[0]:.1%} | {effective:.1f} | {effective / len(ranked):.2f} | "
        f"{sum(ranked[:4]):.0%} | {ranked[0] / middle:.1f} |"
    ).replace("%", " %")
    assert row in (Path(curation.mini.__file__).parent / "README.md").read_text()
