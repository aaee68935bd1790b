"""The documents: links and anchors, commands that exist, citation and licence, nothing of one machine."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from curation import closure

REPOSITORY = Path(__file__).parents[1]
SKIPPED = {".venv", ".cache", ".git", "store", "runs", "build", "demo", "node_modules"}
WIDTH = 110
PACKAGES = "curation", "training", "evaluation", "recipes"


def documents() -> list[Path]:
    """Every Markdown file of the repository, and the citation file."""
    files = [*REPOSITORY.rglob("*.md"), REPOSITORY / "CITATION.cff"]
    return sorted(f for f in files if not SKIPPED & set(f.relative_to(REPOSITORY).parts))


DOCUMENTS = documents()
PAGES = [file for file in DOCUMENTS if file.suffix == ".md" and "results" not in file.parent.parent.parts]
"""Documents that people wrote: all but the reports that recipes wrote."""


def name(file: Path) -> str:
    return file.relative_to(REPOSITORY).as_posix()


def prose(text: str) -> str:
    """A page without its code blocks, each replaced by as many empty lines."""
    blocks = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
    return blocks.sub(lambda block: "\n" * block[0].count("\n"), text)


def anchors(text: str) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    found: dict[str, int] = {}
    for heading in re.findall(r"^#+ +(.+?) *#*$", prose(text), re.MULTILINE):
        plain = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).replace("`", "").lower()
        slug = re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")
        found[slug] = found.get(slug, -1) + 1
        if found[slug]:
            found[f"{slug}-{found[slug]}"] = 0
    return set(found)


def links(text: str) -> list[str]:
    """Targets of the links and pictures of a page that stay inside the repository."""
    targets = re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`\n]*`", "", prose(text)))
    return [target for target in targets if not re.match(r"[a-z]+:", target)]


# --------------------------------------------------------------------------------------------- layout


def test_the_readme_is_short():
    lines = (REPOSITORY / "README.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 120
    results = lines[lines.index("## What comes out") :]
    rows = [line for line in results[: results.index("## The shortest recipe")] if line.startswith("|")]
    assert 0 < len(rows) - 2 <= 5, "a table of at most five rows of results"


@pytest.mark.parametrize(
    "file",
    [
        "README.md",
        "CONTRIBUTING.md",
        "CHANGELOG.md",
        "tests/README.md",
        "recipes/results/README.md",
        "curation/mini/README.md",
        *(f"{package}/README.md" for package in PACKAGES),
    ],
)
def test_lines_outside_tables_are_not_wide(file):
    text = (REPOSITORY / file).read_text(encoding="utf-8")
    wide = [
        line for line in prose(text).splitlines() if len(line) > WIDTH and not line.startswith(("|", "!["))
    ]
    code = re.findall(r"^```(?!diff)\w*\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    wide += [line for block in code for line in block.splitlines() if len(line) > WIDTH + 10]
    assert not wide


@pytest.mark.parametrize("file", PAGES, ids=name)
def test_tables_have_the_same_number_of_cells_in_every_row(file):
    for table in re.findall(r"(?:^\|.*\|$\n?)+", prose(file.read_text(encoding="utf-8")), re.MULTILINE):
        counts = {len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}
        assert len(counts) == 1, table.splitlines()[0]


# --------------------------------------------------------------------------------------------- links


@pytest.mark.parametrize("file", [file for file in DOCUMENTS if file.suffix == ".md"], ids=name)
def test_every_link_and_anchor_exists(file):
    text = file.read_text(encoding="utf-8")
    for target in links(text):
        path, _, anchor = target.partition("#")
        linked = (file.parent / path).resolve() if path else file
        assert linked.exists(), f"{name(file)}: {target} does not exist"
        assert linked.is_relative_to(REPOSITORY), f"{name(file)}: {target} leaves the repository"
        if anchor:
            known = anchors(linked.read_text(encoding="utf-8"))
            assert anchor in known, f"{name(file)}: {target}: the page has {sorted(known)}"


def test_the_readme_leads_to_what_new_users_look_for():
    """GPU set-up, own data, a new selector, the meaning of /FULL and the licence are one click away."""
    targets = links((REPOSITORY / "README.md").read_text(encoding="utf-8"))
    for wanted in (
        "training/README.md#gpus",
        "curation/README.md#your-own-data",
        "CONTRIBUTING.md#three-worked-examples",
        "evaluation/README.md#words-of-the-report",
        "LICENSE",
        "CITATION.cff",
    ):
        assert wanted in targets
    for page in ("CONTRIBUTING.md", *(f"{package}/README.md" for package in PACKAGES)):
        assert any(target.startswith(page) for target in targets)


def test_anchors_are_those_of_github():
    page = "# One: two\n## Blind at 10 %\n## Same\n```\n# code\n```\n## Same\n### `a_b` [c](d.md)\n"
    assert anchors(page) == {"one-two", "blind-at-10-", "same", "same-1", "a_b-c"}


# ------------------------------------------------------------------------------------------ commands


def commands() -> list[str]:
    """The modules that documents run with `python -m`, with the sub-command of those that have some."""
    found = set()
    for file in PAGES:
        text = file.read_text(encoding="utf-8")
        for module, word in re.findall(
            r"python -m ((?:curation|training|evaluation|recipes)[\w.]*)(?: (\w+))?", text
        ):
            module = module.rstrip(".")
            word = word if module in ("curation.pool", "recipes.store") else ""
            found.add(f"{module} {word}".strip())
    return sorted(found)


def test_the_documents_name_commands():
    assert {"recipes.run", "recipes.store verify", "curation.pool build", "curation.signals"} <= set(
        commands()
    )


@pytest.mark.parametrize("command", commands())
def test_every_command_of_the_documents_answers_help(command):
    module, *words = command.split()
    assert closure.source(module) or closure.source(f"{module}.__main__"), f"there is no module {module}"
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-m", module, *words, "--help"],
        cwd=REPOSITORY,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0 and done.stdout.startswith("usage: "), done.stderr[-2000:]


@pytest.mark.parametrize("file", PAGES, ids=name)
def test_files_of_the_project_that_documents_name_exist(file):
    """Recipes that are run, and paths in backquotes that begin with a folder of the project."""
    text = file.read_text(encoding="utf-8")
    for recipe in re.findall(
        r"python -m recipes\.(?:run|sweep) ((?:ablations/)?(?:mini|mmssr|mllm|all|targeted|instr)\w*\.yaml)",
        text,
    ):
        assert (REPOSITORY / "recipes" / recipe).is_file(), recipe
    if file.name == "CONTRIBUTING.md":  # names files that its examples add
        return
    for path in re.findall(rf"`((?:{'|'.join(PACKAGES)}|tests)/[\w./]+)`", text):
        assert (REPOSITORY / path).exists(), f"{name(file)}: {path}"


# ------------------------------------------------------------------------- citation, licence, privacy


def test_the_citation_file():
    citation = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors", "license"} <= citation.keys()
    assert citation["cff-version"] == "1.2.0" and citation["type"] == "software"
    project = (REPOSITORY / "pyproject.toml").read_text(encoding="utf-8")
    assert f'version = "{citation["version"]}"' in project and f'license = "{citation["license"]}"' in project
    for reference in citation["references"]:
        assert {"type", "title", "authors"} <= reference.keys()
        assert all({"given-names", "family-names"} == author.keys() for author in reference["authors"])
    cited = {r["identifiers"][0]["value"].removeprefix("arXiv:"): r["url"] for r in citation["references"]}
    assert cited.keys() == {"2503.13383", "2503.20502", "2308.12067"}
    assert all(url.endswith(f"/abs/{number}") for number, url in cited.items())


def test_the_licence_is_the_apache_licence():
    text = (REPOSITORY / "LICENSE").read_text(encoding="utf-8")
    assert "Version 2.0, January 2004" in text and "END OF TERMS AND CONDITIONS" in text
    assert "APPENDIX: How to apply the Apache License to your work." in text
    assert "Copyright 2026 The Winnow authors" in (REPOSITORY / "README.md").read_text(encoding="utf-8")


MACHINE = re.compile(r"(?<![\w./~-])/(?:home|root|work|tmp|mnt|Users|scratch|data|opt|srv|var)/")
REGISTRY = re.compile(
    r"pypi\.org|pythonhosted|ghcr\.io|docker\.io|artifactory|nexus|--index-url|conda\.anaconda", re.I
)


@pytest.mark.parametrize("file", DOCUMENTS, ids=name)
def test_no_document_names_a_path_of_a_machine_or_a_registry(file):
    text = file.read_text(encoding="utf-8")
    assert not MACHINE.search(text) and not REGISTRY.search(text)
