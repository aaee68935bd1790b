"""Relative paths of a recipe: those that a file gives are relative to this file, wherever the run is started.

    recipe = anchored(validate(Recipe, document), document.folder)

A path of the command line is relative to the working directory, as in any command. What may be a name too,
such as a model or a suite, is looked for beside the file first and then in the working directory.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from recipes.document import KeyPath
from recipes.schema.base import Anchored
from training.spec import FitSpec

M = TypeVar("M", bound=BaseModel)
FolderOf = Callable[[KeyPath], Path | None]
"""The folder that a relative path at a key is relative to; None leaves it as it is."""
_DEEPSPEED = FitSpec.model_fields["deepspeed"]
"""A shipped name or a path too, in a section that `training` defines."""


def anchored(section: M, folder_of: FolderOf, above: KeyPath = ()) -> M:
    """The section with absolute paths in place of relative ones, where `folder_of` gives a folder."""
    changes = {}
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        new = _anchored(value, folder_of, (*above, name), _mark(field))
        if new != value:
            changes[name] = new
    return section.model_copy(update=changes) if changes else section


def _anchored(value: Any, folder_of: FolderOf, path: KeyPath, mark: Anchored | None) -> Any:
    if isinstance(value, BaseModel):
        return anchored(value, folder_of, path)
    if isinstance(value, dict):
        return {key: _anchored(own, folder_of, (*path, str(key)), mark) for key, own in value.items()}
    folder = folder_of(path) if mark else None
    if mark is None or folder is None:
        return value
    if isinstance(value, list):
        return [_beside(folder, own, mark) for own in value]
    return _beside(folder, value, mark)


def _beside(folder: Path, value: Any, mark: Anchored) -> Any:
    """`value` as an absolute path, if it is a relative one; a name stays."""
    if not isinstance(value, str) or value.startswith("~"):
        return value
    if mark.known_by == "any":
        return str(folder / value)
    is_there = Path.is_dir if mark.known_by == "folder" else _is_named
    return next((str(place) for place in (folder / value, Path.cwd() / value) if is_there(place)), value)


def _is_named(place: Path) -> bool:
    """Whether a file is given by path: one without an ending would be a shipped name."""
    return bool(place.suffix) and place.is_file()


def _mark(field: FieldInfo) -> Anchored | None:
    if field is _DEEPSPEED:
        return Anchored("file")
    parts = (*field.metadata, *_inside(field.annotation))
    return next((part for part in parts if isinstance(part, Anchored)), None)


def _inside(annotation: Any) -> Iterator[Any]:
    """All types and marks inside an annotation, but nothing of what other sections say of their own."""
    for part in get_args(annotation):
        yield part
        if not (isinstance(part, type) and issubclass(part, BaseModel)):
            yield from _inside(part)
