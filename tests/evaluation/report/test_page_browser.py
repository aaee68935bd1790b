"""The page in a headless Chromium, from a file and without network: it sorts, filters, and runs nothing."""

import json
from dataclasses import replace

import pytest
from browser import Browser, find_browser
from comparisons import comparison, context

from evaluation.report.page import write_page

EXECUTABLE = find_browser()
pytestmark = [
    pytest.mark.skipif(EXECUTABLE is None, reason="no Chromium on the PATH"),
    pytest.mark.timeout(240),
]
HOSTILE = "<img src=x onerror=\"document.title='run'\"></script><script>document.title='run'</script>"


@pytest.fixture(scope="module")
def browser():
    with Browser(EXECUTABLE) as found:
        found.offline()
        yield found


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """Number of arms -> its page; one arm, the sources and the notes of the smallest have hostile names."""
    found = {}
    for arms in (3, 25, 200):
        made = comparison(arms)
        what = context(made)
        if arms == 3:
            made = replace(made, arms=(*made.arms[:2], replace(made.arms[2], arm=HOSTILE)))
            what = replace(what, title=HOSTILE, notes=[HOSTILE], sources={HOSTILE: {"kept": 1, "copies": 2}})
        out = tmp_path_factory.mktemp(f"arms{arms}")
        (out / "figures").mkdir()
        (out / "figures" / "forest.svg").write_text(_SVG)
        found[arms] = write_page(made, what, out, [out / "figures" / "forest"])
    return found


_SVG = (
    '<svg xmlns="http://www.w3.org/2000/svg" width="60pt" height="30pt"><script>document.title="run"</script>'
    '<rect width="60" height="30" style="fill:#ff0000"/></svg>'
)


@pytest.fixture
def opened(browser, pages):
    """Opens the page with this number of arms; no script or policy may complain, nothing be asked for."""

    def open_page(arms, width=1200, dark=False):
        browser.screen(width, 900, dark=dark)
        browser.problems.clear()
        browser.requests.clear()
        browser.open(pages[arms])
        return browser

    yield open_page
    assert browser.problems == []
    asked = {url for url in browser.requests if not url.startswith("data:image/")}
    assert asked == {path.as_uri() for path in pages.values()} & asked and len(asked) == 1


def column(browser, table, title, group=0):
    """The texts of a column, and the state of its header."""
    return browser.value(
        f"""(() => {{
          const table = document.querySelector('#{table} table');
          const headers = [...table.tHead.rows[0].cells];
          const header = headers.find((cell) => cell.textContent.startsWith({json.dumps(title)}));
          const rows = [...table.tBodies[{group}].rows].filter((row) => row.className !== 'group');
          const texts = rows.map((row) => row.cells[header.cellIndex].textContent);
          return {{sort: header.getAttribute('aria-sort'), texts}};
        }})()"""
    )


def press(browser, table, title):
    """Press a column's header, as the keyboard does."""
    browser.value(
        f"""(() => {{
          const buttons = [...document.querySelectorAll('#{table} table thead button')];
          buttons.find((button) => button.textContent === {json.dumps(title)}).click();
        }})()"""
    )


def shown_rows(browser, section):
    return browser.value(
        f"[...document.querySelectorAll('#{section} tbody tr[data-arm]')]"
        ".filter(row => row.checkVisibility()).map(row => row.dataset.arm)"
    )


def choose(browser, name, value, event="change"):
    browser.value(
        f"(() => {{ const field = document.getElementById('{name}'); field.value = {json.dumps(value)};"
        f"field.dispatchEvent(new Event('{event}', {{bubbles: true}})); }})()"
    )


def test_hostile_texts_are_shown_and_not_run(opened):
    browser = opened(3)
    browser.value("new Promise(done => setTimeout(done, 100))")
    assert browser.value("document.title").startswith(HOSTILE)
    assert browser.value("document.querySelector('h1').textContent") == HOSTILE
    assert HOSTILE in browser.value("document.querySelector('#notes').textContent")
    assert HOSTILE in browser.value("document.querySelector('#claims tbody').textContent")
    assert browser.value("document.querySelectorAll('script').length") == 1
    assert browser.value(
        "[...document.querySelectorAll('img')].every(one => one.src.startsWith('data:image/'))"
    )
    assert browser.value("document.querySelectorAll('[onerror], [onload], [style]').length") == 0


