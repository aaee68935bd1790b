"""The hash of a stage's code covers all statements that it imports, and neither prose nor layout."""

import subprocess
import sys

import pytest

from recipes import closure
from recipes.code import Stages
from recipes.errors import RecipeError

STAGE = '''\
"""A stage."""

from pathlib import Path

from library.a import A

NAMES = Path(__file__).parent / "names.txt"


def run(config, inputs, out, progress):
    """Writes nothing."""
    from library import lazy

    return lazy.work(A)
'''
FILES = {
    "stages/__init__.py": "",
    "stages/one.py": STAGE,
    "stages/names.txt": "a b c\n",
    "library/__init__.py": "",
    "library/a.py": "import library.deep.b\n\nA = 1\n",
    "library/deep/__init__.py": "",
    "library/deep/b.py": "from ..c import C\n\nB = [C, 2]\n",
    "library/c.py": "C = 3\n",
    "library/lazy.py": "from importlib import import_module\n\n\n"
    "def work(a):\n    return import_module('library.named')\n",
    "library/named.py": "N = 1\n",
    "library/unused.py": "U = 1\n",
    "library/types.py": "T = int\n",
}


@pytest.fixture
def project(tmp_path, monkeypatch):
    for name, text in FILES.items():
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


TYPED = """\
from typing import TYPE_CHECKING

import library.deep.b

if TYPE_CHECKING:
    from library import types
A = 1
"""


def code_hash(*modules: str) -> str:
    for cached in (closure.source, closure._code_hash):
        cached.cache_clear()
    return Stages("stages").code_hash("one", *modules)


def test_the_closure_contains_all_imports(project):
    assert set(closure.closure("stages.one")) == {
        *("stages", "stages.one", "library", "library.a", "library.c", "library.lazy", "library.named"),
        *("library.deep", "library.deep.b"),
    }


@pytest.mark.parametrize(
    "name, text",
    [
        ("stages/one.py", STAGE.replace("A stage.", "Reworded.").replace("Writes nothing.", "Reworded.")),
        ("stages/one.py", STAGE.replace('    """Writes nothing."""\n', "")),
        (
            "stages/one.py",
            STAGE.replace("lazy.work(A)", "(\n        lazy.work(  # why\n            A\n    ))"),
        ),
        ("library/a.py", 'import library.deep.b\n\nA = 1\n"""What A means."""\n'),
        ("library/c.py", "# a remark\nC = (3)\n"),
        ("library/deep/__init__.py", '"""What is in here."""\n'),
        ("library/a.py", TYPED),
        ("library/unused.py", "U = 2\n"),
        ("library/notes.md", "prose\n"),
        ("stages/other.py", "def run(): ...\n"),
        ("stages/other.txt", "x\n"),
    ],
)
def test_prose_layout_types_and_other_files_do_not_change_the_hash(project, name, text):
    if text == TYPED:  # the import of TYPE_CHECKING is hashed; the content of the block is not
        (project / name).write_text(text.replace("    from library import types\n", "    pass\n"))
    before = code_hash()
    (project / name).write_text(text)
    assert code_hash() == before


@pytest.mark.parametrize(
    "name, text",
    [
        ("stages/one.py", STAGE.replace("lazy.work(A)", "lazy.work(-A)")),
        ("stages/names.txt", "a b d\n"),
        ("library/a.py", "import library.deep.b\n\nA = 2\n"),
        ("library/a.py", "import library.deep.b\n\nA = 1.0\n"),
        ("library/a.py", "import library.deep.b\n\nA = True\n"),
        ("library/c.py", "C = '3'\n"),
        ("library/deep/b.py", "from ..c import C\n\nB = [2, C]\n"),
        ("library/deep/__init__.py", "D = 1\n"),
        ("library/lazy.py", FILES["library/lazy.py"].replace("(a)", "(a, *b)")),
        ("library/named.py", "N = 2\n"),
    ],
)
def test_statements_and_data_change_the_hash(project, name, text):
    before = code_hash()
    (project / name).write_text(text)
    assert code_hash() != before


@pytest.mark.parametrize(
    "module, importing, helper",
    [
        ("mine", "import helper", "helper.py"),
        ("own.a", "from .b import go", "own/b.py"),
        ("own.a", "from own import b", "own/b.py"),
        ("own.a", "import own.b", "own/b.py"),
    ],
)
def test_a_users_module_is_followed_through_every_form_of_import(project, module, importing, helper):
    (project / "own").mkdir()
    (project / "own" / "__init__.py").write_text("")
    (project / f"{module.replace('.', '/')}.py").write_text(f"{importing}\n\n\ndef select(): ...\n")
    (project / helper).write_text("def go(): ...\n")
    before = code_hash(module)
    (project / helper).write_text("def go(): return 1\n")
    assert code_hash(module) != before
    (project / helper).write_text('def go():\n    """The same as before."""\n    ...\n')
    assert code_hash(module) == before


def test_a_user_package_without_init_file_is_followed(project):
    (project / "loose").mkdir()
    (project / "loose" / "sel.py").write_text("from loose import rules\n")
    (project / "loose" / "rules.py").write_text("R = 1\n")
    before = code_hash("loose.sel")
    (project / "loose" / "rules.py").write_text("R = 2\n")
    assert code_hash("loose.sel") != before


def test_hashing_imports_nothing(project):
    (project / "stages" / "one.py").write_text("raise RuntimeError('imported')\nimport library.a\n")
    (project / "library" / "__init__.py").write_text("raise RuntimeError('imported')\n")
    assert "library.a" in closure.closure("stages.one") and len(code_hash()) == 64


def test_installed_packages_are_not_followed(project):
    (project / "library" / "a.py").write_text("import numpy\nimport json\nimport library.deep.b\nA = 1\n")
    assert not {name for name in closure.closure("stages.one") if name.split(".")[0] in ("numpy", "json")}


def test_a_missing_module_says_what_to_do(project):
    with pytest.raises(
        RecipeError, match=r"module nowhere has no source file on sys\.path; add its folder to"
    ):
        code_hash("nowhere")


def test_code_that_is_not_python_names_file_and_line(project):
    (project / "library" / "c.py").write_text("C = 3\nclass:\n")
    with pytest.raises(RecipeError, match=r"library/c.py:2: not valid Python"):
        code_hash()


def test_an_unknown_kind_is_an_error(project):
    with pytest.raises(RecipeError, match=r"stage kind `two` has no module stages\.two"):
        Stages("stages").code_hash("two")


def test_the_hash_is_the_same_in_every_process(project):
    script = "from recipes.code import Stages; print(Stages().code_hash('train'))"
    seeds = ("0", "1")
    hashes = {
        subprocess.run(
            [sys.executable, "-c", script],
            capture_output=True,
            text=True,
            check=True,
            cwd=closure.REPOSITORY,
            env={"PYTHONHASHSEED": seed},
        ).stdout
        for seed in seeds
    }
    assert len(hashes) == 1
