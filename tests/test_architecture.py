"""What the layout promises: imports point one way, optional packages are optional, every shipped recipe loads."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

REPOSITORY = Path(__file__).parents[1]
PACKAGES = ("curation", "training", "evaluation", "recipes")
OPTIONAL = (
    "deepspeed",
    "datasets",
    "lmms_eval",
    "wandb",
    "vllm",
    "faiss",
    "numba",
    "sentence_transformers",
    "openai",
    "duckdb",
)
ALLOWED = {
    "curation.pool": {"curation.pool", "curation.taxonomy"},
    "curation.selectors": {"curation.selectors", "curation.taxonomy"},
    "curation.teacher": {"curation.teacher", "curation.pool", "curation.taxonomy"},
    "curation.mini": {"curation.mini", "curation.pool", "curation.taxonomy"},
    "training": {"training", "curation.pool"},
    "curation.signals": {
        "curation.signals",
        "curation.pool",
        "curation.teacher",
        "curation.taxonomy",
        "training",
    },
    "evaluation": {"evaluation", "training", "curation.pool", "curation.mini", "curation.taxonomy"},
}


def imported(file: Path) -> set[str]:
    """Every module that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found


@pytest.mark.parametrize("package", ALLOWED)
def test_imports_point_one_way(package):
    files = list((REPOSITORY / package.replace(".", "/")).rglob("*.py"))
    assert files
    for file in files:
        for module in imported(file):
            if module.split(".")[0] in PACKAGES:
                assert any(module == a or module.startswith(a + ".") for a in ALLOWED[package]), (
                    f"{file.name} imports {module}"
                )


def test_selectors_use_numpy_and_pyarrow_only():
    for file in (REPOSITORY / "curation" / "selectors").rglob("*.py"):
        outside = {m.split(".")[0] for m in imported(file)} - set(sys.stdlib_module_names) - {"curation"}
        # numba only inside a function: the test below imports everything without it
        assert outside <= {"numpy", "pyarrow", "numba"}, f"{file.name}: {outside}"


def test_everything_imports_without_the_optional_packages():
    modules = [
        ".".join(f.relative_to(REPOSITORY).with_suffix("").parts)
        for p in PACKAGES
        for f in (REPOSITORY / p).rglob("*.py")
        if "tasks" not in f.parts and f.stem not in ("__main__", "lmms_model")
    ]  # these two are loaded by lmms-eval itself
    code = (
        f"import sys, importlib\nfor name in {OPTIONAL!r}: sys.modules[name] = None\n"
        f"for name in {[m.removesuffix('.__init__') for m in modules]!r}: importlib.import_module(name)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True)
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
def test_every_scale_serves_the_main_recipe(scale):
    from recipes.load import load

    assert (
        load(str(REPOSITORY / "recipes" / "mmssr_30pct.yaml"), [f"scale={scale.stem}"]).protocol == "standard"
    )


def test_constraints_name_a_version_for_every_line_and_no_address():
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
