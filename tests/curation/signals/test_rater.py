"""Training targets for scorer and styler, their split and balance, and the agreement report."""

import numpy as np
import pyarrow as pa
import pytest
import yaml
from scipy import stats

from curation.signals.raters.agreement import (
    auc,
    capability_report,
    choose_threshold,
    precision_at_n,
    spearman,
    style_report,
)
from curation.signals.raters.queries import PromptError, Queries, load_queries
from curation.signals.raters.targets import (
    balanced,
    repeat_factors,
    scorer_targets,
    split_labels,
    styler_targets,
)
from curation.taxonomy import CAPABILITY_KEYS, STYLES
from training.one_turn import LINES


def labels_table(scores: np.ndarray, styles: list[list[str]]) -> pa.Table:
    """Labels from scores [n, 14]; -1 is missing."""
    columns = {
        f"cap_{key}": pa.array([int(s) if s >= 0 else None for s in scores[:, k]], pa.int8())
        for k, key in enumerate(CAPABILITY_KEYS)
    }
    rows = range(10, 10 + len(scores))
    return pa.table(
        {
            "row": pa.array(rows, pa.int32()),
            "id": [f"s{r}" for r in rows],
            **columns,
            "styles": pa.array(styles, pa.list_(pa.string())),
        }
    )


@pytest.fixture
def labels():
    scores = np.tile(np.arange(14) % 6, (4, 1))
    scores[1, 3:5] = -1
    scores[2] = -1
    return labels_table(scores, [["word"], ["chain_of_thought", "yes_no"], [], ["coordinate"]])


@pytest.mark.parametrize("name", ["compact", "official_style", "official_flat"])
def test_shipped_prompts_load_and_their_styles_come_back(name):
    queries = load_queries(name)
    assert len(set(queries.capability)) == 14 and "fine-grained recognition" in queries.capability[4]
    assert "{" not in queries.style
    for styles in [["word"], ["yes_no", "chain_of_thought"], list(STYLES)]:
        assert queries.parse_styles(queries.style_answer(styles)) == styles
    others = {"compact", "official_style", "official_flat"} - {name}
    assert queries.hash not in {load_queries(other).hash for other in others}
    assert queries.flat == (LINES if name == "official_flat" else False)


def test_style_text_is_parsed_leniently_and_unknown_text_is_other():
    queries = load_queries("official_style")
    assert queries.parse_styles(" Yes / No ,word / short - phrase. ") == ["yes_no", "word"]
    assert queries.parse_styles("word/short-phrase, haiku, sonnet, word/short-phrase") == ["word", "other"]
    assert queries.parse_styles(" , ") == ["other"]


def test_prompt_files_are_checked(tmp_path):
    with pytest.raises(PromptError, match="shipped are compact, official_flat, official_style"):
        load_queries("compct")
    good = {
        "capability": "rate {phrase}",
        "style": "s",
        "style_separator": ",",
        "styles": {k: k for k in STYLES},
    }
    bad = [
        ({"extra": 1}, "exactly the keys"),
        ({"capability": "rate"}, "must contain {phrase}"),
        ({"styles": {"word": "word"}}, "phrase for each"),
        ({"style_separator": ";"}, "comma"),
        ({"styles": dict.fromkeys(STYLES, "same")}, "must differ"),
    ]
    for change, message in bad:
        path = tmp_path / "p.yaml"
        path.write_text(yaml.safe_dump(good | change))
        with pytest.raises(PromptError, match=message):
            load_queries(path)
    path.write_text("capability: [rate")
    with pytest.raises(PromptError, match=r"p\.yaml is not valid YAML: .*line 1"):
        load_queries(path)
    path.write_text(yaml.safe_dump(good))
    assert isinstance(load_queries(str(path)), Queries)


def test_scorer_targets_hold_the_digits_and_skip_missing_scores(labels):
    queries = load_queries("compact")
    targets, counts = scorer_targets(labels, queries)
    assert [t.row for t in targets] == [10, 11, 13]
    assert targets[0].answers == tuple((q, str(k % 6)) for k, q in enumerate(queries.capability))
    assert queries.capability[3] not in dict(targets[1].answers) and len(targets[1].answers) == 12
    assert counts == {"samples": 3, "answers": 40, "missing_answers": 16, "missing_samples": 1}


