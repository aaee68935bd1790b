"""mmssr against an oracle: the rules of its docstring again, one row at a time."""

from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
from selector_tables import CAPABILITIES, plain_key, random_table

from curation.selectors import BudgetError
from curation.selectors.registry import get_selector

select = get_selector("mmssr")


def oracle(table, budget, seed, capabilities, bins, score, threshold, order, fill):
    """[(row, capability, style, round)] in pick order, or the number of available rows."""
    samples = table.to_pylist()
    for sample in samples:
        sample["key"] = plain_key(seed, sample["id"])

    def main(sample, cap):
        value = sample[("cap_" if score == "argmax" else "exp_") + cap]
        return None if value is None or value < 0 else value

    def tie(sample, cap):
        value = sample[f"exp_{cap}"]
        return main(sample, cap) if value is None else value

    def best(sample):
        return max(
            (tie(sample, cap), -i) for i, cap in enumerate(capabilities) if main(sample, cap) is not None
        )

    def bins_of(sample):
        styles = sorted({s for s in sample["styles"] or [] if s}) or ["other"]
        return {
            "none": [(None, "")],
            "source": [(None, sample["source"])],
            "style": [(s, "") for s in styles],
            "style_x_source": [(s, sample["source"]) for s in styles],
        }[bins]

    def candidates(cap):
        found = [s for s in samples if main(s, cap) is not None and main(s, cap) > threshold]
        return sorted(found, key=lambda s: (-main(s, cap), -tie(s, cap), s["key"]))

    serve = list(capabilities)
    if order == "scarce_first":
        serve.sort(key=lambda cap: len(candidates(cap)))
    picked, taken, turn = [], set(), 0
    while serve and len(picked) < budget:
        turn += 1
        share = max((budget - len(picked)) // len(serve), 1)
        for cap in list(serve):
            deal = min(share, budget - len(picked))
            if not deal:
                break
            contents = {}
            for sample in candidates(cap):
                for name in bins_of(sample) if sample["row"] not in taken else []:
                    contents.setdefault(name, []).append(sample)
            if not contents:
                serve.remove(cap)
            to_come = len(contents)
            for name in sorted(contents, key=lambda b: (len(contents[b]), b[0] or "", b[1])):
                allowed = -(-deal // to_come)
                for sample in contents[name]:
                    if allowed and sample["row"] not in taken:
                        picked.append((sample["row"], cap, name[0], turn))
                        taken.add(sample["row"])
                        allowed, deal = allowed - 1, deal - 1
                to_come -= 1
    rest = [
        s for s in samples if s["row"] not in taken and any(main(s, cap) is not None for cap in capabilities)
    ]
    if len(picked) < budget and (fill == "none" or len(picked) + len(rest) < budget):
        return len(picked) + (0 if fill == "none" else len(rest))
    rest.sort(key=lambda s: (-best(s)[0] if fill == "score" else 0, s["key"]))
    return picked + [(s["row"], capabilities[-best(s)[1]], None, 0) for s in rest[: budget - len(picked)]]


@pytest.mark.slow
def test_equals_the_oracle_in_order_on_600_random_cases():
    outcomes = Counter()
    for case in range(600):
        rng = np.random.default_rng(case)
        n = int(rng.integers(1, 45))
        table = random_table(case, n, missing=float(rng.choice([0.0, 0.1, 0.5])))
        capabilities = [str(c) for c in rng.permutation(CAPABILITIES)[: rng.integers(1, 4)]]
        params = {
            "capabilities": capabilities,
            "bins": str(rng.choice(["none", "source", "style", "style_x_source"])),
            "score": str(rng.choice(["argmax", "expected"])),
            "threshold": float(rng.choice([0, 0, 2, 4.1])),
            "order": str(rng.choice(["given", "scarce_first"])),
            "fill": str(rng.choice(["none", "score", "random"])),
        }
        budget = int(rng.integers(1, n + 1))
        expected = oracle(table, budget, case, **params)
        try:
            found = select(table, budget, case, **params)
        except BudgetError as error:
            assert error.available == expected, (case, params)
            outcomes["refused"] += 1
            continue
        reason = found.reason.to_pylist()
        listed = [
            (row, why["capability"], why["style"], why["round"])
            for row, why in zip(found.rows.tolist(), reason, strict=True)
        ]
        assert listed == expected, (case, params)
        assert [why["fill"] for why in reason] == [turn == 0 for *_, turn in expected]
        assert found.notes["filled"] == sum(why["fill"] for why in reason)
        outcomes["filled" if found.notes["filled"] else "rounds"] += 1
        outcomes["later rounds"] += any(why["round"] > 1 for why in reason)
    assert min(outcomes[kind] for kind in ("refused", "filled", "rounds", "later rounds")) > 40, outcomes


def one_capability(scores, styles, sources=None, expected=None):
    n = len(scores)
    columns = {
        "row": np.arange(n),
        "id": [f"i{i}" for i in range(n)],
        "source": sources or ["s"] * n,
        "styles": pa.array(styles, pa.list_(pa.string())),
        "cap_ocr": pa.array(scores, pa.int8()),
    }
    if expected:
        columns["exp_ocr"] = pa.array(expected, pa.float32())
    return pa.table(columns)


def test_best_score_first_and_expected_score_breaks_ties():
    table = one_capability([3, 5, 5, 4, 5], [["word"]] * 5, expected=[3.0, 4.6, 4.9, 4.0, 4.7])
    assert select(table, 4, 0).rows.tolist() == [2, 4, 1, 3]


def test_an_expected_score_of_zero_is_a_value_and_scores_are_compared_as_float32():
    table = one_capability([3, 3, 3], [["word"]] * 3, expected=[0.0, 1.0, None])
    found = select(table, 3, 0)
    assert found.rows.tolist() == [2, 1, 0] and found.reason["expected"].to_pylist() == [3.0, 1.0, 0.0]
    close = table.set_column(4, "cap_ocr", pa.array([3 + 1e-9, 3.0, 2.0]))
    assert select(close, 2, 0).rows.tolist() == [1, 0]


def test_a_bin_is_ranked_by_score_not_by_the_position_of_the_style():
    table = one_capability([1, 5], [["word"], ["yes_no", "word"]])
    assert select(table, 1, 0, bins="none").rows.tolist() == [1]
    # bins: yes_no (1 row) is dealt first and takes row 1, word takes what is left
    assert select(table, 2, 0).rows.tolist() == [1, 0]


def test_bins_share_equally_and_a_short_bin_passes_on():
    styles = [["yes_no"]] * 2 + [["word"]] * 20 + [["multi_choice"]] * 30
    picked = select(one_capability([3] * 52, styles), 22, 0).reason["style"].to_pylist()
    assert Counter(picked) == {"yes_no": 2, "word": 10, "multi_choice": 10}


def test_capabilities_share_equally_and_an_exhausted_one_is_dropped_with_its_round():
    table = random_table(0, 300, missing=0.0)
    only_three = pa.array([5, 5, 5] + [0] * 297, pa.int8())
    table = table.set_column(table.column_names.index("cap_ocr"), "cap_ocr", only_three)
    found = select(table, 90, 0, capabilities=["spatial", "ocr", "logic"])
    shares = Counter(found.reason["capability"].to_pylist())
    assert shares["ocr"] <= 3 and abs(shares["spatial"] - shares["logic"]) <= 1
    assert [key for key in found.notes if key.startswith("exhausted")] == ["exhausted_ocr"]
    assert found.notes["filled"] == 0


def test_threshold_is_strict_and_scores_of_zero_only_come_as_fill():
    table = one_capability([0, 0, 1, 2], [["word"]] * 4, expected=[0.4, 0.2, 1.0, 2.0])
    assert select(table, 1, 0, threshold=1).rows.tolist() == [3]
    found = select(table, 3, 0)
    assert found.rows.tolist() == [3, 2, 0]
    assert found.reason["fill"].to_pylist() == [False, False, True] and found.notes["filled"] == 1
    with pytest.raises(BudgetError) as error:
        select(table, 3, 0, fill="none")
    assert (error.value.requested, error.value.available) == (3, 2)


def test_missing_scores_and_styles_are_counted_and_unscored_rows_never_picked():
    table = one_capability([None, -1, 2, 0], [["word"], None, [], [""]], expected=[5.0, 5.0, None, 0.0])
    found = select(table, 2, 0)
    assert found.rows.tolist() == [2, 3]
    assert found.reason["style"].to_pylist() == ["other", None]
    assert {k: found.notes[k] for k in ("missing_score", "unscored", "without_style", "filled")} == {
        "missing_score": 2,
        "unscored": 2,
        "without_style": 3,
        "filled": 1,
    }
    for fill in ("score", "random"):
        with pytest.raises(BudgetError) as error:
            select(table, 3, 0, fill=fill)
        assert error.value.available == 2
