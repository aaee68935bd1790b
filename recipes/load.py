"""Read a recipe file into a validated `Recipe`.

Command-line overrides take precedence over the recipe, the recipe over the file it extends, and that over the
scale file. Every error names the file, the line, the dotted key and what is allowed.
"""

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from recipes.anchors import anchored
from recipes.cross_checks import cross_checks
from recipes.document import Document, KeyPath, merge, parse_overrides, read_yaml, shortened
from recipes.errors import RecipeError, nearest
from recipes.schema import Protocol, Recipe
from training import presets
from training.presets import LABEL
from training.spec import FitSpec

HERE = Path(__file__).parent
SERVERS = (
    "teacher.server.",
    "scoring.server.",
    "quality.judge.server.",
    "answered.judge.server.",
    "evaluation.judge.server.",
    "evaluation.data",
)
"""Keys of the protocol's sections that are not part of the protocol: where a model is served or data lie."""
LEFT_OPEN = (
    *(f"pool.{key}" for key in ("source", "images", "format", "image_key", "source_key", "source_depth")),
    *(f"pool.{key}" for key in ("allow_outside", "max_pixels", "max_bad_fraction")),
    "evaluation.judge",
)
"""Keys that a scale may leave out for the recipe to give, which then does not modify the protocol."""
EARLIER_KIND = {"llava": "file"}
"""The kind of a pool of the user's own in recipes that were written before other formats were read."""


@dataclass(frozen=True)
class Loaded:
    """A validated recipe; `modified` lists the frozen keys that differ from the scale file."""

    recipe: Recipe
    modified: tuple[str, ...]
    where: dict[KeyPath, str]

    def locate(self, *path: str) -> str:
        """`file:line` of a key or, if the recipe does not contain it, of the nearest key above it."""
        return Document({}, self.where).locate(path)

    def presets(self) -> dict[str, dict[str, Any]]:
        """The preset of each training, by the training's dotted key: its name and the changed keys."""
        return dict(_labels(self.recipe.model_dump(mode="json"), ()))

    def renamed(self, name: str) -> "Loaded":
        """The same recipe under another name, and so with another run directory."""
        return replace(self, recipe=self.recipe.model_copy(update={"name": name}))

    @property
    def protocol(self) -> str:
        return "modified" if self.modified else "standard"


def load(file: str, overrides: Sequence[str] = ()) -> Loaded:
    """Load a recipe by path or bare name. Raises RecipeError for everything that is wrong with it.

    With an override of `scale` it is another experiment, named NAME.SCALE unless `name` is overridden too.
    """
    path = find_recipe(file)
    written, command = read_with_parents(path), parse_overrides(overrides)
    loaded = resolve(merge(written, _renamed(command)), path.parent)
    own, scale = written.data.get("scale"), loaded.recipe.scale
    if own in (None, scale) or scale is None or "name" in command.data:
        return loaded
    return loaded.renamed(f"{loaded.recipe.name}.{scale}")


def resolve(own: Document, beside: Path) -> Loaded:
    """Merge a recipe over its scale and validate it; the scale is first looked for in the folder `beside`."""
    scale, own = Document(), _renamed(own)
    if own.data.get("scale") is not None:
        found = find_scale(own.data["scale"], beside, own.locate(("scale",)))
        scale = _for_one_pool(read_with_parents(found), own)
    document = with_presets(merge(scale, own))
    announce_imports(document)
    recipe = anchored(validate(Recipe, document), document.folder)
    for key, problem in cross_checks(recipe):
        raise RecipeError(f"{document.locate(key)}: {'.'.join(key)}: {problem}")
    return Loaded(recipe, tuple(changed_keys(recipe, with_presets(scale))), document.where)


def _for_one_pool(scale: Document, own: Document) -> Document:
    """The scale for a recipe whose pool is not drawn, as the scale's is.

    It cannot be drawn again (`pool_seeds`), so that arms are repeated as often as random sampling is.
    """
    pool = own.data.get("pool")
    if not isinstance(pool, dict) or pool.get("kind", "mini") == "mini" or "pool_seeds" not in scale.data:
        return scale
    data = {key: value for key, value in scale.data.items() if key != "pool_seeds"}
    return Document(data | {"seeds": data.get("random_seeds", data.get("seeds", 1))}, scale.where)


def _renamed(document: Document) -> Document:
    """The document with the present name of its pool's kind."""
    pool = document.data.get("pool")
    if not isinstance(pool, dict) or str(pool.get("kind")) not in EARLIER_KIND:
        return document
    return Document({**document.data, "pool": {**pool, "kind": EARLIER_KIND[pool["kind"]]}}, document.where)


