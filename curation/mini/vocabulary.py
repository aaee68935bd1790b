"""The words of the mini world: the vocabulary file, and the words of the base model's caption language.

A module of its own, because captions and tokenizer both need it.
"""

from functools import cache
from pathlib import Path

VOCABULARY = Path(__file__).parent / "vocabulary.txt"
CAPTION_WORDS = (
    "grid row column bars photo find list copy big person bird flower swimmer flag bar = ; , . none same"
)
"""The words of the tag language of curation/mini/captions.py."""


@cache
def whole_words() -> tuple[str, ...]:
    """Every word of the vocabulary file that is made of letters and digits."""
    return tuple(word for word in VOCABULARY.read_text().split() if word.isalnum())
