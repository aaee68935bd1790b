"""What the command lines of this project share: checked arguments, and one line on stderr for an error."""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

_NAME_BYTES = 255  # the limit of common file systems for one part of a path


class CommandError(ValueError):
    """A command line that cannot be carried out as written."""


class CommandParser(argparse.ArgumentParser):
    """An argument parser whose errors are one line, `error: ...`, with exit status 2."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {' '.join(message.split())}; see {self.prog} --help\n")


def yaml_params(pairs: Sequence[str]) -> dict[str, Any]:
    """`key=value` pairs of --param, values in YAML. Raises CommandError for other forms and repeated keys."""
    import yaml

    params: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key.isidentifier():
            raise CommandError(f"--param {pair!r}: expected key=value")
        if key in params:
            raise CommandError(f"--param {key} is given twice")
        try:
            params[key] = yaml.safe_load(value)
        except (yaml.YAMLError, RecursionError, ValueError) as error:
            raise CommandError(f"--param {pair[:200]!r}: the value is not valid YAML: {error}") from error
    return params


def fail(error: BaseException | str, status: int) -> int:
    """Print an error as one line on stderr; returns the exit status."""
    text = str(error)
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        text = f"{error.filename}: {error.strerror}"
    print(f"error: {' '.join(text.split())}", file=sys.stderr)
    return status


def path(text: str) -> Path:
    """Type of a path argument: refuses names that no file can have, or that pyarrow cannot open."""
    if not text:
        raise argparse.ArgumentTypeError("the path is empty")
    if "\0" in text:
        raise argparse.ArgumentTypeError(f"{text!r} holds a NUL byte, which no file name can have")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise argparse.ArgumentTypeError(f"{text!r} is not valid UTF-8; rename the file") from None
    result = Path(text)
    if long := next((part for part in result.parts if len(part.encode()) > _NAME_BYTES), None):
        raise argparse.ArgumentTypeError(f"the name {long[:40]!r}... is longer than {_NAME_BYTES} bytes")
    return result


def whole_number(minimum: int) -> Callable[[str], int]:
    """Type of an argument that must be a whole number of at least `minimum`."""

    def parse(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            number = minimum - 1
        if number < minimum:
            raise argparse.ArgumentTypeError(f"{text[:80]!r} must be a whole number of at least {minimum}")
        return number

    return parse


def fraction(text: str) -> float:
    """Type of an argument that must be a number from 0 to 1."""
    try:
        number = float(text)
    except ValueError:
        number = float("nan")
    if not 0 <= number <= 1:  # NaN fails this too
        raise argparse.ArgumentTypeError(f"{text[:80]!r} must be a number from 0 to 1")
    return number
