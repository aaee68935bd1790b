"""`python -m curation.selectors.parity`: what it says of frozen tables, and that the README has its table."""

import json
import re
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import curation
from curation.selectors import parity
from curation.selectors.contract import Published
from curation.selectors.registry import get_selector

README = Path(curation.__path__[0]) / "README.md"


def freeze(folder: Path, name: str, published: list[int | None], selector: str = "length", **params) -> None:
    """Four rows of 4, 3, 2 and 1 tokens, and the places of the published picks."""
    table = pa.table(
        {
            "row": pa.array(range(4), pa.int32()),
            "id": list("abcd"),
            "source": ["s"] * 4,
            "text_tokens": pa.array([4, 3, 2, 1], pa.int32()),
            "published": pa.array(published, pa.int32()),
        }
    )
    meta = {"selector": selector, "params": params, "seed": 0, "budget": 2}
    pq.write_table(table.replace_schema_metadata({parity.META: json.dumps(meta)}), folder / f"{name}.parquet")


def rows(folder: Path) -> dict[str, parity.Compared]:
    return {row.method: row for row in parity.compare_all(folder)}


def test_equal_in_order_and_as_sets(tmp_path):
    freeze(tmp_path, "length", [0, 1, None, None])
    freeze(tmp_path, "length_turned", [1, 0, None, None])
    found = rows(tmp_path)
    assert found["length"].picks() == "equal, in order"
    assert found["length_turned"].picks() == "equal"
    assert found["el2n"].picks() == "not measured"
    assert parity.main(["--tables", str(tmp_path)]) == 0


def test_other_picks_are_wrong(tmp_path, capsys):
    freeze(tmp_path, "length", [0, None, 1, None])
    assert rows(tmp_path)["length"].picks() == "differs (J = 0.33)"
    assert parity.main(["--tables", str(tmp_path), "--json"]) == 1
    out, err = capsys.readouterr()
    (told,) = (row for row in json.loads(out) if row["method"] == "length")
    assert told["jaccard"] == pytest.approx(1 / 3)
    assert "length: published: differs" in err


def test_parameters_that_the_selector_refuses_are_wrong(tmp_path):
    freeze(tmp_path, "length", [0, 1, None, None], rule="widest")
    row = rows(tmp_path)["length"]
    assert row.wrong
    assert "rule must be one of" in row.picks()


def test_a_further_variant_may_differ(tmp_path):
    freeze(tmp_path, "length", [0, 1, None, None])
    frozen = parity.read_frozen(tmp_path / "length.parquet")
    variants = {"published": {}, "short": {"rule": "bottom"}}
    published = Published("longest first", "arXiv 0", variants, {"short": "shortest first"})
    first, second = parity._variants("length", published, frozen)
    assert first.equal and not second.equal
    assert not second.wrong
    assert second.cells() == ("", "shortest first", "short", "differs (J = 0.00)", "")


def test_a_table_of_a_selector_without_a_published_method_is_wrong(tmp_path):
    freeze(tmp_path, "best", [0, 1, None, None], selector="top_k", column="text_tokens")
    assert rows(tmp_path)["best"].picks().startswith("cannot be run: the selector 'top_k' declares no")
    assert parity.main(["--tables", str(tmp_path)]) == 1


@pytest.mark.parametrize("content", ["plain", "nothing"])
def test_tables_that_cannot_be_read(tmp_path, content, capsys):
    if content == "plain":
        pq.write_table(pa.table({"row": [1]}), tmp_path / "a.parquet")
    assert parity.main(["--tables", str(tmp_path)]) == 2
    assert str(tmp_path) in capsys.readouterr().err


def test_writing_between_the_marks(tmp_path):
    freeze(tmp_path, "length", [0, 1, None, None])
    page = tmp_path / "page.md"
    page.write_text(f"a\n\n{parity.BEGIN}\nthe last table\n{parity.END}\n\nb\n")
    assert parity.main(["--tables", str(tmp_path), "--write", str(page)]) == 0
    text = page.read_text()
    assert text.startswith(f"a\n\n{parity.BEGIN}\n| method |")
    assert text.endswith(f"|\n{parity.END}\n\nb\n")
    assert "the last table" not in text
    page.write_text("no marks")
    assert parity.main(["--tables", str(tmp_path), "--write", str(page)]) == 2
    assert page.read_text() == "no marks"


def test_no_published_variant_is_wrong():
    assert [row.method for row in parity.compare_all(parity.TABLES) if row.wrong] == []


def test_docstrings_say_by_how_much_the_variants_differ():
    for row in parity.compare_all(parity.TABLES):
        if not row.first:
            select = get_selector(row.selector)
            text = " ".join(f"{sys.modules[select.__module__].__doc__} {select.__doc__}".split())
            figure = f"{row.jaccard:.2f}"
            assert re.search(rf"Jaccard {figure}|{figure}\W+Jaccard", text), f"{row.method}: {figure}"


def test_rules_fit_a_line_of_a_table():
    for row in parity.compare_all(parity.TABLES):
        assert 0 < len(row.rule) <= 200, row.method
        assert row.source


def test_the_readme_has_the_table():
    text = README.read_text("utf-8")
    table = parity.markdown(parity.compare_all(parity.TABLES))
    assert parity.written_into(text, table) == text, (
        "run python -m curation.selectors.parity --write curation/README.md"
    )
