"""Words and n-grams of whole columns are those that plain Python finds."""

import re
import unicodedata

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curation.decontaminate.words import hashed_words, ngrams, whole

TEXTS = st.lists(st.text(alphabet=st.sampled_from("aB1 .,-\n?éß物ñ"), max_size=30), max_size=8)


def plain_words(text):
    """Letters and digits after NFKC and in lower case; Han characters one by one."""
    text = unicodedata.normalize("NFKC", text).lower() if not text.isascii() else text.lower()
    return re.findall(r"物|[^\W_物]+", text)


@given(TEXTS)
@settings(deadline=None)
def test_words_are_those_of_plain_python(texts):
    words = hashed_words(texts)
    assert words.counts.tolist() == [len(plain_words(text)) for text in texts]
    known = {}
    flat = [word for text in texts for word in plain_words(text)]
    for word, value in zip(flat, words.hashes.tolist(), strict=True):
        assert known.setdefault(word, value) == value
    assert len(set(known.values())) == len(known)


@given(TEXTS, st.integers(1, 4))
@settings(deadline=None)
def test_ngrams_stay_inside_their_text(texts, n):
    grams = ngrams(hashed_words(texts), n)
    expected = [
        (t, k, tuple(words[k : k + n]))
        for t, words in enumerate(map(plain_words, texts))
        for k in range(len(words) - n + 1)
    ]
    assert list(zip(grams.text.tolist(), grams.place.tolist(), strict=True)) == [
        (t, k) for t, k, _ in expected
    ]
    known = {}
    for (_, _, gram), value in zip(expected, grams.hashes.tolist(), strict=True):
        assert known.setdefault(gram, value) == value
    assert len(set(known.values())) == len(known)


def test_case_punctuation_and_placeholders_do_not_count():
    hashes = whole(
        hashed_words(["<image>\nWhat is this?", "what is THIS", "<image 1> What -- is (this)!", "what is"])
    )
    assert len(set(hashes[:3].tolist())) == 1 and hashes[3] != hashes[0]


def test_order_counts():
    assert len(set(whole(hashed_words(["a b", "b a", "ab", "a b b"])).tolist())) == 4


@pytest.mark.parametrize("texts", [[], [""], ["", "...", " "]])
def test_no_words(texts):
    words = hashed_words(texts)
    assert words.counts.sum() == 0 and len(ngrams(words, 8).hashes) == 0
    assert whole(words).tolist() == [0] * len(texts)


def test_sliced_columns():
    column = pa.array(["one", "two words", "three more words"]).slice(1)
    assert hashed_words(column).counts.tolist() == [2, 3]
