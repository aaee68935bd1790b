"""The trie of questions against its definition: a node for each distinct prefix of the sequences."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from curation.signals.raters.trie import Question, build_questions, build_trie

TOKENS = st.lists(st.integers(0, 3), min_size=1, max_size=6)


@given(st.lists(TOKENS, min_size=1, max_size=8))
def test_a_node_for_each_distinct_beginning(sequences):
    trie = build_trie(sequences)
    assert len(trie) == len({tuple(s[:k]) for s in sequences for k in range(1, len(s) + 1)})
    for k, sequence in enumerate(sequences):
        path = trie.path(k)
        assert trie.tokens[path].tolist() == sequence and trie.depth[path].tolist() == list(
            range(len(sequence))
        )
        assert path[-1] == trie.leaf[k] and trie.parent[path].tolist() == [-1, *path[:-1]]
        assert np.flatnonzero(trie.ancestors[path[-1]]).tolist() == path.tolist()


@given(st.lists(st.tuples(TOKENS, st.lists(TOKENS, max_size=4)), min_size=1, max_size=5), st.integers(0, 99))
def test_the_log_prob_of_an_answer_is_the_sum_over_its_tokens(questions, seed):
    plan = build_questions(
        [Question(tuple(prompt), tuple(map(tuple, answers))) for prompt, answers in questions]
    )
    # Log-probability [batch, node, token] of each token after each node.
    score = np.random.default_rng(seed).normal(size=(2, len(plan.trie), 4))
    spelled = [tuple(plan.trie.tokens[np.flatnonzero(row)]) for row in plan.trie.ancestors]
    after = {beginning: node for node, beginning in enumerate(spelled)}
    got = plan.log_probs(score[:, plan.node, plan.token])
    assert len(got) == len(questions)
    for (prompt, answers), values, start in zip(questions, got, plan.starts, strict=True):
        assert spelled[start] == tuple(prompt) and values.shape == (2, len(answers))
        for k, answer in enumerate(answers):
            expected = sum(
                score[:, after[tuple(prompt + answer[:j])], token] for j, token in enumerate(answer)
            )
            np.testing.assert_allclose(values[:, k], expected, atol=1e-12)


def test_sequences_without_tokens_are_refused():
    with pytest.raises(ValueError, match="every sequence at least one token"):
        build_trie([[1], []])
    with pytest.raises(ValueError, match="at least one sequence"):
        build_trie([])
    with pytest.raises(ValueError, match="candidate answer has no tokens"):
        build_questions([Question((1,), ((2,), ()))])
