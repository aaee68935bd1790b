"""Figures of comparisons of 3, 25 and more arms: complete, legible, equal bytes for equal content."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from comparisons import comparison, context
from figure_texts import DEUTERANOPIA, lightness, outside, struck, texts, touching
from PIL import Image

from evaluation.context import Context, Cost, Subset
from evaluation.figures import (
    benchmarks,
    budget,
    cells,
    cost,
    forest,
    means,
    overlap,
    radar,
    style,
    style_map,
)
from evaluation.figures.draw import draw_all, figures
from evaluation.suite import load_suite

BUDGETS = {"5%": -4.0, "10%": 0.0, "30%": 4.0}


def of_budgets(arms):
    """The made-up arms at three budgets, each against random of its own; every fourth lacks the smallest."""
    whole = comparison(arms)
    rest = [arm for arm in whole.arms if arm.arm != "full"]
    several = [
        replace(
            arm,
            arm=f"{arm.arm.replace('selector_', 'method')}_{size[:-1]}",
            budget=size,
            baseline=arm.baseline and f"random_{size[:-1]}",
            mean=replace(arm.mean, mean=arm.mean.mean + up),
            unit_means=tuple(unit + up for unit in arm.unit_means),
            pool_means=tuple(unit + up for unit in arm.pool_means),
        )
        for k, arm in enumerate(rest)
        for size, up in BUDGETS.items()
        if k % 4 != 3 or size != "5%"
    ]
    made = replace(
        whole,
        arms=(whole.arm("full"), *several),
        baseline={size: f"random_{size[:-1]}" for size in BUDGETS},
    )
    sizes = [Subset(arm.arm, 0, int(36 * float(arm.budget[:-1]))) for arm in made.arms]
    return made, replace(context(made), subsets=sizes)


def long_names(arms):
    """Arms whose names are as long as a careless user writes them, or hold a formula."""
    whole = comparison(arms)
    names = {
        arm.arm: f"{arm.arm}_$x_1$_with_all_of_its_hyperparameters_in_its_name_{k}"
        for k, arm in enumerate(whole.arms)
    }
    renamed = replace(
        whole,
        arms=tuple(
            replace(
                arm, arm=names[arm.arm], baseline=arm.baseline and names[arm.baseline], targeted=k % 2 == 0
            )
            for k, arm in enumerate(whole.arms)
        ),
        baseline=names["random"],
        reference_arm=names["full"],
    )
    return renamed, context(renamed)


CASES = {
    "3 arms": lambda: (c := comparison(3), context(c)),
    "25 arms": lambda: (c := comparison(25, pools=3), context(c)),
    "3 arms, real suite": lambda: (c := comparison(3, suite=load_suite("mm14")), context(c)),
    "one benchmark": lambda: (c := comparison(4, suite=one_benchmark()), context(c)),
    "one seed": lambda: (c := comparison(4, seeds=1), context(c)),
    "3 arms at three budgets": lambda: of_budgets(3),
    "25 arms at three budgets": lambda: of_budgets(25),
    "long names": lambda: long_names(9),
}


def one_benchmark():
    suite = load_suite("mini")
    return suite.model_copy(update={"benchmarks": suite.benchmarks[:1]})


def drawn(case):
    made, about = CASES[case]()
    named = [arm.arm for arm in made.arms][:6] if len(made.suite) > 2 else []
    return dict(figures(made, about, named))


@pytest.mark.parametrize("case", CASES)
def test_no_text_touches_another_or_is_struck_through_or_leaves_the_figure(case):
    for name, figure in drawn(case).items():
        assert not list(touching(figure)), name
        assert not outside(figure), name
        assert not struck(figure), name
        assert figure.get_size_inches()[0] <= style.PAGE + 1e-6 or name in ("forest", "overlap"), name


def test_the_checks_of_texts_find_what_they_look_for():
    made = comparison(3)
    figure = means.draw(made)
    axes = figure.axes[0]
    axes.text(28.5, 1.5, "through the blind level")
    axes.text(45, 0.0, "over it"), axes.text(45.1, 0.0, "another")
    axes.text(60, -3.0, "beyond the upper end")
    assert struck(figure) == ["through the blind level"]
    assert list(touching(figure)) == [("over it", "another")] and outside(figure) == ["beyond the upper end"]
    spokes = radar.draw(made, ["mmssr", "random", "full"])
    for text in spokes.axes[0].texts:
        text.set_bbox(None)
    assert struck(spokes)


@pytest.mark.slow
def test_two_hundred_arms_have_a_row_and_a_name_each():
    whole = comparison(200)
    figure = forest.draw(whole)
    words = [text for text, _ in texts(figure)]
    assert {arm.arm for arm in whole.arms if arm.baseline} <= set(words)
    assert not list(touching(figure)) and figure.get_size_inches()[0] == style.PAGE
    figure = means.draw(whole)
    assert not list(touching(figure))
    assert not list(touching(cost.draw(whole, context(whole))))
    matrix = overlap.draw(context(whole))
    assert not list(touching(matrix))
    assert {arm.arm for arm in whole.arms} - {"full"} <= {text for text, _ in texts(matrix)}


def test_every_figure_is_three_files_of_the_same_bytes_every_time(tmp_path):
    made, about = CASES["3 arms"]()
    one = draw_all(made, about, tmp_path / "one", ["mmssr", "random"])
    two = draw_all(made, about, tmp_path / "two", ["mmssr", "random"])
    names = ["forest", "benchmarks", "style_map", "overlap", "cost", "means", "radar"]
    assert [path.name for path in one] == names and one[0].parent == tmp_path / "one" / "figures"
    for first, second in zip(one, two, strict=True):
        for kind in ("svg", "pdf", "png"):
            content = first.with_suffix(f".{kind}").read_bytes()
            assert content == second.with_suffix(f".{kind}").read_bytes()
            assert b"Matplotlib" not in content and b"2026" not in content[:2000]
        assert b"/Type3" not in first.with_suffix(".pdf").read_bytes()
        picture = np.asarray(Image.open(first.with_suffix(".png")).convert("RGB"))
        assert picture.min() < 60 < picture.max() and min(picture.shape[:2]) > 100
    assert len(list(tmp_path.glob("one/figures/*"))) == 3 * len(names)


def test_what_the_data_cannot_show_is_not_drawn(tmp_path):
    made = comparison(3)
    bare = replace(
        made,
        arms=tuple(replace(a, baseline=None, difference=None, claim=None) for a in made.arms),
        baseline=None,
    )
    assert [name for name, _ in figures(bare, Context("bare"))] == ["means"]
    assert [name for name, _ in figures(made, Context("bare"))] == ["forest", "benchmarks", "means"]
    assert "budget" in dict(figures(*of_budgets(3)))


def test_series_differ_in_grey_and_without_a_cone():
    shades = [lightness(color) for color in style.PALETTE]
    assert min(abs(a - b) for a, b in itertools.combinations(shades, 2)) > 10
    neighbours = list(itertools.pairwise([*style.PALETTE, style.PALETTE[0]]))
    for a, b in neighbours:
        assert abs(lightness(a) - lightness(b)) > 25
        assert abs(lightness(a, DEUTERANOPIA) - lightness(b, DEUTERANOPIA)) > 20
    looks = [style.looks(k) for k in range(42)]
    assert len({(look["color"], look["marker"]) for look in looks}) == 42
    assert len({lightness(color) // 10 for color in forest.COLORS.values()}) == len(forest.COLORS)
    assert len(set(forest.MARKERS.values())) == len(forest.MARKERS)


def test_the_forest_shows_the_corrected_interval_and_the_words():
    made = comparison(6)
    figure = forest.draw(made)
    words = {text for text, _ in texts(figure)}
    assert {"beats random*", "loses to random", "equivalent within 1 point"} <= words
    assert "undecided: needs 12 pools x 2 seeds" in words and "corrected for the family of 4" in words
    d = made.arm("mmssr").difference
    wide, own = ([tuple(part[:, 0]) for part in c.get_segments()] for c in figure.axes[0].collections[:2])
    assert (d.corrected_low, d.corrected_high) in wide and (d.low, d.high) in own
    assert f"+2.10 [+{d.corrected_low:.2f}, +{d.corrected_high:.2f}]" in words


def test_controls_stand_apart_and_arms_are_sorted():
    made = comparison(8)
    arms = tuple(replace(a, control="balanced" if a.arm == "mmssr" else "") for a in made.arms)
    figure = forest.draw(replace(made, arms=arms))
    left = [(text.get_position()[1], name) for name, text in texts(figure) if text.axes is figure.axes[0]]
    rows = [name for _, name in sorted(left) if name.startswith(("selector", "mmssr", "controls"))]
    assert rows[-2:] == ["controls", "mmssr"]
    order = sorted(rows[:-2], key=lambda name: -made.arm(name).difference.value)
    assert rows[:-2] == order


def test_one_seed_makes_no_claim():
    made = comparison(4, seeds=1)
    nan = float("nan")
    arms = tuple(
        replace(
            arm,
            difference=replace(arm.difference, low=nan, high=nan, corrected_low=nan, corrected_high=nan),
            claim=replace(arm.claim, verdict=None, reason="one seed"),
        )
        if arm.difference
        else arm
        for arm in made.arms
    )
    words = [text for text, _ in texts(forest.draw(replace(made, arms=arms)))]
    assert words.count("no verdict") == 2 and "+2.10" in words and not any("beats" in word for word in words)


def test_a_far_reference_does_not_squeeze_the_others():
    made = comparison(5)
    far = replace(made.arm("mmssr").difference, value=40.0, low=38.0, high=42.0, corrected_high=44.0)
    arms = (replace(made.arm("full"), baseline="random", difference=far), *made.arms[1:])
    figure = forest.draw(replace(made, arms=arms))
    assert figure.axes[0].get_xlim()[1] < 10 and "(anchor)" in [text for text, _ in texts(figure)]


def test_the_band_of_random_is_its_interval_by_t():
    made, about = of_budgets(3)
    figure = budget.draw(made, about)
    arm = made.arm("random_10")
    units = np.array(arm.unit_means)
    half = 4.302653 * units.std(ddof=1) / np.sqrt(3)  # t of 2 degrees of freedom
    band = figure.axes[0].collections[0].get_paths()[0].vertices
    at = band[np.isclose(band[:, 0], 360)][:, 1]
    assert min(at) == pytest.approx(units.mean() - half) and max(at) == pytest.approx(units.mean() + half)


def test_the_frontier_is_of_arms_that_nothing_cheaper_reaches():
    made = comparison(4)
    arms = [
        replace(a, mean=replace(a.mean, mean=m)) for a, m in zip(made.arms, (50, 40, 45, 44), strict=True)
    ]
    prices = dict(zip((a.arm for a in arms), (9.0, 1.0, 2.0, 3.0), strict=True))
    assert cost.frontier(arms, prices) == [arms[1].arm, arms[2].arm, arms[0].arm]
    assert cost.frontier(arms[1:], dict.fromkeys(prices, 1.0)) == [arms[2].arm]
    like = [replace(arms[2], control="matched", control_of=arms[0].arm), *arms[:2]]
    assert cost.frontier(like, prices) == [arms[1].arm, arms[0].arm], "no choice without its arm"


def test_arms_without_any_choice_among_them_have_no_frontier():
    made, about = of_budgets(3)
    arms = tuple(replace(arm, control="tokens", control_of="x") for arm in made.arms)
    assert cost.draw(replace(made, arms=arms), about)


def test_the_cost_is_of_the_kind_that_most_arms_have_and_the_others_are_counted():
    made = comparison(4)
    names = [arm.arm for arm in made.arms]
    some = {name: Cost(selection_seconds=1.0, training_seconds=2.0) for name in names[:3]}
    some[names[0]] = Cost(1.0, 5.0, None, None, 2.0, 6.0)
    assert cost.totals(made, Context("c", costs=some)) == ("seconds", dict.fromkeys(names[:3], 3.0))
    words = [text for text, _ in texts(cost.draw(made, Context("c", costs=some)))]
    assert "selection and training, seconds" in words and "not drawn: 1 of unknown cost" in words
    with pytest.raises(ValueError, match="no arm has a known cost"):
        cost.draw(made, Context("c"))


def test_the_map_divides_the_subset_by_the_pool(monkeypatch):
    half, most = {"ocr | word": 0.5, "logic | word": 0.5}, {"ocr | word": 0.25, "logic | word": 0.75}
    mixes = ({"ocr | word": 1.0}, half)
    subsets = [Subset("a", k, 10, mix={style_map.KIND: mix}) for k, mix in enumerate(mixes)]
    about = Context("c", pool_mix={style_map.KIND: most}, subsets=subsets)
    written = []
    monkeypatch.setattr(style_map.cells, "fill", lambda axes, values, texts, *look: written.append(texts))
    figure = style_map.draw(about, "a")
    assert [name for name, _ in texts(figure)].count("a ÷ pool") == 1
    assert written == [[["75.0"], ["25.0"]], [["0.3"], ["3.0"]]]  # logic: 0.25 / 0.75; ocr: 0.75 / 0.25
    with pytest.raises(ValueError, match="unknown for its subsets"):
        style_map.draw(about, "b")
    with pytest.raises(ValueError, match="unknown for the pool"):
        style_map.draw(Context("c", subsets=subsets), "a")


def test_a_radar_shows_the_arms_that_were_named_and_no_others():
    made = comparison(25)
    words = [text for text, _ in texts(radar.draw(made, ["mmssr", "random"]))]
    assert "mmssr" in words and "selector_1" not in words
    with pytest.raises(ValueError, match="7 arms were named, 6 can be told apart"):
        radar.draw(made, [arm.arm for arm in made.arms[:7]])
    with pytest.raises(ValueError, match="no arm is named gone"):
        radar.draw(made, ["gone"])
    with pytest.raises(ValueError, match="a radar needs three"):
        radar.draw(comparison(3, suite=one_benchmark()), ["mmssr"])


def test_levels_are_named_in_the_legend():
    words = [text for text, _ in texts(means.draw(comparison(3)))]
    assert "chance level 25.0" in words and "blind level 30.0" in words


@pytest.mark.parametrize("arms", [3, 25])
def test_numbers_fit_into_their_cells(arms, monkeypatch):
    made, about = CASES[f"{arms} arms"]()
    filled = []
    monkeypatch.setattr(cells, "fill", lambda axes, values, texts, *look: filled.append((axes, texts)))
    for draw in (
        lambda: benchmarks.draw(made),
        lambda: overlap.draw(about),
        lambda: style_map.draw(about, "mmssr"),
    ):
        width = draw().get_size_inches()[0]
        axes, rows = filled[-1]
        assert len(rows) > 1 or arms == 3
        room = axes.get_position().width * width / len(rows[0])
        assert (
            style.widest([text for row in rows for text in row], style.TINY) < 0.82 * room
        )  # inside a frame


@pytest.mark.parametrize("n", [1, 2, 7, 40])
def test_names_are_spread_in_order_without_leaving_the_axes(n):
    rng = np.random.default_rng(n)
    wanted = rng.beta(0.5, 0.5, n)
    placed = np.array(style.spread(list(wanted), 0.05, 0.0, 1.0))
    assert (placed >= -1e-12).all() and (placed <= 1 + 1e-12).all()
    order = np.argsort(wanted, kind="stable")
    gaps = np.diff(placed[order])
    assert (gaps >= min(0.05, 1 / max(n - 1, 1)) - 1e-12).all()
    if n == 1:
        assert placed[0] == wanted[0]


def test_a_text_is_shortened_in_its_middle():
    short = style.shorten("a_long_name_with_many_words_30", 1.0)
    assert "…" in short and style.text_width(short) <= 1.0 and short.endswith("30") and short.startswith("a_")
    assert style.shorten("short", 1.0) == "short"
