"""Count the text tokens of many conversations, with a Hugging Face tokenizer or as white-space words."""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from curation.pool.errors import PoolArgumentError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

Counter = Callable[[Sequence[str]], list[int]]
_IS_WORD = bytes(not chr(code).isspace() for code in range(256))


def token_counter(tokenizer: str | Path | None) -> tuple[Counter, dict[str, str]]:
    """A function from texts to counts, and the unit that it counts in (for pool.json).

    `tokenizer` is a folder with tokenizer.json, such a file, or a model name on the Hub; None counts words.
    Chat markup is not counted; control tokens in the texts are, as the letters that they are trained as.
    Raises PoolArgumentError if the tokenizer cannot be loaded.
    """
    if tokenizer is None:
        return _words, {"unit": "words"}
    backend = _load(Path(tokenizer), str(tokenizer))
    digest = hashlib.sha256(backend.to_str().encode()).hexdigest()
    backend.encode_special_tokens = True

    def count(texts: Sequence[str]) -> list[int]:
        return [len(item.ids) for item in backend.encode_batch_fast(list(texts), add_special_tokens=False)]

    return count, {"unit": "tokens", "tokenizer": Path(tokenizer).name, "tokenizer_sha256": digest}


def special_tokens(tokenizer: str | Path | None) -> tuple[str, ...]:
    """The control tokens of a tokenizer (as of `token_counter`), in order of their ids; none without one.

    Raises PoolArgumentError if it cannot be loaded.
    """
    if tokenizer is None:
        return ()
    added = _load(Path(tokenizer), str(tokenizer)).get_added_tokens_decoder()
    return tuple(added[number].content for number in sorted(added) if added[number].special)


def _words(texts: Sequence[str]) -> list[int]:
    """`len(text.split())` of each text; of ASCII ones all at once, by where a word starts."""
    ascii_only = [text if text.isascii() else "" for text in texts]
    is_word = np.frombuffer((" " + " ".join(ascii_only)).encode().translate(_IS_WORD), np.uint8)
    starts = np.append(is_word[1:] > is_word[:-1], False)
    lengths = np.fromiter(map(len, ascii_only), np.int64, len(texts))
    counts = np.add.reduceat(starts, np.cumsum(lengths + 1) - lengths - 1, dtype=np.int32)
    for at, text in enumerate(texts):
        if not text.isascii():
            counts[at] = len(text.split())
    return counts.tolist()


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