def _labels(values: dict[str, Any], path: KeyPath) -> Iterator[tuple[str, dict[str, Any]]]:
    for key, value in values.items():
        if key == LABEL and value:
            yield ".".join(path), value
        elif isinstance(value, dict):
            yield from _labels(value, (*path, key))


def with_presets(document: Document) -> Document:
    """The document with each training's `preset` replaced by its settings. Raises RecipeError.

    What the document sets beside `preset` takes precedence, and is recorded under `from_preset`.
    """
    return Document(_with_presets(document.data, document, ()), document.where)


def _with_presets(data: dict[str, Any], document: Document, path: KeyPath) -> dict[str, Any]:
    out = {}
    for key, value in data.items():
        own = (*path, key)
        if key == "train" and isinstance(value, dict):
            try:
                value = presets.expanded(value)
            except presets.UnknownPreset as error:
                raise RecipeError(f"{document.locate((*own, 'preset'))}: {'.'.join(own)}: {error}") from error
        elif isinstance(value, dict):
            value = _with_presets(value, document, own)
        out[key] = value
    return out


_announced: set[str] = set()


def announce_imports(document: Document) -> None:
    """Print which user modules validation is about to import: their code is executed, even in a dry run."""
    for name in dict.fromkeys(_user_functions(document.data)):
        if name not in _announced:
            _announced.add(name)
            module = name.partition(":")[0]
            print(f"note: importing {module}, which the recipe names; its code is executed", file=sys.stderr)


def _user_functions(data: dict[str, Any]) -> Iterator[str]:
    """Every `module:function` of the user's in a recipe that is not validated yet."""
    for section, key in (("arms", "selector"), ("signals", "producer")):
        entries = data.get(section)
        for entry in entries.values() if isinstance(entries, dict) else ():
            name = entry.get(key) if isinstance(entry, dict) else None
            if isinstance(name, str) and ":" in name:
                yield name


# ---------------------------------------------------------------------------------------------- files


def find_recipe(file: str) -> Path:
    """The path itself, else that name in the project's recipes/; the suffix `.yaml` may be omitted.

    Raises RecipeError if there is no such file.
    """
    names = [file] if file.endswith((".yaml", ".yml")) else [file, f"{file}.yaml"]
    for candidate in [Path(name) for name in names] + [HERE / name for name in names]:
        if _is_file(candidate):
            return candidate.resolve()
    shipped = [p.name for p in HERE.glob("*.yaml")]
    raise RecipeError(
        f"recipe file {file} does not exist in {Path.cwd()} or {HERE}; {nearest(Path(file).name, shipped)}"
    )


