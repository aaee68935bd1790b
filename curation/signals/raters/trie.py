"""Queries about one sample as a trie of tokens: what two of them have in common is computed once.

Each query goes on where the sample's prefix ends. The 14 capability queries share their beginning, candidate answers share
their whole query, so a trie of all of them holds far fewer tokens than the queries one after the other. It is built from the
tokenised prompts alone and knows nothing of their wording.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Trie:
    """Token sequences merged where they begin alike; a node comes after its parent.

    tokens, parent, depth: int64 [N]; parent -1 and depth 0 for a token that follows the prefix directly. leaf: int64 [Q],
    the node of each sequence's last token. ancestors: bool [N, N], whether node i sees node j (itself, or before it on its
    path).
    """

    tokens: np.ndarray
    parent: np.ndarray
    depth: np.ndarray
    leaf: np.ndarray
    ancestors: np.ndarray

    def __len__(self) -> int:
        return len(self.tokens)

    def path(self, sequence: int) -> np.ndarray:
        """The nodes of one sequence in order, int64."""
        return np.flatnonzero(self.ancestors[self.leaf[sequence]])


def build_trie(sequences: Sequence[Sequence[int]]) -> Trie:
    """The trie of some token sequences. Raises ValueError for an empty one, or for none at all."""
    if not sequences or any(len(sequence) == 0 for sequence in sequences):
        raise ValueError("a trie is built from at least one sequence, each of at least one token")
    known: dict[tuple[int, int], int] = {}
    leaf = []
    for sequence in sequences:
        node = -1
        for token in map(int, sequence):
            node = known.setdefault((node, token), len(known))
        leaf.append(node)
    parent, tokens = (np.array(column, dtype=np.int64) for column in zip(*known, strict=True))
    ancestors = np.eye(len(known), dtype=bool)
    for node, above in enumerate(parent):
        if above >= 0:
            ancestors[node] |= ancestors[above]
    return Trie(tokens, parent, ancestors.sum(axis=1) - 1, np.array(leaf, dtype=np.int64), ancestors)


@dataclass(frozen=True)
class Question:
    """One query as tokens after the prefix, up to where its answer begins, and the answers whose probability is asked."""

    prompt: tuple[int, ...]
    answers: tuple[tuple[int, ...], ...] = ()


@dataclass(frozen=True)
class QuestionTrie:
    """A trie of questions, and where each answer's tokens are predicted.

    starts: int64 [Q], the node whose state predicts the first token of an answer. The k-th of the K answer tokens is
    `token[k]`, predicted by `node[k]`, and belongs to answer `answer[k]` (numbered through all questions): int64 [K] each.
    splits: the number of answers before each question but the first.
    """

    trie: Trie
    starts: np.ndarray
    node: np.ndarray
    token: np.ndarray
    answer: np.ndarray
    splits: np.ndarray

    def log_probs(self, token_log_probs: np.ndarray) -> list[np.ndarray]:
        """For each question float64 [..., answers], from the log-probabilities [..., K] of the answer tokens."""
        count = int(self.answer.max(initial=-1)) + 1
        out = np.zeros((*token_log_probs.shape[:-1], count))
        np.add.at(out, (..., self.answer), token_log_probs.astype(np.float64))
        return np.split(out, self.splits, axis=-1)


def build_questions(questions: Sequence[Question]) -> QuestionTrie:
    """The trie of questions and their answers. Raises ValueError for an empty prompt or answer."""
    if any(not answer for question in questions for answer in question.answers):
        raise ValueError("an answer without tokens has no probability")
    # The last token of an answer is predicted but never read.
    sequences = [question.prompt for question in questions]
    asked = [(question.prompt, answer) for question in questions for answer in question.answers]
    trie = build_trie([*sequences, *(prompt + answer[:-1] for prompt, answer in asked)])
    paths = [trie.path(len(questions) + k)[len(prompt) - 1 :] for k, (prompt, _) in enumerate(asked)]
    empty = [np.zeros(0, np.int64)]
    return QuestionTrie(
        trie,
        trie.leaf[: len(questions)],
        np.concatenate([*paths, *empty]),
        np.array([token for _, answer in asked for token in answer], dtype=np.int64),
        np.repeat(np.arange(len(asked)), [len(answer) for _, answer in asked]),
        np.cumsum([len(question.answers) for question in questions])[:-1],
    )
