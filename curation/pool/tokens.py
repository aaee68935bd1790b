"""Count the text tokens of many conversations, with a Hugging Face tokenizer or as white-space words."""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from curation.pool.errors import PoolArgumentError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

Counter = Callable[[Sequence[str]], list[int]]
_SPACE_OR_NOT = bytes(ord(" " if chr(code).isspace() else "x") for code in range(256))


def token_counter(tokenizer: str | Path | None) -> tuple[Counter, dict[str, str]]:
    """A function from texts to counts, and the unit that it counts in (for pool.json).

    `tokenizer` is a folder with tokenizer.json, such a file, or a model name on the Hub; None counts words.
    Special tokens and chat markup are not counted. Raises PoolArgumentError if the tokenizer cannot be
    loaded.
    """
    if tokenizer is None:
        return (lambda texts: list(map(_words, texts))), {"unit": "words"}
    backend = _load(Path(tokenizer), str(tokenizer))
    digest = hashlib.sha256(backend.to_str().encode()).hexdigest()

    def count(texts: Sequence[str]) -> list[int]:
        return [len(item.ids) for item in backend.encode_batch_fast(list(texts), add_special_tokens=False)]

    return count, {"unit": "tokens", "tokenizer": Path(tokenizer).name, "tokenizer_sha256": digest}


def _words(text: str) -> int:
    """`len(text.split())`, but for ASCII in less than half of its time."""
    if not text.isascii():
        return len(text.split())
    marks = text.encode().translate(_SPACE_OR_NOT)
    return marks.count(b"x ") + marks.endswith(b"x")


def _load(path: Path, name: str) -> "Tokenizer":
    file = path / "tokenizer.json" if path.is_dir() else path
    if file.is_file():
        return _from_file(file)
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(name, use_fast=True).backend_tokenizer
    except (OSError, ValueError, AttributeError) as error:
        raise PoolArgumentError(
            f"tokenizer {name!r} is neither a folder with tokenizer.json nor found on the Hub "
            f"({str(error).splitlines()[0][:200]})"
        ) from error


def _from_file(file: Path) -> "Tokenizer":
    from tokenizers import Tokenizer

    try:
        backend = Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises plain Exception for a broken file
        raise PoolArgumentError(f"tokenizer {file} cannot be read ({str(error)[:200]})") from error
    # A saved tokenizer may truncate or pad, which would falsify the counts.
    backend.no_truncation()
    backend.no_padding()
    return backend
