"""Rules of the layout: imports point one way, optional packages are optional, every shipped recipe loads."""

import ast
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import yaml

from curation import closure

REPOSITORY = Path(__file__).parents[1]
PACKAGES = ("curation", "training", "evaluation", "recipes")
OPTIONAL = (
    "deepspeed",
    "datasets",
    "lmms_eval",
    "wandb",
    "tensorboard",
    "trackio",
    "vllm",
    "faiss",
    "sentence_transformers",
    "duckdb",
)
ALLOWED = {
    "curation.pool": {"curation.pool", "curation.taxonomy"},
    "curation.selectors": {"curation.selectors", "curation.taxonomy"},
    "curation.teacher": {"curation.teacher", "curation.pool", "curation.taxonomy"},
    "curation.export": {
        "curation.export",
        "curation.pool",
        "curation.subset",
        "curation.compare",
        "curation.selectors",
    },
    "curation.explore": {
        "curation.explore",
        "curation.pool",
        "curation.subset",
        "curation.imports",
        "curation.signals.core",
        "curation.export.guard",
        "curation.export.errors",
    },
    "curation.mini": {"curation.mini", "curation.pool", "curation.taxonomy"},
    "curation.dedup": {
        "curation.dedup",
        "curation.pool",
        "curation.selectors.primitives",
        "curation.signals.core",
    },
    "training": {"training", "curation.pool"},
    "curation.signals": {
        "curation.signals",
        "curation.pool",
        "curation.teacher",
        "curation.taxonomy",
        "training",
    },
    "evaluation": {
        "evaluation",
        "training",
        "curation.pool",
        "curation.mini",
        "curation.taxonomy",
        "curation.teacher",  # the chat client, for judges and served models
    },
    "curation.decontaminate": {"curation.decontaminate", "curation.pool", "curation.dedup", "evaluation"},
}


ANYWHERE = {
    "curation",
    "curation.atomic",
    "curation.catalogue",
    "curation.closure",
    "curation.command",
    "curation.killpoints",
    "curation.nearest",
    "curation.own_code",
    "curation.printable",
    "curation.progress",
    "curation.taxonomy",
}
"""Modules that every package may import; they import nothing of the project but each other."""


def project_modules() -> dict[str, Path]:
    """The source file of every module of the four packages, by dotted name."""
    files = [file for package in PACKAGES for file in (REPOSITORY / package).rglob("*.py")]
    names = [".".join(file.relative_to(REPOSITORY).with_suffix("").parts) for file in files]
    return {name.removesuffix(".__init__"): file for name, file in zip(names, files, strict=True)}


MODULES = project_modules()


def imported(name: str) -> set[str]:
    """Every module that a module imports, also inside functions and for type checkers."""
    package = name if MODULES[name].name == "__init__.py" else name.rpartition(".")[0]
    return set(closure.imported(ast.parse(MODULES[name].read_text()), package))


def imported_of_project(name: str) -> set[str]:
    """The modules of this project that a module imports."""
    return {module for module in imported(name) if module in MODULES} - {name}


@pytest.mark.parametrize("package", ALLOWED)
def test_imports_point_one_way(package):
    inside = [name for name in MODULES if name == package or name.startswith(f"{package}.")]
    assert inside
    for name in inside:
        for module in imported_of_project(name) - ANYWHERE:
            assert any(module == a or module.startswith(f"{a}.") for a in ALLOWED[package]), (
                f"{name} imports {module}"
            )


def test_shared_modules_import_only_each_other():
    for name in ANYWHERE:
        assert imported_of_project(name) <= ANYWHERE


def test_no_import_cycles():
    """Imports inside functions and for type checkers count too."""
    above = {name: imported_of_project(name) for name in MODULES}
    while free := {name for name, modules in above.items() if not modules}:
        above = {name: modules - free for name, modules in above.items() if name not in free}
    assert not above, f"these modules import each other, or one that does: {sorted(above)}"


def test_selectors_use_numpy_and_pyarrow_only():
    for name in (name for name in MODULES if name.startswith("curation.selectors")):
        outside = {m.split(".")[0] for m in imported(name)} - set(sys.stdlib_module_names) - {"curation"}
        assert outside <= {"numpy", "pyarrow"}, f"{name}: {outside}"


@pytest.mark.slow
def test_everything_imports_without_the_optional_packages():
    # lmms-eval itself loads lmms_model and the functions of the tasks, so these need it
    modules = [
        n for n in MODULES if ".tasks." not in n and n.rpartition(".")[2] not in ("__main__", "lmms_model")
    ]
    code = (
        f"import sys, importlib\nfor name in {OPTIONAL!r}: sys.modules[name] = None\n"
        f"for name in {modules!r}: importlib.import_module(name)\n"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize("file", sorted((REPOSITORY / "recipes").glob("*.yaml")), ids=lambda f: f.name)
def test_every_shipped_recipe_loads_and_plans(file):
    from recipes.load import load
    from recipes.plan import make_plan

    loaded = load(str(file), [])
    assert loaded.protocol == "standard" and loaded.recipe.name == file.stem
    kinds = [node.kind for node in make_plan(loaded).nodes]
    assert kinds[-1] == ("pretrain" if loaded.recipe.goal == "base" else "compare")


@pytest.mark.parametrize(
    "scale", sorted((REPOSITORY / "recipes" / "scales").glob("*.yaml")), ids=lambda f: f.stem
)
def test_every_scale_fits_the_main_recipe(scale):
    from recipes.load import load

    users_own = yaml.safe_load(scale.read_text())["pool"]["kind"] == "file"
    overrides = [f"scale={scale.stem}", *(["pool.source=pool.json"] if users_own else [])]
    assert load(str(REPOSITORY / "recipes" / "mmssr_30pct.yaml"), overrides).protocol == "standard"


def test_constraints_pin_versions_and_contain_no_addresses():
    for line in (REPOSITORY / "constraints.txt").read_text().splitlines():
        assert "==" in line and "/" not in line, line


def test_assets_are_small_and_attributed():
    assets = REPOSITORY / "curation" / "mini" / "assets"
    files = [f for f in assets.rglob("*") if f.is_file()]
    assert sum(f.stat().st_size for f in files) <= 5_000_000
    notice = (assets / "NOTICE.md").read_text()
    for file in files:
        assert (
            file.name == "NOTICE.md"
            or file.name in notice
            or (file.parent.name == "photos" and file.stem in notice)
        ), file.name
    names = yaml.safe_load((assets.parent / "names.yaml").read_text())
    assert {f.stem for f in (assets / "photos").iterdir()} == set(names["photos"])


def test_test_modules_have_names_of_their_own():
    # pytest imports them by their names alone, and does not collect a second one
    names = Counter(path.name for path in (REPOSITORY / "tests").rglob("test_*.py"))
    assert [name for name, count in names.items() if count > 1] == []
