"""mmssr_official against an oracle: the rules of the released code in plain Python, stable ties, capabilities
in order.
"""

from collections import Counter

import numpy as np
import pyarrow as pa
import pytest

from curation.selectors import BudgetError
from curation.selectors.registry import get_selector

select = get_selector("mmssr_official")
CAPS = ("spatial", "ocr", "logic")


def parsed(score):
    try:
        return int(score)
    except (TypeError, ValueError):
        return None


def styles_of(sample):
    names = sample["styles"]
    names = names.split(",") if isinstance(names, str) else names or []
    return list(dict.fromkeys(name.strip() for name in names))


def one_pass(pool, cap, share, threshold):
    """Rows taken by one capability in one round, with their bins."""
    pool = [s for s in pool if s["scores"][cap] is not None and s["scores"][cap] > threshold]
    pool.sort(key=lambda s: -s["scores"][cap])
    bins = {}
    for position in range(max((len(s["names"]) for s in pool), default=0)):
        for sample in pool:
            if position < len(sample["names"]):
                bins.setdefault(f"{sample['names'][position]}+{sample['source']}", []).append(sample["row"])
    taken, debt, quota = {}, 0, max(share // len(bins), 1) if bins else 0
    for name in sorted(bins, key=lambda b: (len(bins[b]), b)):
        if len(taken) >= share:
            break
        free = [row for row in bins[name] if row not in taken]
        taken |= dict.fromkeys(free[: quota + debt], name)
        debt = max(quota + debt - len(free), 0)
    return taken


def oracle(table, budget, capabilities, threshold):
    """[(row, capability, bin, round)] in pick order with the overshoot, and the exhausted capabilities."""
    pool = sorted(table.to_pylist(), key=lambda s: s["row"])
    for sample in pool:
        sample["scores"] = {cap: parsed(sample[f"cap_{cap}"]) for cap in capabilities}
        sample["names"] = styles_of(sample)
    picked, live, turn, dry = [], list(capabilities), 0, {}
    while len(picked) < budget and live:
        turn += 1
        share = max((budget - len(picked)) // len(live), 1)
        for cap in list(live):
            if len(picked) >= budget:
                break
            found = one_pass(pool, cap, min(share, budget - len(picked)), threshold)
            if not found:
                live.remove(cap)
                dry[cap] = turn
            picked += [(row, cap, name, turn) for row, name in found.items()]
            pool = [s for s in pool if s["row"] not in found]
    return picked, dry


SCORE_TEXTS = ("0", "1", "2", " 3 ", "+4", "5", "1_0", "7", "٣", "4.0", "", "4/5", None)
STYLE_TEXTS = ("word", " word", "yes_no", "multi", "", "a+s1", "word ")


def random_pool(rng):
    """A small table: many ties, repeated styles, text or numbers as scores, styles as lists or text, rows in
    any order.
    """
    n = int(rng.integers(1, 40))
    columns = {
        "row": pa.array(rng.permutation(3 * n)[:n].astype(np.int32)),
        "id": [f"i{k}" for k in range(n)],
        "source": [f"s{k}" for k in rng.geometric(0.5, n)],
    }
    names = [
        None if rng.random() < 0.1 else [STYLE_TEXTS[k] for k in rng.integers(0, 7, rng.integers(0, 4))]
        for _ in range(n)
    ]
    if rng.random() < 0.5:
        columns["styles"] = pa.array(names, pa.list_(pa.string()))
    else:
        columns["styles"] = pa.array([None if s is None else ",".join(s) for s in names], pa.string())
    rare = rng.choice([0.0, 0.5, 0.9])
    for cap in CAPS:
        if rng.random() < 0.5:
            score = [
                None if rng.random() < 0.1 else int(x)
                for x in rng.integers(0, 6, n) * (rng.random(n) >= rare)
            ]
            columns[f"cap_{cap}"] = pa.array(score, pa.int8())
        else:
            columns[f"cap_{cap}"] = pa.array(
                [SCORE_TEXTS[k] for k in rng.integers(0, len(SCORE_TEXTS), n)], pa.string()
            )
    return pa.table(columns)


def listed(found):
    return [
        (row, why["capability"], why["bin"], why["round"])
        for row, why in zip(found.rows.tolist(), found.reason.to_pylist(), strict=True)
    ]


@pytest.mark.slow
def test_equals_the_oracle_in_order_on_1200_random_cases():
    seen = Counter()
    for case in range(1200):
        rng = np.random.default_rng(case)
        table = random_pool(rng)
        capabilities = [str(c) for c in rng.permutation(CAPS)[: rng.integers(1, 4)]]
        threshold, budget = int(rng.choice([0, 0, 2, -1])), int(rng.integers(1, max(len(table) // 2, 2)))
        expected, dry = oracle(table, budget, capabilities, threshold)
        params = {"capabilities": capabilities, "threshold": threshold}
        if len(expected) < budget:
            with pytest.raises(BudgetError) as error:
                select(table, budget, 0, **params)
            assert error.value.available == len(expected), case
            seen["refused"] += 1
            continue
        found = select(table, budget, 0, overshoot="official", **params)
        assert listed(found) == expected and found.surplus == len(expected) - budget, case
        assert {k: v for k, v in found.notes.items() if k.startswith("exhausted")} == {
            f"exhausted_{k}": v for k, v in dry.items()
        }
        assert listed(select(table, budget, 1, **params)) == expected[:budget], case
        seen["overshot"] += len(expected) > budget
        seen["ran dry"] += bool(dry)
        seen["rounds"] += max(turn for *_, turn in expected) > 1
    assert seen["refused"] > 50 and seen["overshot"] > 10 and seen["ran dry"] > 50 and seen["rounds"] > 200, (
        seen
    )


def one_capability(scores, styles, sources=None):
    n = len(scores)
    scores = pa.array(scores, pa.string() if any(isinstance(s, str) for s in scores) else pa.int8())
    return pa.table(
        {
            "row": np.arange(n),
            "id": [f"i{k}" for k in range(n)],
            "source": sources or ["s"] * n,
            "styles": styles,
            "cap_ocr": scores,
        }
    )


def test_a_low_score_whose_first_style_is_the_bin_comes_before_a_high_score_whose_second_it_is():
    table = one_capability([5, 1, 3], [["yes_no", "word"], ["word"], ["word"]])
    # yes_no (one row) gives row 0; word then has rows 2 and 1, first-style rows by score
    assert select(table, 3, 0).rows.tolist() == [0, 2, 1]
    later = one_capability([5, 1, 3], [["yes_no", "word"], ["word"], ["zzz", "word"]])
    # yes_no gives row 0 and zzz row 2 before word, where row 1 is the only one left
    assert select(later, 3, 0).rows.tolist() == [0, 2, 1]
    assert select(later, 3, 0).reason["bin"].to_pylist() == ["yes_no+s", "zzz+s", "word+s"]


def test_debt_goes_to_the_next_bin_and_a_small_share_may_be_overshot():
    # b: rows 0 and 1; c: the same and row 2; d: four rows. One from each: no shortfall, no overshoot
    styles = [["b", "c"], ["b", "c"], ["c"], ["d"], ["d"], ["d"], ["d"]]
    found = select(one_capability([5, 5, 5, 5, 4, 3, 2], styles), 3, 0, overshoot="official")
    assert found.rows.tolist() == [0, 2, 3]
    # a and b hold the same row: b falls short, so d gives two, which makes three rows for a share of two
    styles = [["a", "b"], ["d"], ["d"], ["d"]]
    table = one_capability([5, 5, 4, 3], styles)
    assert select(table, 2, 0, overshoot="official").rows.tolist() == [0, 1, 2]
    trimmed = select(table, 2, 0)
    assert trimmed.rows.tolist() == [0, 1]
    assert trimmed.notes["overshoot"] == 1 and trimmed.surplus == 0


def test_texts_that_are_not_integers_are_counted_and_never_picked():
    table = one_capability([" 4 ", "4.0", None, "9", "nan"], [["word"]] * 5)
    found = select(table, 2, 0)
    assert found.rows.tolist() == [3, 0] and found.reason["score"].to_pylist() == [9.0, 4.0]
    assert found.notes["unparsed_score"] == 2 and found.notes["missing_score"] == 3
    with pytest.raises(BudgetError) as error:
        select(table, 3, 0)
    assert error.value.available == 2


def test_rows_without_a_style_are_never_picked_but_an_empty_name_is_a_style():
    table = one_capability([5, 5, 1], pa.array([None, [], [""]], pa.list_(pa.string())))
    found = select(table, 1, 0)
    assert (
        found.rows.tolist() == [2]
        and found.reason["bin"].to_pylist() == ["+s"]
        and found.notes["without_style"] == 2
    )


def test_ties_are_broken_by_row_number_not_by_table_order():
    table = one_capability([3] * 30, [["word"]] * 30)
    assert select(table.take(np.random.default_rng(0).permutation(30)), 12, 0).rows.tolist() == list(
        range(12)
    )


def test_more_pairs_of_bin_and_position_than_a_byte_holds():
    rng = np.random.default_rng(0)
    styles = [[f"{k:03d}" for k in rng.permutation(120)[:4]] for _ in range(400)]
    table = one_capability(rng.integers(0, 6, 400).tolist(), styles)
    expected, _ = oracle(table, 150, ["ocr"], 0)
    found = select(table, 150, 0, overshoot="official")
    assert listed(found) == expected and found.notes["unparsed_score"] == 0
