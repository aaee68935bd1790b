"""Count the text tokens of many conversations: with a Hugging Face tokenizer, or as white-space words."""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

Counter = Callable[[Sequence[str]], list[int]]


def token_counter(tokenizer: str | Path | None) -> tuple[Counter, dict[str, str]]:
    """A function texts -> counts, and what it counts (for pool.json).

    `tokenizer` is a folder with tokenizer.json, such a file, or a model name; None counts words. Special tokens and
    chat markup are not counted.
    """
    if tokenizer is None:
        return (lambda texts: [len(text.split()) for text in texts]), {"unit": "words"}
    backend = _load(Path(tokenizer), str(tokenizer))
    digest = hashlib.sha256(backend.to_str().encode()).hexdigest()

    def count(texts: Sequence[str]) -> list[int]:
        return [len(item.ids) for item in backend.encode_batch_fast(list(texts), add_special_tokens=False)]

    return count, {"unit": "tokens", "tokenizer": Path(tokenizer).name, "tokenizer_sha256": digest}


def _load(path: Path, name: str):  # -> tokenizers.Tokenizer
    from tokenizers import Tokenizer

    file = path / "tokenizer.json" if path.is_dir() else path
    if file.is_file():
        backend = Tokenizer.from_file(str(file))
        backend.no_truncation()
        backend.no_padding()
        return backend
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(name, use_fast=True).backend_tokenizer
