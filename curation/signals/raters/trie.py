"""Questions about one sample as a trie of tokens, so that tokens they share are computed once.

Every question continues the sample's prefix. The capability queries share their beginning and the candidate
answers of a question share its whole prompt, so the trie holds far fewer tokens than the questions one after
the other. It is built from token ids alone and does not depend on the wording of the prompts.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Trie:
    """Token sequences merged where they begin alike; parents come before their children.

    tokens, parent, depth: int64 [N]; a token that follows the prefix directly has parent -1 and depth 0.
    leaf: int64 [Q], the node of each sequence's last token.
    ancestors: bool [N, N], whether node i attends to node j (itself, or an earlier node on its path).
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
        # Node numbers ascend along a path, because parents come first.
        return np.flatnonzero(self.ancestors[self.leaf[sequence]])


def build_trie(sequences: Sequence[Sequence[int]]) -> Trie:
    """The trie of token sequences. Raises ValueError for an empty sequence, or for none at all."""
    if not sequences or any(len(sequence) == 0 for sequence in sequences):
        raise ValueError("a trie needs at least one sequence, and every sequence at least one token")
    node_of: dict[tuple[int, int], int] = {}  # (parent, token) -> node
    leaf = []
    for sequence in sequences:
        node = -1
        for token in map(int, sequence):
            node = node_of.setdefault((node, token), len(node_of))
        leaf.append(node)
    parent, tokens = (np.array(column, dtype=np.int64) for column in zip(*node_of, strict=True))
    ancestors = np.eye(len(node_of), dtype=bool)
    for node, above in enumerate(parent):
        if above >= 0:
            ancestors[node] |= ancestors[above]
    return Trie(tokens, parent, ancestors.sum(axis=1) - 1, np.array(leaf, dtype=np.int64), ancestors)


@dataclass(frozen=True)
class Question:
    """The tokens of a query after the prefix, up to its answer, and of its candidate answers."""

    prompt: tuple[int, ...]
    answers: tuple[tuple[int, ...], ...] = ()


@dataclass(frozen=True)
class QuestionTrie:
    """The trie of some questions with their candidate answers, and the node that predicts each answer token.

    starts: int64 [Q], the last prompt node of each question; its state predicts the first answer token.
    node, token, answer: int64 [K]; the k-th answer token is `token[k]`, predicted at `node[k]`, and belongs
        to candidate `answer[k]`, numbered across all questions.
    splits: int64 [Q - 1], the number of candidates before each question but the first.
    """

    trie: Trie
    starts: np.ndarray
    node: np.ndarray
    token: np.ndarray
    answer: np.ndarray
    splits: np.ndarray

    def log_probs(self, token_log_probs: np.ndarray) -> list[np.ndarray]:
        """For each question its candidates' log-probs float64 [..., answers]; of tokens they are [..., K]."""
        count = int(self.answer.max(initial=-1)) + 1
        out = np.zeros((*token_log_probs.shape[:-1], count))
        # NumPy's stubs do not know tuples as indices of ufunc.at.
        np.add.at(out, (..., self.answer), token_log_probs.astype(np.float64))  # type: ignore[arg-type]
        return np.split(out, self.splits, axis=-1)


def build_questions(questions: Sequence[Question]) -> QuestionTrie:
    """The trie of questions and their candidate answers. Raises ValueError for an empty prompt or answer."""
    if any(not answer for question in questions for answer in question.answers):
        raise ValueError("a candidate answer has no tokens, so it has no probability")
    prompts = [question.prompt for question in questions]
    candidates = [(question.prompt, answer) for question in questions for answer in question.answers]
    # The last token of an answer is predicted but never fed to the model.
    trie = build_trie([*prompts, *(prompt + answer[:-1] for prompt, answer in candidates)])
    paths = [trie.path(len(questions) + k)[len(prompt) - 1 :] for k, (prompt, _) in enumerate(candidates)]
    empty = [np.zeros(0, np.int64)]  # np.concatenate needs at least one array
    return QuestionTrie(
        trie,
        trie.leaf[: len(questions)],
        np.concatenate([*paths, *empty]),
        np.array([token for _, answer in candidates for token in answer], dtype=np.int64),
        np.repeat(np.arange(len(candidates)), [len(answer) for _, answer in candidates]),
        np.cumsum([len(question.answers) for question in questions])[:-1],
    )
