"""Texts as 64-bit hashes of their words and of their word n-grams, computed on whole columns.

    words = hashed_words(["What is in the <image>?", "Two words"])
    grams = ngrams(words, 2)

A word is a run of letters, marks and digits after NFKC normalisation and in lower case; a character of a
script without spaces (Han, Kana, Thai) is a word of its own. Punctuation, white space and the places of
images do not count. Two different words or n-grams share a hash with a chance of about 2^-64.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

Hashes = NDArray[np.uint64]

_SINGLE = r"([\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}])"
_BETWEEN = r"[^\p{L}\p{M}\p{N}]+"
_SPACE = ord(" ")
_CHARACTERS = np.array(
    [ord(chr(c).lower()) if chr(c).isalnum() else _SPACE for c in range(128)] + list(range(128, 256)),
    np.uint8,
)
"""Of each byte of UTF-8: ASCII letters in lower case, digits, and parts of other characters as they are; else
a space."""
_LETTER = np.uint64(0x9E3779B97F4A7C15)
_WORD = np.uint64(0xD6E8FEB86659FD93)
"""Bases of the polynomials over a word's bytes and over an n-gram's words: odd, thus invertible mod 2^64."""


@dataclass(frozen=True)
class Words:
    """The words of texts, one after another: `hashes` of each, `ends` of each text (int64, from 0)."""

    hashes: Hashes
    ends: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.ends) - 1

    @property
    def counts(self) -> NDArray[np.int64]:
        """Number of words of each text."""
        return np.diff(self.ends)


@dataclass(frozen=True)
class Grams:
    """Word n-grams: `hashes`, the `text` that each is in, and the `place` of its first word in that text."""

    hashes: Hashes
    text: NDArray[np.int64]
    place: NDArray[np.int64]


def hashed_words(texts: Sequence[str] | pa.Array) -> Words:
    """The words of each text."""
    plain = _plain(texts if isinstance(texts, pa.Array) else pa.array(texts, pa.string()))
    if not len(plain):
        return Words(np.zeros(0, np.uint64), np.zeros(1, np.int64))
    _, offsets, data = plain.buffers()
    ends = np.frombuffer(offsets, np.int64)[plain.offset : plain.offset + len(plain) + 1]
    letters = _CHARACTERS[np.frombuffer(data or b"", np.uint8)[ends[0] : ends[-1]]]
    inside = np.concatenate([[False], letters != _SPACE, [False]])
    starts = np.flatnonzero(inside[1:] & ~inside[:-1])
    stops = np.flatnonzero(inside[:-1] & ~inside[1:])
    hashes = _polynomial(letters.astype(np.uint64) + np.uint64(1), starts, stops, _LETTER)
    return Words(_mixed(hashes), np.searchsorted(starts, ends - ends[0]))


def _plain(texts: pa.Array) -> pa.Array:
    """large_string[n]: the texts with what `_CHARACTERS` cannot tell of their characters done; a space ends
    each.

    Regular expressions are an order of magnitude slower than tables, so that only what is not ASCII meets
    them.
    """
    texts = texts.cast(pa.large_string())
    for place in ("<image>", *(f"<image {k}>" for k in range(1, 10))):
        texts = pc.replace_substring(texts, place, " ")
    ascii_only = pc.string_is_ascii(texts)
    if not pc.all(ascii_only, skip_nulls=False).as_py():
        foreign = pc.utf8_lower(pc.utf8_normalize(pc.filter(texts, pc.invert(ascii_only)), "NFKC"))
        foreign = pc.replace_substring_regex(foreign, _BETWEEN, " ")
        foreign = pc.replace_substring_regex(foreign, _SINGLE, r" \1 ")
        texts = pc.replace_with_mask(texts, pc.invert(ascii_only), foreign)
    return pc.binary_join_element_wise(
        texts, pa.scalar("", pa.large_string()), pa.scalar(" ", pa.large_string())
    )


def ngrams(words: Words, n: int) -> Grams:
    """All n-grams of consecutive words inside a text; a text of fewer words has none."""
    text = np.repeat(np.arange(len(words)), words.counts)
    place = np.arange(len(words.hashes)) - words.ends[:-1][text]
    first = np.flatnonzero(place + n <= words.counts[text])
    return Grams(_mixed(_polynomial(words.hashes, first, first + n, _WORD)), text[first], place[first])


def whole(words: Words) -> Hashes:
    """One hash of all words of each text; that of a text without words is 0."""
    hashes = _mixed(_polynomial(words.hashes, words.ends[:-1], words.ends[1:], _WORD))
    return np.where(words.counts > 0, hashes, np.uint64(0))


def _polynomial(values: Hashes, starts: Any, stops: Any, base: np.uint64) -> Hashes:
    """Sum of values[start + k] * base^k over k, mod 2^64, for each range, from one running sum."""
    if not len(values):
        return np.zeros(len(starts), np.uint64)
    inverse = np.uint64(pow(int(base), -1, 1 << 64))
    sums = np.concatenate([[np.uint64(0)], np.cumsum(values * _powers(base, len(values)), dtype=np.uint64)])
    return (sums[stops] - sums[starts]) * _powers(inverse, len(values) + 1)[starts]


def _powers(base: np.uint64, n: int) -> Hashes:
    """base^0 ... base^(n - 1) mod 2^64."""
    powers = np.full(n, base, np.uint64)
    powers[0] = 1
    return np.multiply.accumulate(powers)


def _mixed(hashes: Hashes) -> Hashes:
    """The finaliser of splitmix64 (Steele, Lea, Flood 2014): every input bit moves every output bit."""
    hashes = (hashes ^ (hashes >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    hashes = (hashes ^ (hashes >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return hashes ^ (hashes >> np.uint64(31))
