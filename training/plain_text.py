"""Control tokens in the texts of the data, kept as the letters that they are.

A tokenizer turns `<|end|>` in an answer into the token that ends a turn, and what follows would be trained as
the next turns of the template. `PlainText.marked` sets the data's own apart from the template's, before the
template is applied; `PlainText.encodings` tokenises such texts, the marked ones as plain text.
"""

import re
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np
from tokenizers import Encoding, Tokenizer

from curation.pool.sample import IMAGE_PLACEHOLDER
from training.one_turn import BREAK

MARK = "\ufdd0"
"""A code point that Unicode keeps out of texts; written into the control tokens of the data."""


class PlainEncoding(NamedTuple):
    """Token ids, and the characters [start, end) of each in the marked text."""

    ids: list[int]
    offsets: list[tuple[int, int]]


class PlainText:
    """Marks and encodes control tokens for a tokenizer: those of its added tokens that are special.

    The <image> placeholder in a question is none.
    """

    def __init__(self, backend: Tokenizer) -> None:
        self._backend = backend
        added = [token for token in backend.get_added_tokens_decoder().values() if token.special]
        added = sorted((token for token in added if len(token.content) > 1), key=lambda t: -len(t.content))
        never = r"(?!)"
        own = [re.escape(token.content) for token in added if token.content != IMAGE_PLACEHOLDER]
        self._in_data = re.compile("|".join(own) or never)
        # A token may take the white space beside it, which then is no part of the text between tokens.
        space = r"\s*"
        spaced = [space * t.lstrip + re.escape(t.content) + space * t.rstrip for t in added]
        self._in_template = re.compile("|".join(spaced) or never)

    def tokenizer(self) -> Tokenizer:
        """The tokenizer, without what a call of the processor may have left switched on: it would cut or pad
        texts."""
        if self._backend.truncation is not None:
            self._backend.no_truncation()
        if self._backend.padding is not None:
            self._backend.no_padding()
        return self._backend

    @cached_property
    def _letters(self) -> Tokenizer:
        """The same tokenizer without control tokens; a copy, as other threads may use the original."""
        letters = Tokenizer.from_str(self.tokenizer().to_str())
        letters.encode_special_tokens = True
        return letters

    def marked(self, messages: Sequence[dict[str, str]]) -> list[dict[str, str]]:
        """Chat messages of the data, each control token in their contents marked."""
        return [
            message | {"content": self._in_data.sub(_with_mark, message["content"])} for message in messages
        ]

    def encodings(self, texts: Sequence[str]) -> list[Encoding | PlainEncoding]:
        """Rendered texts: what is marked as its letters, the template's control tokens as they are.

        What stands between two of the template's tokens is tokenised by itself, as in a text without marks;
        only a SentencePiece tokenizer may write a space where such a part begins, or where a BREAK was.
        """
        unmarked = [text for text in texts if MARK not in text and BREAK not in text]
        usual = iter(self.tokenizer().encode_batch(unmarked, add_special_tokens=False))
        return [self._by_pieces(text) if MARK in text or BREAK in text else next(usual) for text in texts]

    def _by_pieces(self, text: str) -> PlainEncoding:
        ids: list[int] = []
        offsets: list[tuple[int, int]] = []
        for start, stop, marked in self._pieces(text):
            piece = text[start:stop]
            # Where each character stands in the marked text.
            at = np.flatnonzero([char != MARK for char in piece]) + start
            encode = (self._letters if marked else self.tokenizer()).encode
            found = encode(piece.replace(MARK, ""), add_special_tokens=False)
            ids += found.ids
            offsets += [
                (int(at[a]), int(at[b - 1]) + 1) if a < b else (start, start) for a, b in found.offsets
            ]
        return PlainEncoding(ids, offsets)

    def _pieces(self, text: str) -> Iterator[tuple[int, int, bool]]:
        """(start, stop, whether it holds a mark) of the parts that are tokenised one by one."""
        start = 0
        for part in text.split(BREAK):
            yield from self._pieces_between(text, start, start + len(part))
            start += len(part) + len(BREAK)

    def _pieces_between(self, text: str, begin: int, stop: int) -> Iterator[tuple[int, int, bool]]:
        at = begin
        ends = [
            *((match.start(), match.end()) for match in self._in_template.finditer(text, begin, stop)),
            (stop, stop),
        ]
        for start, end in ends:
            if MARK in text[at:start]:
                if begin < at:
                    yield begin, at, False
                yield at, start, True
                begin = start
            at = end
        if begin < at:
            yield begin, at, False


def _with_mark(token: re.Match[str]) -> str:
    return token[0][0] + MARK + token[0][1:]
