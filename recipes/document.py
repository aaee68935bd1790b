"""Recipe files as nested mappings with the line of each key, and how files and overrides are merged."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from recipes.errors import RecipeError

if TYPE_CHECKING:
    from yaml import SafeLoader
else:
    # libyaml's loader, where PyYAML was built with it, is five times as fast.
    SafeLoader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

KeyPath = tuple[str, ...]
MAX_DEPTH, MAX_VALUES = 100, 1_000_000
"""Limits on nesting and size of a recipe file; an alias counts as often as it is used."""
SHOWN = 200
"""Number of characters of an invalid value that a message shows."""


class Place(str):
    """Where a value was given, for messages; `folder`: that of the file, None for the command line."""

    __slots__ = ("folder",)
    folder: Path | None

    def __new__(cls, text: str, folder: Path | None = None) -> "Place":
        place = super().__new__(cls, text)
        place.folder = folder
        return place


@dataclass
class Document:
    """A nested mapping, and the place (`file:line`) of each of its keys."""

    data: dict[str, Any] = field(default_factory=dict)
    where: dict[KeyPath, str] = field(default_factory=dict)

    def locate(self, path: KeyPath) -> str:
        """Place of the key, or of the nearest key above it."""
        return next(
            (self.where[path[:n]] for n in range(len(path), -1, -1) if path[:n] in self.where), "recipe"
        )

    def folder(self, path: KeyPath) -> Path | None:
        """The folder of the file that gives the value of a key; None for the command line and defaults."""
        place = self.locate(path)
        return place.folder if isinstance(place, Place) and self.has(path) else None

    def has(self, path: KeyPath) -> bool:
        """Whether the document gives a value for the key."""
        value: Any = self.data
        for key in path:
            value = value.get(key) if isinstance(value, dict) else None
        return value is not None


def read_yaml(path: Path) -> Document:
    """One YAML file with the line of every key.

    Raises RecipeError for a file that cannot be read or is not a mapping, for invalid YAML, duplicate keys, a
    value that refers to itself, and for nesting or size beyond MAX_DEPTH and MAX_VALUES.
    """
    try:
        text = path.read_text(encoding="utf-8")
        _refuse_deep(text, path)  # first: libyaml's composer is recursive and would crash the process
        loader = _Loader(text)
        tree = loader.get_single_node()
        if tree is None or not isinstance(tree, yaml.MappingNode):
            raise RecipeError(f"{path}:1: a recipe must be a mapping of keys to values")
        _refuse_endless(tree, path)
        document = Document(where={(): Place(f"{path}:1", path.absolute().parent)})
        _record_lines(tree, (), path, document.where)
        document.data = loader.construct_document(tree)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = mark.line + 1 if mark else 1
        problem = " ".join(str(getattr(error, "problem", None) or error).split())
        raise RecipeError(f"{path}:{line}: not valid YAML: {problem}") from error
    except RecursionError as error:
        raise RecipeError(f"{path}:1: nested too deeply") from error
    except UnicodeDecodeError as error:
        raise RecipeError(f"{path}: not UTF-8 text: {error.reason} at byte {error.start}") from error
    except OSError as error:
        raise RecipeError(f"{path}: {error.strerror}") from error
    except ValueError as error:  # a number or date that YAML recognises but Python cannot represent
        raise RecipeError(f"{path}: not valid YAML: {str(error)[:SHOWN]}") from error
    return document


def _refuse_deep(text: str, path: Path) -> None:
    """Raises RecipeError for nesting beyond MAX_DEPTH; reads parse events only, which takes no recursion."""
    depth = 0
    for event in yaml.parse(text, Loader=_Loader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > MAX_DEPTH:
            raise RecipeError(f"{_place(event, path)}: nested too deeply (more than {MAX_DEPTH} levels)")


def _refuse_endless(tree: yaml.Node, path: Path) -> None:
    """Raises RecipeError where aliases make a value contain itself, or multiply it beyond MAX_VALUES."""
    sizes: dict[int, int] = {}
    above: set[int] = set()

    def size(node: yaml.Node) -> int:
        where = _place(node, path)
        if id(node) in above:
            raise RecipeError(f"{where}: a value refers to itself")
        if id(node) not in sizes:
            above.add(id(node))
            children = (
                [part for pair in node.value for part in pair]
                if isinstance(node, yaml.MappingNode)
                else node.value
            )
            inner = children if isinstance(node, yaml.CollectionNode) else ()
            sizes[id(node)] = 1 + sum(size(child) for child in inner)
            above.discard(id(node))
            if sizes[id(node)] > MAX_VALUES:
                raise RecipeError(f"{where}: aliases multiply to more than {MAX_VALUES:,} values")
        return sizes[id(node)]

    size(tree)


class _Loader(SafeLoader):
    """A safe loader that also reads 1e-3 as a number; YAML 1.1 requires 1.0e-3."""


# A copy, because add_implicit_resolver changes the inherited lists in place, for every user of PyYAML.
_Loader.yaml_implicit_resolvers = {k: list(v) for k, v in SafeLoader.yaml_implicit_resolvers.items()}
_FLOAT = re.compile(r"^[-+]?\d+(?:\.\d*)?[eE][-+]?\d+$")
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+0123456789"))


def _place(node: yaml.Node | yaml.Event, path: Path) -> Place:
    """`file:line` of a node or event."""
    mark = node.start_mark
    return Place(f"{path}:{mark.line + 1 if mark else 1}", path.absolute().parent)


def _record_lines(tree: yaml.MappingNode, above: KeyPath, path: Path, where: dict[KeyPath, str]) -> None:
    for key_node, value in tree.value:
        key = (*above, str(key_node.value))
        here = _place(key_node, path)
        if key in where:
            raise RecipeError(f"{here}: {'.'.join(key)}: written twice, first at {where[key]}")
        where[key] = here
        if isinstance(value, yaml.MappingNode):
            _record_lines(value, key, path, where)


def parse_overrides(overrides: Sequence[str]) -> Document:
    """`a.b=value` arguments, values in YAML."""
    document = Document()
    for text in overrides:
        name, equals, value = text.partition("=")
        if not equals or not all(name.split(".")):
            raise RecipeError(
                f"command line: `{text}` is not an override; write key=value, such as train.lr=1e-3"
            )
        key = tuple(name.split("."))
        try:
            _refuse_deep(value, Path("command line"))
            parsed = yaml.load(value, Loader=_Loader)
        except (yaml.YAMLError, RecursionError, ValueError) as error:
            raise RecipeError(
                f"command line `{_without_secrets(text)}`: the value is not valid YAML"
            ) from error
        document = merge(document, dotted(key, parsed, f"command line `{_without_secrets(text)}`"))
    return document


def _without_secrets(text: str) -> str:
    """An argument for a message: truncated, and without the credentials and the query of an address."""
    return re.sub(r"(?<=://)[^/@\s'\"]*@|[?#][^\s'\"]*", "...", text[:80]) + ("..." if len(text) > 80 else "")


def dotted(key: KeyPath, value: Any, where: str) -> Document:
    """The document that holds one value at a nested key."""
    for part in reversed(key):
        value = {part: value}
    return Document(value, {key: where})


def merge(under: Document, over: Document) -> Document:
    """Merge mappings key by key; `over` replaces any other value, and a section of another `kind`."""
    # The keys inside a value of the command line have no place of their own: not that of the file below.
    inside = {path: over.locate(path) for path in _paths(over.data, ())}
    return Document(_merge(under.data, over.data), {**under.where, **inside, **over.where})


def _paths(values: dict[str, Any], above: KeyPath) -> Iterator[KeyPath]:
    for key, value in values.items():
        yield (*above, str(key))
        if isinstance(value, dict):
            yield from _paths(value, (*above, str(key)))


def _merge(under: Any, over: Any) -> Any:
    if (
        isinstance(under, dict)
        and isinstance(over, dict)
        and over.get("kind", under.get("kind")) == under.get("kind")
    ):
        return {**under, **{k: _merge(under[k], v) if k in under else v for k, v in over.items()}}
    return over


def shortened(value: Any) -> str:
    """The representation of a value for a message, truncated to SHOWN characters."""
    text = repr(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}... ({len(text):,} characters)"