def test_styler_targets_list_the_phrases_in_taxonomy_order(labels):
    targets, counts = styler_targets(labels, load_queries("compact"))
    assert [t.answers[0] for t in targets] == [
        ("style ?", "word"),
        ("style ?", "binary , steps"),
        ("style ?", "coordinate"),
    ]
    assert counts == {"samples": 3, "missing_samples": 1}


def test_the_split_is_by_id_and_of_the_stated_share():
    table = labels_table(np.zeros((2000, 14), int), [["word"]] * 2000)
    train, held = split_labels(table, 0.2, seed=1)
    assert sorted(train["row"].to_pylist() + held["row"].to_pylist()) == table["row"].to_pylist()
    assert 330 <= len(held) <= 470
    order = np.random.default_rng(0).permutation(2000)
    assert set(split_labels(table.take(order), 0.2, seed=1)[1]["id"].to_pylist()) == set(
        held["id"].to_pylist()
    )
    assert set(split_labels(table, 0.2, seed=2)[1]["id"].to_pylist()) != set(held["id"].to_pylist())
    assert len(split_labels(table, 0.0)[1]) == 0


def test_rare_positives_are_repeated_by_the_square_root_rule():
    scores = np.zeros((1000, 14), int)
    scores[:500, 0] = 3
    scores[::100, 1] = 4  # 10 of 1,000: sqrt(0.1 / 0.01) = 3.16
    scores[:, 2] = 1  # one point is noise, not a positive
    table = labels_table(scores, [["word"]] * 1000)
    factors = repeat_factors(table, 0.1)
    rare = scores[:, 1] > 0
    assert np.all(factors[~rare] == 1) and set(factors[rare]) <= {3, 4} and 30 <= factors[rare].sum() <= 36
    assert np.all(repeat_factors(table, 0.0) == 1)
    targets, _ = scorer_targets(table, load_queries("compact"))
    assert len(balanced(targets, table, 0.1)) == factors.sum()


def test_spearman_and_auc_agree_with_their_definitions():
    rng = np.random.default_rng(0)
    predicted, truth = rng.random(60).round(1), rng.integers(0, 6, 60)
    x, y = stats.rankdata(predicted), stats.rankdata(truth)
    assert spearman(predicted, truth) == pytest.approx(np.corrcoef(x, y)[0, 1])
    pairs = [(p > q) + 0.5 * (p == q) for p in predicted[truth > 2] for q in predicted[truth <= 2]]
    assert auc(predicted, truth > 2) == pytest.approx(np.mean(pairs))
    assert spearman(predicted, np.zeros(60)) is None and auc(predicted, truth > 9) is None


def test_precision_at_n_shares_out_ties_at_the_cut():
    positive = np.array([True, False, True, False, False])
    assert precision_at_n(np.array([5.0, 4, 3, 2, 1]), positive) == 0.5
    assert precision_at_n(np.array([5.0, 4, 6, 2, 1]), positive) == 1.0
    assert precision_at_n(np.array([5.0, 1, 1, 1, 1]), positive) == pytest.approx((1 + 0.25) / 2)
    assert precision_at_n(np.zeros(5), positive) == pytest.approx(0.4)
    assert precision_at_n(np.zeros(5), np.zeros(5, bool)) is None


def test_the_capability_report_uses_only_held_out_and_known_labels():
    rng = np.random.default_rng(1)
    scores = rng.integers(0, 6, (50, 14))
    scores[:5, 0] = -1
    labels = labels_table(scores, [["word"]] * 50)
    expected = np.maximum(scores, 0) + 0.5
    expected[:5, 0] = 99  # must not count
    order = rng.permutation(50)
    columns = {}
    for k, key in enumerate(CAPABILITY_KEYS):
        columns |= {
            f"exp_{key}": expected[order, k].astype(np.float32),
            f"mass_{key}": np.full(50, 0.9, np.float32),
        }
    signal = pa.table({"row": pa.array(10 + order, pa.int32()), **columns})
    report = capability_report(signal, labels)
    first = report["capabilities"]["spatial"]
    assert first["n"] == 45 and first["mae"] == pytest.approx(0.5) and first["spearman"] == pytest.approx(1)
    assert (
        first["auc"] == first["precision"] == 1
        and first["zeros"] == np.mean(scores[5:, 0] == 0)
        and first["mass"] == pytest.approx(0.9)
    )
    assert report["mean"]["spearman"] == pytest.approx(1)
    with pytest.raises(ValueError, match="labelled rows are not in the signal"):
        capability_report(signal.slice(1), labels)


