"""The file: its data cannot leave their element, and its policy allows its own style and script alone."""

import base64
import hashlib
import json
import re

import pytest
from explore_world import HOSTILE

from curation.explore.page import embedded, page

DATA = {"name": "</title><script>1</script>", "items": HOSTILE}


def elements(text, name):
    return re.findall(rf"<{name}[^>]*>(.*?)</{name}>", text, re.DOTALL)


@pytest.mark.parametrize("text", HOSTILE)
def test_embedded_json_holds_no_markup_and_is_the_same_value(text):
    written = embedded({text: [text]})
    assert not set("<>&\u2028\u2029") & set(written)
    assert json.loads(written) == {text: [text]}


def test_no_number_that_json_lacks():
    with pytest.raises(ValueError, match="JSON"):
        embedded([float("nan")])


def test_the_data_are_one_element_of_the_page():
    text = page(DATA)
    scripts = elements(text, "script")
    assert len(scripts) == 2 and json.loads(scripts[0]) == DATA
    assert len(elements(text, "title")) == 1 and "<script>1" not in text
    assert text.count("<script") == 2 and text.count("</script") == 2


def test_the_policy_allows_this_style_and_script_only():
    text = page(DATA)
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text)[1]
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'" and rules["img-src"] == "data:"
    assert rules["base-uri"] == rules["form-action"] == "'none'"
    for name, rule in (("style", "style-src"), ("script", "script-src")):
        digest = hashlib.sha256(elements(text, name)[-1].encode()).digest()
        assert rules[rule] == f"'sha256-{base64.b64encode(digest).decode()}'"
    assert text.index("Content-Security-Policy") < text.index("<title") < text.index("<style")


def test_the_script_makes_no_markup_and_no_request():
    script = elements(page(DATA), "script")[-1]
    for word in (
        "innerHTML",
        "outerHTML",
        "insertAdjacent",
        "document.write",
        "eval(",
        "Function(",
        "fetch(",
    ):
        assert word not in script
    for word in ("XMLHttpRequest", "import(", ".href", "srcdoc", "http:", "https:"):
        assert word not in script.replace("http://www.w3.org/2000/svg", "")


def test_no_style_or_handler_inside_an_element():
    text = page({"name": "x", "items": []})
    assert not re.search(r"<[^>]*\s(style|on\w+)=", text)
    assert "http" not in re.sub(r"http-equiv|http://www.w3.org/2000/svg", "", text)
