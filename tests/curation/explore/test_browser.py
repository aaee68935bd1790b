"""The page in a headless Chromium, from a file and without network: nothing in the data is run."""

import pytest
from browser import Browser, find_browser
from explore_world import COPIED, COUNT, HOSTILE, PICKED

from curation.explore.__main__ import main
from curation.explore.items import lines

EXECUTABLE = find_browser()
pytestmark = [
    pytest.mark.skipif(EXECUTABLE is None, reason="no Chromium on the PATH"),
    pytest.mark.timeout(240),
]


@pytest.fixture(scope="module")
def browser():
    with Browser(EXECUTABLE) as found:
        found.offline()
        found.screen(1200, 900)
        yield found


@pytest.fixture
def opened(browser, whole):
    """The page with every sample; no script or policy may have complained, and nothing been asked for."""
    browser.problems.clear()
    browser.requests.clear()
    browser.open(whole)
    yield browser
    assert browser.problems == []
    assert [url for url in browser.requests if not url.startswith("data:image/jpeg")] == [whole.as_uri()]


def chosen(browser, **values):
    """Set these filters as a user does; returns the number of samples that are left."""
    for name, value in values.items():
        found = browser.value(
            f"(() => {{ const field = document.getElementById('{name}'); field.value = {value!r};"
            "field.dispatchEvent(new Event('input', {bubbles: true})); return field.value; })()"
        )
        assert found == value, f"{name} has no choice {value}"
    return int(browser.value("document.getElementById('count').textContent").split(" ")[0].replace(",", ""))


def cards(browser):
    return browser.value("[...document.querySelectorAll('#list > article')].map(card => card.textContent)")


def test_markup_is_shown_and_not_run(opened):
    title = opened.value("document.title")
    for number, text in enumerate(HOSTILE):
        assert chosen(opened, text=lines(text).split("\n")[0][:12], order="row") >= 1
        (card,) = [
            card for card in cards(opened) if card.startswith(f"s{number}p") or card.startswith(f"s{number}d")
        ]
        assert lines(text) in card
        opened.value("document.querySelectorAll('#list details').forEach(part => { part.open = true; })")
        opened.value("new Promise(done => setTimeout(done, 50))")
    assert opened.value("document.title") == title != "run"
    assert (
        opened.value("document.querySelectorAll('#list script, #list a, #list u, #list em, #list i').length")
        == 0
    )
    assert opened.value(
        "[...document.querySelectorAll('img')].every(one => one.src.startsWith('data:image/jpeg'))"
    )
    assert opened.value("document.querySelectorAll('script').length") == 2
    assert opened.value("document.querySelectorAll('[onerror], [onload], [href^=javascript]').length") == 0


