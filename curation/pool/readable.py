"""What a reader sees of a text: neither control tokens of chat templates nor invisible characters."""

import re
from collections.abc import Collection
from functools import lru_cache

from curation.pool.sample import IMAGE_PLACEHOLDER

_INVISIBLE = (
    # Unicode categories Cc, Cf, Zs, Zl and Zp ...
    r"\x00-\x20\x7f-\xa0\xad\u0600-\u0605\u061c\u06dd\u070f\u0890\u0891\u08e2\u1680\u180e\u2000-\u200f"
    r"\u2028-\u202f\u205f-\u206f\u3000\ufeff\ufff9-\ufffb\U000110bd\U000110cd\U00013430-\U0001343f"
    r"\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0001\U000e0020-\U000e007f"
    # ... and what has no ink in other categories: fillers, joiners, variation selectors, the blank braille
    r"\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef"
)
_VISIBLE = re.compile(f"[^{_INVISIBLE}]")
_CONTROL = (
    r"<\|[^<>|\s]{1,64}\|>"  # ChatML, Llama 3, Qwen, Phi
    r"|<\uff5c[^<>\uff5c\s]{1,64}\uff5c>"  # DeepSeek: the same with full-width bars
    r"|</?s>|<(?:pad|unk|bos|eos|mask)>|\[/?INST\]|<</?SYS>>"
    r"|<(?:start|end)_of_(?:turn|image|utterance)>|<image_soft_token>|<fake_token_around_image>|<IMG_CONTEXT>"
)


class ControlTokens:
    """The control tokens that are looked for in a pool's texts: those of common templates, and `added`.

    `added`: the added tokens of a base's own tokenizer. The <image> placeholder is none.
    """

    def __init__(self, added: Collection[str] = ()) -> None:
        own = sorted((token for token in set(added) - {IMAGE_PLACEHOLDER} if _VISIBLE.search(token)), key=len)
        self._pattern = re.compile("|".join([*(re.escape(token) for token in own[::-1]), _CONTROL]))
        self._odd = not all("<" in token or "[" in token for token in own)

    def may_be_in(self, text: str) -> bool:
        """Whether the text can hold a control token: a quick look that never misses one."""
        # each of `_CONTROL` begins with "<", as a placeholder does, or with "["
        return self._odd or "[" in text or ("<" in text and text.count("<") != text.count(IMAGE_PLACEHOLDER))

    def count(self, text: str) -> int:
        """How many control tokens the text holds."""
        return sum(1 for _ in self._pattern.finditer(text))

    def without(self, text: str) -> str:
        """The text with its control tokens taken out."""
        return self._pattern.sub("", text)


@lru_cache(maxsize=8)
def control_tokens(added: tuple[str, ...] = ()) -> ControlTokens:
    """The (compiled once) control tokens of common templates and a base's `added` ones."""
    return ControlTokens(added)


sees = _VISIBLE.search
"""Truthy if a reader sees something of a text: `not is_empty(text)`, for many texts at once."""


def is_empty(text: str) -> bool:
    """Whether a reader sees nothing: only white space, format and control characters, fillers."""
    return _VISIBLE.search(text) is None
