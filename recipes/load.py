"""Read a recipe file into a checked `Recipe`: scale file under parent under recipe under command-line overrides.

Every error names the file, the line, the dotted key and what would be right.
"""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from recipes.document import Document, KeyPath, merge, parse_overrides, read_yaml, shortened
from recipes.errors import RecipeError, nearest
from recipes.schema import Protocol, Recipe

HERE = Path(__file__).parent
SERVERS = ("teacher.server.", "scoring.server.", "quality.judge.server.")
"""Where something is served is no part of the protocol, though it is written beside what is."""


@dataclass(frozen=True)
class Loaded:
    """A checked recipe; `modified` lists the frozen keys that differ from the scale file."""

    recipe: Recipe
    modified: tuple[str, ...]
    where: dict[KeyPath, str]

    def locate(self, *path: str) -> str:
        """`file:line` of a key, or of the nearest key above it."""
        return Document({}, self.where).locate(path)

    def renamed(self, name: str) -> "Loaded":
        """The same recipe with a run directory of its own."""
        return replace(self, recipe=self.recipe.model_copy(update={"name": name}))

    @property
    def protocol(self) -> str:
        return "modified" if self.modified else "standard"


def load(file: str, overrides: Sequence[str] = ()) -> Loaded:
    """Load a recipe by path or bare name. Raises RecipeError for everything that is wrong with it.

    At another scale than its own it is another experiment, NAME.SCALE, unless `name` is given too.
    """
    path = find_recipe(file)
    written, asked = read_with_parents(path), parse_overrides(overrides)
    loaded = resolve(merge(written, asked), path.parent)
    own, scale = written.data.get("scale"), loaded.recipe.scale
    return (
        loaded
        if own in (None, scale) or scale is None or "name" in asked.data
        else loaded.renamed(f"{loaded.recipe.name}.{scale}")
    )


def resolve(own: Document, beside: Path) -> Loaded:
    """Lay a recipe over its scale and check it; `beside` is the folder in which its scale is looked for first."""
    scale = Document()
    if own.data.get("scale") is not None:
        scale = read_with_parents(find_scale(own.data["scale"], beside, own.locate(("scale",))))
    document = merge(scale, own)
    announce_imports(document)
    recipe = validate(Recipe, document)
    for key, problem in cross_checks(recipe):
        raise RecipeError(f"{document.locate(key)}: {'.'.join(key)}: {problem}")
    return Loaded(recipe, tuple(changed_keys(recipe, scale)), document.where)


_announced: set[str] = set()


def announce_imports(document: Document) -> None:
    """Say which modules of the user's own are about to be imported: their code runs, in a dry run too."""
    arms, signals = document.data.get("arms"), document.data.get("signals")
    named = [
        arm.get("selector")
        for arm in (arms.values() if isinstance(arms, dict) else ())
        if isinstance(arm, dict)
    ]
    named += [
        s.get("producer")
        for s in (signals.values() if isinstance(signals, dict) else ())
        if isinstance(s, dict)
    ]
    for name in dict.fromkeys(n for n in named if isinstance(n, str) and ":" in n and n not in _announced):
        _announced.add(name)
        print(
            f"note: importing {name.partition(':')[0]}, which the recipe names: its code runs",
            file=sys.stderr,
        )


# ---------------------------------------------------------------------------------------------- files


def find_recipe(file: str) -> Path:
    """The path itself, else the bare name under recipes/ of the project; `.yaml` may be left out."""
    names = [file] if file.endswith((".yaml", ".yml")) else [file, f"{file}.yaml"]
    for candidate in [Path(name) for name in names] + [HERE / name for name in names]:
        if _is_file(candidate):
            return candidate.resolve()
    shipped = [p.name for p in HERE.glob("*.yaml")]
    raise RecipeError(
        f"no recipe file {file}: looked in {Path.cwd()} and {HERE}; {nearest(Path(file).name, shipped)}"
    )


def _is_file(path: Path) -> bool:
    """Also for names that no file can have."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def find_scale(name: Any, beside: Path, where: str) -> Path:
    """scales/NAME.yaml beside the recipe, in the current directory, or in the project's recipes/."""
    folders = [beside / "scales", Path.cwd() / "scales", HERE / "scales"]
    for folder in folders:
        if (path := folder / f"{name}.yaml").is_file():
            return path
    known = [p.stem for folder in folders for p in folder.glob("*.yaml")]
    raise RecipeError(f"{where}: scale: there is no scale `{name}`; {nearest(str(name), known)}")


def read_with_parents(path: Path, children: tuple[Path, ...] = ()) -> Document:
    """A file merged over the one it `extends`. Raises RecipeError if the chain comes back to itself."""
    if path in children:
        chain = " -> ".join(p.name for p in (*children, path))
        raise RecipeError(f"{children[-1]}: extends: circular: {chain}")
    document = read_yaml(path)
    parent = document.data.pop("extends", None)
    if parent is None:
        return document
    where = document.locate(("extends",))
    for candidate in (path.parent / str(parent), HERE / str(parent)):
        if candidate.is_file():
            return merge(read_with_parents(candidate.resolve(), (*children, path)), document)
    raise RecipeError(f"{where}: extends: there is no file {parent} in {path.parent} or {HERE}")


# ---------------------------------------------------------------------------------------------- checks


def validate(model: type[BaseModel], document: Document) -> Any:
    """The document as `model`; RecipeError lists every problem with its place."""
    try:
        return model.model_validate(document.data)
    except ValidationError as error:
        problems: dict[str, list[str]] = {}
        for problem in error.errors():
            place, text = _explain(model, document, problem)
            problems.setdefault(place, []).append(text)  # each type of a union complains
        lines = [f"{place}: {' or '.join(dict.fromkeys(texts))}" for place, texts in problems.items()]
        raise RecipeError("\n".join(lines)) from error