def test_the_style_report_counts_exact_sets_and_f1():
    labels = labels_table(np.zeros((4, 14), int), [["word"], ["word", "yes_no"], ["yes_no"], []])
    signal = pa.table(
        {
            "row": pa.array([13, 12, 11, 10], pa.int32()),
            "styles": pa.array([["word"], ["yes_no", "other"], ["yes_no"], ["word"]], pa.list_(pa.string())),
        }
    )
    report = style_report(signal, labels)
    assert (
        report["n"] == 3
        and report["exact"] == pytest.approx(1 / 3)
        and report["other"] == pytest.approx(1 / 3)
    )
    assert report["styles"]["word"] == {"n": 2, "f1": pytest.approx(2 / 3)}
    assert report["styles"]["yes_no"] == {"n": 2, "f1": 1.0}
    assert report["styles"]["comparison"] == {"n": 0, "f1": None} and report["macro_f1"] == pytest.approx(
        5 / 6
    )


def test_a_sample_whose_styles_are_missing_is_left_out_and_counted():
    """In official mode a sample without an image has no styles, but may have labelled ones."""
    labels = labels_table(np.zeros((3, 14), int), [["word"], ["word"], ["yes_no"]])
    signal = pa.table(
        {"row": labels["row"], "styles": pa.array([["word"], None, ["word"]], pa.list_(pa.string()))}
    )
    report = style_report(signal, labels)
    assert (report["n"], report["missing"], report["exact"], report["other"]) == (2, 1, 0.5, 0)
    assert report["styles"]["word"] == {"n": 1, "f1": pytest.approx(2 / 3)} and report["styles"][
        "yes_no"
    ] == {"n": 1, "f1": 0.0}
    p = np.full((3, 9), 0.01)
    p[:, 1], p[2, 2] = 0.9, 0.8
    logp = {
        f"style_logp_{key}": pa.array(np.log(p[:, k]), pa.float32(), mask=np.array([False, True, False]))
        for k, key in enumerate(STYLES)
    }
    labels = labels_table(np.zeros((3, 14), int), [["coordinate"], ["word"], ["coordinate", "yes_no"]])
    threshold, report = choose_threshold(pa.table({"row": labels["row"], **logp}), labels)
    assert (threshold, report["n"], report["missing"], report["exact"]) == (0.8, 2, 1, 1.0)


def test_scores_without_an_expectation_are_compared_as_they_are(labels):
    rows = labels["row"]
    columns = {
        f"cap_{key}": pa.array([k % 6, None, 1, (k + 1) % 6], pa.int8())
        for k, key in enumerate(CAPABILITY_KEYS)
    }
    columns |= {
        f"{kind}_{key}": pa.nulls(4, pa.float32()) for kind in ("exp", "mass") for key in CAPABILITY_KEYS
    }
    report = capability_report(pa.table({"row": rows, **columns}), labels)
    assert {m["n"] for m in report["capabilities"].values()} == {2}, (
        "of four rows, one has no label and one no score"
    )
    assert report["capabilities"]["ocr"]["mae"] == 0.5 and report["mean"]["mass"] is None


def test_the_threshold_with_the_best_f1_is_chosen():
    """The labelled second style has 0.35 of the first one's probability, an unlabelled one 0.15."""
    p = np.full((6, 9), 0.01)
    p[:, 0], p[:3, 1], p[3:, 1] = 0.5, 0.5 * 0.35, 0.5 * 0.15
    signal = pa.table(
        {
            "row": range(6),
            **{f"style_logp_{key}": np.log(p[:, k]).astype(np.float32) for k, key in enumerate(STYLES)},
        }
    )
    first, second = list(STYLES)[:2]
    labels = labels_table(np.zeros((6, 14), int), [[first, second]] * 3 + [[first]] * 3).set_column(
        0, "row", pa.array(range(6))
    )
    threshold, report = choose_threshold(signal, labels)
    assert threshold == 0.3 and report["exact"] == report["macro_f1"] == 1.0
    assert choose_threshold(signal, labels, grid=(0.9, 0.8))[0] == 0.9