def test_drawings_keep_their_styles(opened):
    """The page's policy allows no inline style; those of a drawing count inside it all the same."""
    browser = opened(3)
    colour = browser.value(
        """(async () => {
          const image = document.querySelector('figure img');
          await image.decode();
          const canvas = document.createElement('canvas');
          const drawing = canvas.getContext('2d');
          drawing.drawImage(image, 0, 0, 60, 30);
          return [...drawing.getImageData(30, 15, 1, 1).data];
        })()"""
    )
    assert colour == [255, 0, 0, 255]


def test_columns_are_sorted_by_value_in_both_directions(opened):
    browser = opened(25)
    assert column(browser, "claims", "mean")["sort"] is None
    for state, reverse in (("descending", True), ("ascending", False)):
        press(browser, "claims", "mean")
        found = column(browser, "claims", "mean")
        values = [float(text.split(" ")[0]) for text in found["texts"]]
        assert found["sort"] == state and values == sorted(values, reverse=reverse) and len(values) == 23
    press(browser, "claims", "arm")
    assert column(browser, "claims", "mean")["sort"] is None
    names = column(browser, "claims", "arm")["texts"]
    assert names == sorted(names, reverse=True)


def test_unknown_values_stay_last_and_levels_stay_below(opened):
    browser = opened(25)
    for _ in range(2):
        press(browser, "costs", "selection, FLOPs")
        assert column(browser, "costs", "selection, FLOPs", 1)["texts"][-1] == "–"
    press(browser, "scores", "mean")
    last = "document.querySelector('#scores table tr:last-child:is(tfoot tr) th').textContent"
    assert browser.value(last) == "blind"


def test_headers_are_reached_and_used_by_keyboard(opened):
    browser = opened(3)
    assert browser.value(
        "[...document.querySelectorAll('thead button')]"
        ".every(one => one.tabIndex === 0 && one.type === 'button')"
    )
    assert browser.value("[...document.querySelectorAll('.scroll')].every(one => one.tabIndex === 0)")
    assert browser.value("[...document.querySelectorAll('th')].every(one => one.scope)")
    assert browser.value(
        "[...document.querySelectorAll('input, select')].every(one => one.labels.length === 1)"
    )
    assert browser.value("[...document.querySelectorAll('figure img')].every(one => one.alt)")


def test_arms_are_filtered_by_name_and_by_claim(opened):
    browser = opened(25)
    assert len(shown_rows(browser, "claims")) == 25
    choose(browser, "filter", "SELECTOR_1", "input")
    expected = ["selector_1", *(f"selector_{k}" for k in range(10, 20))]
    for section in ("claims", "robustness", "power", "costs"):
        assert shown_rows(browser, section) == expected
    assert browser.value("document.getElementById('count').textContent") == "11 of 25 arms"
    choose(browser, "claim", "beats")
    assert shown_rows(browser, "claims") == ["selector_12", "selector_16"]
    browser.value("document.querySelector('button[type=reset]').click()")
    browser.value("new Promise(done => setTimeout(done, 50))")
    assert len(shown_rows(browser, "claims")) == 25
    choose(browser, "claim", "undecided")
    assert len(shown_rows(browser, "words")) == 0 and len(shown_rows(browser, "claims")) == 6


@pytest.mark.parametrize("arms", [3, 25, 200])
@pytest.mark.parametrize("width", [400, 1200])
def test_only_tables_scroll_sideways(opened, arms, width):
    browser = opened(arms, width)
    assert browser.value("document.documentElement.scrollWidth") <= width
    browser.value("document.querySelector('#claims .scroll').scrollLeft = 200")
    left = browser.value(
        "(() => { const box = document.querySelector('#claims .scroll').getBoundingClientRect();"
        "const cell = document.querySelector('#claims tbody tr[data-arm] th').getBoundingClientRect();"
        "return cell.left - box.left; })()"
    )
    assert 0 <= left <= 2


def background(browser):
    return browser.value("getComputedStyle(document.body).backgroundColor")


def test_dark_and_light_follow_the_system_and_the_switch(opened):
    browser = opened(3)
    light = background(browser)
    choose(browser, "theme", "dark")
    dark = background(browser)
    browser.screen(1200, 900, dark=True)
    choose(browser, "theme", "")
    assert background(browser) == dark != light
    choose(browser, "theme", "light")
    assert background(browser) == light == "rgb(255, 255, 255)"
