"""LLaVA-NeXT's YAML of files and how much of each is taken.

datasets:
  - json_path: one.json
    sampling_strategy: first:50%
"""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import yaml

from curation.pool.errors import PoolError
from curation.pool.inputs.given import Sampling
from curation.pool.reasons import short
from curation.printable import printable

_KEYS = {"json_path", "sampling_strategy"}
_MAX_BYTES = 1 << 24


class Part(NamedTuple):
    """One entry of a mixture, and where it stands (`mixture.yaml:3`)."""

    path: Path
    take: Sampling | None
    place: str


def read_mixture(path: Path, seed: int) -> list[Part]:
    """The entries in order; relative paths are relative to the YAML's own folder.

    Raises PoolError, with the line, for what is not such a YAML or names a missing file.
    """
    if path.stat().st_size > _MAX_BYTES:
        raise PoolError(f"{path} is too large for a YAML mixture")
    try:
        root = yaml.compose(path.read_text(encoding="utf-8-sig"), Loader=yaml.SafeLoader)
    except UnicodeDecodeError as error:
        raise PoolError(f"{path} is not UTF-8 (byte {error.start:,})") from None
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise PoolError(f"{path}:{line}: not valid YAML ({error.problem or error.context})") from None
    except (yaml.YAMLError, RecursionError) as error:
        raise PoolError(f"{path} is not valid YAML ({short(' '.join(str(error).split()))})") from None
    parts = list(_parts(path, root, seed))
    if not parts:
        raise PoolError(
            f"{path} is no mixture: give `datasets:` with a list of json_path and sampling_strategy"
        )
    return parts


def _parts(path: Path, root: yaml.Node | None, seed: int) -> Iterator[Part]:
    pairs = root.value if isinstance(root, yaml.MappingNode) else []
    for key, listed in pairs:
        if key.value != "datasets":
            continue
        if not isinstance(listed, yaml.SequenceNode):
            raise PoolError(f"{_at(path, listed)}: datasets must be a list")
        for entry in listed.value:
            yield _part(path, entry, seed)


def _part(path: Path, entry: yaml.Node, seed: int) -> Part:
    place = _at(path, entry)
    if not isinstance(entry, yaml.MappingNode):
        raise PoolError(f"{place}: an entry must have json_path and sampling_strategy")
    values = {}
    for key, held in entry.value:
        if key.value not in _KEYS:
            raise PoolError(
                f"{_at(path, key)}: unknown key {printable(str(key.value))!r}; it must be one of "
                f"{', '.join(sorted(_KEYS))}"
            )
        if not isinstance(held, yaml.ScalarNode) or not held.value:
            raise PoolError(f"{_at(path, held)}: {key.value} must be a text")
        values[key.value] = held.value
    if "json_path" not in values:
        raise PoolError(f"{place}: json_path is missing")
    file = path.parent / values["json_path"]
    if not file.exists():
        raise PoolError(f"{place}: {file} does not exist (a relative json_path is relative to {path.name})")
    try:
        take = Sampling.parse(values.get("sampling_strategy", "all"), seed, values["json_path"])
    except ValueError as error:
        raise PoolError(f"{place}: sampling_strategy {error}") from None
    return Part(file, take, place)


def _at(path: Path, node: yaml.Node) -> str:
    return f"{path}:{node.start_mark.line + 1}"
