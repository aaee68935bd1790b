"""Words, shingles and signatures: near texts are found, and nothing is near before its true index says so."""

import numpy as np
import pytest
from copies_pool import CopiesPool
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from curation.dedup import text
from curation.dedup.text import conversation, jaccard, near_candidates, read_texts, shingles, words


def test_words():
    assert words("What IS  this?\n<image>\nA ﬁne café, no. 12") == [
        *("what", "is", "this", "?", "a", "fine", "café", ",", "no", ".", "12"),
    ]
    assert words("这是什么 abc") == ["这", "是", "什", "么", "abc"]
    assert words("2 + 3") != words("2 - 3")


def test_shingles_and_their_index():
    assert shingles(["a", "b"]) == {"a b"} and shingles(list("abcd")) == {"a b c", "b c d"}
    assert jaccard(shingles(list("abcd")), shingles(list("abce"))) == pytest.approx(1 / 3)
    assert jaccard(set(), set()) == 1


def pool_of(tmp_path, answers):
    world = CopiesPool(tmp_path)
    for number, answer in enumerate(answers):
        world.add(f"r{number}", "Say it.", answer)
    return world.build()


def test_near_texts_are_candidates(tmp_path):
    """Recall by band: of 300 pairs with an index from 0.8 on, nearly all are candidates."""
    rng = np.random.default_rng(0)
    answers = []
    for _ in range(300):
        words = [f"w{n}" for n in rng.integers(0, 5000, rng.integers(12, 200))]
        changed = list(words)
        for at in rng.integers(0, len(words), max(1, len(words) // 30)):
            changed[at] = "other"
        answers += [" ".join(words), " ".join(changed)]
    pool = pool_of(tmp_path, answers)
    texts = read_texts(pool, np.arange(len(pool)))
    sets = [shingles(conversation(sample)) for sample in pool.samples()]
    rows = texts.first[np.stack(near_candidates(texts, 0.8))].T
    found = {tuple(sorted(pair)) for pair in rows.tolist()}
    true = [(a, a + 1) for a in range(0, len(pool), 2) if jaccard(sets[a], sets[a + 1]) >= 0.8]
    assert len(true) > 150
    assert np.mean([pair in found for pair in true]) > 0.98
    assert all(jaccard(sets[a], sets[b]) >= 0.8 - 2 * text.SLACK for a, b in found)


def test_a_crowded_bucket_stays_connected(tmp_path, monkeypatch):
    """Three hundred texts of one template, each with a last word of its own."""
    monkeypatch.setattr(text, "_PAIRED", 4)
    body = " ".join(f"w{n}" for n in range(80))
    texts = read_texts(pool_of(tmp_path, [f"{body} end{n}" for n in range(300)]), np.arange(300))
    i, j = near_candidates(texts, 0.8)
    assert len(i) < 300 * 30
    graph = coo_array((np.ones(len(i)), (i, j)), shape=(300, 300))
    assert connected_components(graph, directed=False)[0] == 1


def test_equal_words_are_one_text(tmp_path):
    texts = read_texts(pool_of(tmp_path, ["Yes it is", "yes  it IS", "no"]), np.arange(3))
    assert texts.text[0] == texts.text[1] != texts.text[2] and len(texts.first) == 2
    assert texts.words.tolist() == [9, 9, 7]


def test_no_texts(tmp_path):
    texts = read_texts(pool_of(tmp_path, ["a"]), np.empty(0, np.int64))
    assert len(texts.text) == 0 and [len(part) for part in near_candidates(texts, 0.8)] == [0, 0]


def test_signatures_estimate_the_index():
    for share in (0.0, 0.5, 0.9, 1.0):
        common = [f"c{n}" for n in range(int(200 * share))]
        a, b = (set(common) | {f"{side}{n}" for n in range(200 - len(common))} for side in "ab")
        own = text.signatures([a, b]).astype(np.uint8)
        assert text.estimates(own[0], own[1]) == pytest.approx(jaccard(a, b), abs=0.15)
    assert text.signatures([set("abc")])[0].tolist() == text.signatures([set("cba")])[0].tolist()
