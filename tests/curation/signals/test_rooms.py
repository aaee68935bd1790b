"""The rooms of curation.signals form layers: a room imports only from rooms to the left of it."""

import ast
from pathlib import Path

import curation.signals

ROOT = Path(curation.signals.__file__).parent
LAYERS = (
    "core",
    "losses",
    "perturbed",
    "validity",
    "raters",
    "prompts",
    "vectors",
    "quality",
    "answered",
    "gradients",
    "target_queries",
    "scorers",
    "subset_value",
    "custom",
)


def rooms_imported_by(file):
    """Rooms named in any import of a file, also inside functions and for type checking."""
    names = []
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        if isinstance(node, ast.ImportFrom) and node.module:
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return {name.split(".")[2] for name in names if name.startswith("curation.signals.")}


def test_imports_between_rooms_point_one_way():
    folders = {path.name for path in ROOT.iterdir() if list(path.glob("*.py"))}
    modules = {path.stem for path in ROOT.glob("*.py") if not path.stem.startswith("__")}
    assert folders | modules == set(LAYERS)
    seen = set()
    for file in ROOT.rglob("*.py"):
        room = file.relative_to(ROOT).with_suffix("").parts[0]
        if room in LAYERS:
            imported = rooms_imported_by(file)
            seen |= imported
            allowed = set(LAYERS[: LAYERS.index(room) + 1])
            assert imported <= allowed, f"{file.relative_to(ROOT)} imports {sorted(imported - allowed)}"
    assert "core" in seen


def test_every_room_says_where_to_start():
    for room in ROOT.iterdir():
        if (room / "__init__.py").is_file():
            text = ast.get_docstring(ast.parse((room / "__init__.py").read_text())) or ""
            start = [word.strip("`,.") for word in text.replace("(", " ").split() if ".py" in word]
            assert start and (room / start[0].strip("`),.:")).is_file(), f"{room.name}: {text}"