def _explain(model: type[BaseModel], document: Document, problem: dict[str, Any]) -> tuple[str, str]:
    """(place and key, what is wrong and what is allowed) of one of pydantic's problems."""
    path, section, about = _walk(model, document.data, problem["loc"])
    if problem["type"] == "union_tag_invalid":
        tags = problem["ctx"]
        key = (*path, tags["discriminator"].strip("'"))
        return (
            f"{document.locate(key)}: {'.'.join(key)}",
            f"got '{tags['tag']}'; it can be {tags['expected_tags']}",
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
    """Key path of a pydantic location (without union tags), the section its last key belongs to, and that key's doc."""
    path, section, owner, about = [], model, None, ""
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
            continue  # pydantic's own marks, such as `int` and `constrained-str`
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


def cross_checks(recipe: Recipe) -> Iterator[tuple[KeyPath, str]]:
    """Combinations that are wrong although each value is right: (key, problem)."""
    if recipe.goal == "base":
        if recipe.pretrain is None:
            yield ("pretrain",), "missing; goal `base` trains what this section says"
        return
    for section in ("pool", "base", "train"):
        if getattr(recipe, section) is None:
            yield (section,), "missing; give it, or a `scale:` that supplies it"
    if recipe.train and recipe.train.seed:
        yield ("train", "seed"), "every arm has its own; give `seeds` or `train_seeds` there"
    for name in ("seed_model", "scorer", "styler"):
        if (section := getattr(recipe, name)) and section.train and section.train.seed:
            yield (name, "train", "seed"), f"it is {name}.seed that seeds this training"
    if (warmup := recipe.gradient and recipe.gradient.warmup) and warmup.train.seed:
        yield ("gradient", "warmup", "train", "seed"), "it is gradient.warmup.seed that seeds this training"
    if not recipe.arms:
        yield ("arms",), "missing; an experiment compares at least one arm"
    yield from _role_checks(recipe)
    yield from _held_out_checks(recipe)
    if recipe.pool.kind != "mini":
        if recipe.pool_seeds is not None:
            yield ("pool_seeds",), "only a mini pool is drawn; this one is given"
        for name, arm in recipe.arms.items():
            if arm.signals != "learned":
                yield (
                    ("arms", name, "signals"),
                    f"`{arm.signals}` reads the mini world's own record, which no other pool has",
                )
    if recipe.pool.kind == "mini":
        if recipe.bench is None:
            yield ("bench",), "missing; a mini pool is drawn against its benchmarks"
        size = min(recipe.pool.size, recipe.limit or recipe.pool.size)
        for name, arm in recipe.arms.items():
            if isinstance(arm.budget, int) and arm.budget > size:
                yield ("arms", name, "budget"), f"{arm.budget} is above the pool's {size} samples"


def _held_out_checks(recipe: Recipe) -> Iterator[tuple[KeyPath, str]]:
    """Nothing is fitted or chosen by the items that the arms are compared on."""
    for key, section in (
        (("probe", "bench"), recipe.probe and recipe.probe.bench),
        (("gradient", "validation"), recipe.gradient and recipe.gradient.validation),
    ):
        if section and recipe.bench and section.seed == recipe.bench.seed:
            yield (
                (*key, "seed"),
                f"{section.seed} draws the items that the arms are compared on; give another seed",
            )


def _role_checks(recipe: Recipe) -> Iterator[tuple[KeyPath, str]]:
    """What is wrong with `baseline`, `reference` and the arms' own references."""
    for name, arm in recipe.arms.items():
        if arm.reference == name:
            yield ("arms", name, "reference"), "an arm that compares with itself"
        elif arm.reference is not None and arm.reference not in recipe.arms:
            yield (
                ("arms", name, "reference"),
                f"`{arm.reference}` is not an arm; {nearest(arm.reference, recipe.arms)}",
            )
    roles = [(("reference",), recipe.reference)] if recipe.reference is not None else []
    by_budget = recipe.baseline if isinstance(recipe.baseline, dict) else {}
    roles += [(("baseline", budget), name) for budget, name in by_budget.items()]
    roles += [(("baseline",), recipe.baseline)] if isinstance(recipe.baseline, str) else []
    for key, name in roles:
        if name not in recipe.arms:
            yield key, f"`{name}` is not an arm; {nearest(name, recipe.arms)}"
    budgets = {str(arm.budget) for arm in recipe.arms.values()}
    for budget, name in by_budget.items():
        if budget not in budgets:
            yield ("baseline", budget), f"no arm has this budget; there are {', '.join(sorted(budgets))}"
        if budget not in (str(recipe.arms[name].budget), "100%"):  # at 100 % every selector takes the same
            yield (
                ("baseline", budget),
                f"`{name}` has budget {recipe.arms[name].budget}; a baseline has the budget of what it is compared with",
            )


def changed_keys(recipe: Recipe, scale: Document) -> Iterator[str]:
    """Dotted frozen keys whose value is not the scale's. A recipe without a scale changes everything it sets."""
    frozen = {k: v for k, v in scale.data.items() if k in Protocol.model_fields}
    standard = validate(Protocol, Document(frozen, scale.where)).model_dump(mode="json")
    actual = recipe.model_dump(mode="json", include=set(Protocol.model_fields))
    yield from (key for key in _differences(standard, actual, ()) if not key.startswith(SERVERS))


def _differences(a: Any, b: Any, path: KeyPath) -> Iterator[str]:
    if isinstance(a, dict) and isinstance(b, dict):
        for key in sorted(a.keys() | b.keys()):
            yield from _differences(a.get(key), b.get(key), (*path, key))
    elif a != b:
        yield ".".join(path)