def test_the_policy_stops_what_a_defect_would_let_in(browser, whole):
    """Markup put in by force: even then no handler runs and nothing is asked for."""
    browser.open(whole)
    browser.problems.clear()
    browser.requests.clear()
    browser.value(
        "document.body.insertAdjacentHTML('beforeend', \"<img src='https://example.invalid/x.png' "
        "onerror='document.title=1'><svg onload='document.title=1'></svg>\")"
    )
    browser.value("new Promise(done => setTimeout(done, 300))")
    assert browser.value("document.title") != "1"
    assert browser.problems and all("Content Security Policy" in str(told) for told in browser.problems)
    browser.problems.clear()
    browser.requests.clear()


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({}, COUNT + 2),
        ({"state": "picked"}, len(PICKED)),
        ({"state": "dropped"}, COUNT - len(PICKED)),
        ({"state": "quarantined"}, 2),
        ({"state": "why:image_missing"}, 1),
        ({"source": "1"}, 20),
        ({"style": "yes_no"}, COUNT // 2),
        ({"capability": "ocr"}, COUNT * 5 // 6),
        ({"capability": "ocr", "least": "5"}, COUNT // 6),
        ({"score": "1", "low": "2", "high": "3"}, 8),
        ({"score": "1", "low": "0"}, COUNT - 1),
        ({"score": "1", "low": "0", "state": "picked", "high": "1"}, 3),
        ({"text": "because 33"}, 1),
        ({"text": "WORD59"}, 1),
        ({"text": "word59", "state": "picked"}, 0),
        ({"found": "copies"}, len(COPIED)),
        ({"found": "leaked"}, 1),
        ({"found": "broken"}, 3),
        ({"found": "words", "state": "dropped"}, 12),
    ],
)
def test_filters_change_the_count(opened, filters, expected):
    assert chosen(opened, **filters) == expected
    assert len(cards(opened)) == min(expected, 24)


def test_what_a_pool_lacks_has_no_filter(browser, world, tmp_path):
    out = tmp_path / "bare.html"
    assert main([str(world / "subset"), "--pool", str(world / "pool"), "--out", str(out)]) == 0
    browser.problems.clear()
    browser.open(out)
    shown = "[...document.querySelectorAll('form select')].filter(one => one.checkVisibility())"
    assert browser.value(f"{shown}.map(one => one.id)") == [
        "state",
        "source",
        "capability",
        "score",
        "found",
        "order",
    ]
    assert chosen(browser, capability="logic") == sum(row % 2 for row in PICKED)
    assert browser.problems == []


def test_one_page_has_no_pager(opened):
    pager = "[...document.querySelectorAll('.pager')].some(one => one.checkVisibility())"
    assert opened.value(pager)
    chosen(opened, state="quarantined")
    assert not opened.value(pager)


def test_reset_shows_all_again(opened):
    assert chosen(opened, state="picked") == len(PICKED)
    opened.value("document.querySelector('button[type=reset]').click()")
    opened.value("new Promise(done => setTimeout(done, 50))")
    assert chosen(opened) == COUNT + 2


def test_pages_show_every_sample_once(opened):
    seen = []
    for _ in range(3):
        seen += opened.value("[...document.querySelectorAll('#list h3')].map(title => title.textContent)")
        opened.value("document.querySelector('.pager button:last-child').click()")
    assert len(seen) == len(set(seen)) == COUNT + 2


def test_leaving_the_text_field_for_a_button_keeps_the_button(opened):
    chosen(opened, text="word")
    kept = opened.value(
        "(() => { const button = document.querySelector('.pager button:last-child');"
        "document.getElementById('text').dispatchEvent(new Event('change', {bubbles: true}));"
        "return button.isConnected; })()"
    )
    assert kept


def test_orders(opened):
    chosen(opened, state="picked", order="rank")
    titles = "[...document.querySelectorAll('#list h3')].map(title => title.textContent)"
    assert opened.value(titles) == [f"s{row}" for row in PICKED]
    chosen(opened, state="picked", score="1", order="high")
    assert opened.value(titles) == [f"s{row}" for row in sorted(PICKED, reverse=True)]


def test_copies_lie_beside_a_sample(opened):
    chosen(opened, found="copies", state="picked")
    assert "not picked" not in cards(opened)[0] and "because 3" in cards(opened)[0]
    opened.value("document.querySelector('#list details').open = true")
    opened.value("new Promise(done => setTimeout(done, 50))")
    beside = opened.value(
        "[...document.querySelectorAll('.copies article h3')].map(title => title.textContent)"
    )
    assert beside == ["s13", "s43"]
    chosen(opened, state="dropped")
    assert "not picked, but its copy s3 is" in cards(opened)[0]


def test_pictures_are_decoded_and_a_broken_one_says_why(opened):
    chosen(opened, text="s0", state="picked")
    sizes = (
        "[...document.querySelectorAll('#list img')].map(one => one.decode().then(() => one.naturalWidth))"
    )
    assert opened.value(f"Promise.all({sizes})") == [160] * opened.value(
        "document.querySelectorAll('#list img').length"
    )
    chosen(opened, found="broken", text="", state="dropped")
    assert "image_truncated" in cards(opened)[0]


def test_every_field_has_a_label_and_the_keyboard_opens_a_sample(opened):
    assert opened.value(
        "[...document.querySelectorAll('input, select')].every(field => field.labels.length === 1)"
    )
    assert opened.value("[...document.querySelectorAll('img')].every(one => one.alt)")
    assert opened.value(
        "[...document.querySelectorAll('button, input, select, summary')].every(one => one.tabIndex === 0)"
    )


@pytest.mark.parametrize("dark", [False, True])
def test_a_phone_shows_the_page_without_scrolling_sideways(opened, whole, dark):
    opened.screen(360, 740, dark=dark)
    opened.requests.clear()
    opened.open(whole)
    opened.value("document.querySelectorAll('details').forEach(part => { part.open = true; })")
    opened.value("new Promise(done => setTimeout(done, 100))")
    assert opened.value("document.documentElement.scrollWidth") <= 360
    light = opened.value("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert light != dark
    opened.screen(1200, 900)