def _is_file(path: Path) -> bool:
    """False also for names that no file can have, such as those with a NUL character."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def find_scale(name: Any, beside: Path, where: str) -> Path:
    """scales/NAME.yaml beside the recipe, in the current directory, or in the project's recipes/.

    Raises RecipeError if there is no such file.
    """
    folders = [beside / "scales", Path.cwd() / "scales", HERE / "scales"]
    for folder in folders:
        if (path := folder / f"{name}.yaml").is_file():
            return path
    known = [p.stem for folder in folders for p in folder.glob("*.yaml")]
    raise RecipeError(f"{where}: scale: scale `{name}` does not exist; {nearest(str(name), known)}")


def read_with_parents(path: Path, children: tuple[Path, ...] = ()) -> Document:
    """A file merged over the one it `extends`. Raises RecipeError for a missing or circular parent."""
    if path in children:
        chain = " -> ".join(p.name for p in (*children, path))
        raise RecipeError(f"{children[-1]}: extends: circular: {chain}")
    document = _renamed(read_yaml(path))
    parent = document.data.pop("extends", None)
    if parent is None:
        return document
    where = document.locate(("extends",))
    for candidate in (path.parent / str(parent), HERE / str(parent)):
        if candidate.is_file():
            return merge(read_with_parents(candidate.resolve(), (*children, path)), document)
    raise RecipeError(f"{where}: extends: file {parent} does not exist in {path.parent} or {HERE}")


# ---------------------------------------------------------------------------------------------- checks


def validate(model: type[BaseModel], document: Document) -> Any:
    """The document as `model`. Raises RecipeError, which lists every problem with its place."""
    try:
        return model.model_validate(document.data)
    except ValidationError as error:
        problems: dict[str, list[str]] = {}
        for problem in error.errors():
            place, text = _explain(model, document, problem)
            problems.setdefault(place, []).append(text)  # a union reports a problem for each of its types
        lines = [f"{place}: {' or '.join(dict.fromkeys(texts))}" for place, texts in problems.items()]
        raise RecipeError("\n".join(lines)) from error


def _explain(model: type[BaseModel], document: Document, problem: ErrorDetails) -> tuple[str, str]:
    """(place and key, what is wrong and what is allowed) for a problem that pydantic reports."""
    path, section, about = _walk(model, document.data, problem["loc"])
    if problem["type"] == "union_tag_invalid":
        tags = problem["ctx"]
        key = (*path, tags["discriminator"].strip("'"))
        return (
            f"{document.locate(key)}: {'.'.join(key)}",
            f"must be one of {tags['expected_tags']}, got '{tags['tag']}'",
        )
    place = f"{document.locate(path)}: {'.'.join(path)}"
    about = f" ({about})" if about else ""
    if problem["type"] == "extra_forbidden":
        return place, f"unknown key; {nearest(path[-1], section.model_fields if section else ())}"
    if problem["type"] == "missing":
        return place, f"missing{about}"
    message = problem["msg"].removeprefix("Value error, ")
    got = "" if problem["type"] == "value_error" else f"got {shortened(problem['input'])}; "
    return place, f"{got}{message}{about}"


def _walk(
    model: type[BaseModel], data: Any, loc: Sequence[int | str]
) -> tuple[KeyPath, type[BaseModel] | None, str]:
    """Keys of a pydantic location (without union tags), section of the last key, that key's description."""
    path: list[str] = []
    owner: type[BaseModel] | None = None
    about = ""
    hints: list[Any] = [model]
    for part in map(str, loc):
        sections = [h for h in hints if isinstance(h, type) and issubclass(h, BaseModel)]
        kinds = {s: get_args(s.model_fields["kind"].annotation) for s in sections if "kind" in s.model_fields}
        tagged = [s for s, names in kinds.items() if part in names]
        if len(sections) > 1 and tagged:
            hints = tagged
            continue
        section = next(iter(sections), None)
        known = section.model_fields.get(part) if section else None
        if not known and not (isinstance(data, dict) and part in data):
            continue  # not a key but pydantic's name of a type, such as `int` and `constrained-str`
        path.append(part)
        owner, about = section, (known.description or "" if known else "")
        hints = list(_parts(known.annotation)) if known else [a for h in hints for a in get_args(h)]
        data = data.get(part) if isinstance(data, dict) else None
    return tuple(path), owner, about


def _parts(annotation: Any) -> Iterator[Any]:
    """An annotation and all types inside it."""
    yield annotation
    for inner in get_args(annotation):
        yield from _parts(inner)


def changed_keys(recipe: Recipe, scale: Document) -> Iterator[str]:
    """Dotted frozen keys whose value differs from the scale's; without a scale, all that the recipe sets."""
    frozen = {k: v for k, v in scale.data.items() if k in Protocol.model_fields}
    given = tuple(key for key in LEFT_OPEN if not scale.has(tuple(key.split("."))))
    if "pool.source" in given and isinstance(pool := frozen.get("pool"), dict) and pool.get("kind") == "file":
        frozen["pool"] = {**pool, "source": "left open"}
    written = Document(frozen, scale.where)
    standard = anchored(validate(Protocol, written), written.folder).model_dump(mode="json")
    actual = recipe.model_dump(mode="json", include=set(Protocol.model_fields))
    for key in _differences(standard, actual, ()):
        if not key.startswith((*SERVERS, *given)):
            yield key


def _differences(a: Any, b: Any, path: KeyPath) -> Iterator[str]:
    if isinstance(a, dict) and isinstance(b, dict):
        if b.keys() == FitSpec.model_fields.keys():
            names = FitSpec.deciding(b["loss_norm"], limits=True)
            a, b = ({**{k: v[k] for k in names}, "deepspeed": _deciding_deepspeed(v)} for v in (a, b))
        for key in sorted(a.keys() | b.keys()):
            yield from _differences(a.get(key), b.get(key), (*path, key))
    elif a != b:
        yield ".".join(path)


def _deciding_deepspeed(train: dict[str, Any]) -> str:
    """What of a training's DeepSpeed configuration decides its outcome; "{}" also where there is none.

    A configuration that cannot be read is its name: planning refuses it.
    """
    if train["deepspeed"] is None:
        return "{}"
    from training.deepspeed import path_of
    from training.identity import deciding

    try:
        config = json.loads(path_of(train["deepspeed"]).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return str(train["deepspeed"])
    if not isinstance(config, dict):
        return str(train["deepspeed"])
    return json.dumps(deciding(config, train["precision"]), sort_keys=True)
