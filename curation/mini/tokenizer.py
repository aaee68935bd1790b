"""The mini world's tokenizer: WordPiece over a fixed list of whole words, characters as the fallback.

    python -m curation.mini.tokenizer > curation/mini/vocabulary.txt   # after a change of the makers' texts

Every word that the generator can write is one token, and so are the digits 0-9, the letters and the cells
a1..d4; any other text is spelled from characters.
"""

import re
import string
from collections.abc import Iterator
from random import Random
from typing import TYPE_CHECKING

from curation.mini import art
from curation.mini.atom import BRACKETS, Split, ask
from curation.mini.makers import MAKERS, NONSENSE, describe
from curation.mini.scene import CELLS, cell_name
from curation.mini.vocabulary import CAPTION_WORDS, VOCABULARY
from curation.taxonomy import CAPABILITIES, STYLES

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

USER, ASSISTANT, END, PAD, UNKNOWN = "<|user|>", "<|assistant|>", "<|end|>", "<|pad|>", "<|unknown|>"
SPECIAL = (PAD, UNKNOWN, USER, ASSISTANT, END, "<image>", "<video>")
DRAWS = 400  # scenes per maker whose texts are searched for words
QUERY_WORDS = (
    "rate score style styles choice binary word short detailed steps specified helpful training answer "
    "question image"
)
TEMPLATE = (
    "{% for message in messages %}{% if message['role'] == 'user' %}<|user|> {{ message['content'] }} "
    "{% else %}<|assistant|> {% generation %}{{ message['content'] }} <|end|>{% endgeneration %} "
    "{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|> {% endif %}"
)
"""Compact chat template; its generation tags give the assistant mask."""


def _texts() -> Iterator[str]:
    yield " ".join(
        art.names().objects
        + art.names().photos
        + art.names().activity
        + art.SHAPES
        + tuple(art.COLORS)
        + NONSENSE
    )
    yield " ".join(n for group in art.names().fine.values() for n in group)
    yield " ".join(cell_name(c) for c in CELLS)
    yield " ".join(" ".join(c.values()) for c in art.names().countries)
    yield " ".join(w for e in art.names().effects for w in e)
    yield " ".join(a + " " + b for a, b in BRACKETS) + " " + CAPTION_WORDS + " " + QUERY_WORDS
    yield " ".join(c.phrase for c in CAPABILITIES) + " " + " ".join(STYLES.values())
    for capability, make in MAKERS.items():
        for i in range(DRAWS):
            rng = Random(f"vocabulary/{capability}/{i}")
            scene, atoms = make(rng, Split())
            for atom in atoms:
                asked = [
                    ask(atom, style, rng, describe(scene))
                    for style in ("word", "short_description", "chain_of_thought")
                ]
                if atom.kind != "facts":
                    asked += [
                        ask(atom, s, rng, describe(scene))
                        for s in ("multi_choice", "yes_no", "specified", "comparison")
                    ]
                asked.append(ask(atom, "detailed_description", rng, describe(scene)))
                yield from (f"{a.question} {a.answer}" for a in asked)


def words() -> list[str]:
    """Every word of the mini world, sorted; `vocabulary.txt` must hold exactly these."""
    written = {word for text in _texts() for word in re.findall(r"\w+|[^\w\s]", text.lower())}
    words = {word for word in written if not (word.isdigit() and len(word) > 1)}
    return sorted(words | set(string.digits) | set(string.ascii_lowercase) | set(string.punctuation))


def build_tokenizer() -> "PreTrainedTokenizerFast":
    """The tokenizer, with chat template and special tokens."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    listed = VOCABULARY.read_text().split()
    continuations = [f"##{c}" for c in string.ascii_lowercase + string.digits]
    vocabulary = {token: i for i, token in enumerate((*SPECIAL, *listed, *continuations))}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token=UNKNOWN, max_input_chars_per_word=64))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True, strip_accents=False)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(cleanup=False)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        unk_token=UNKNOWN,
        eos_token=END,
        chat_template=TEMPLATE,
        additional_special_tokens=[USER, ASSISTANT, "<image>", "<video>"],
        padding_side="right",
    )


if __name__ == "__main__":
    print("\n".join(words()))
