"""Queries about samples, answered after one computation of each sample's prefix.

System prompt, images and conversation go through the model once, right-padded, with the plain causal kernel; the trie of all
queries then goes through it in one masked forward on the cached keys and values. Each query sees its sample's prefix and its
own path only, at the positions it would have right after that prefix, so it reads what it would read alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from curation.signals.core.batches import batches_by_count
from curation.signals.core.table import Advance
from curation.signals.raters.trie import Question, QuestionTrie, build_questions

if TYPE_CHECKING:
    from curation.pool.read import Pool
    from curation.signals.core.vlm import Pass, Vlm
    from training.render import Encoded

HEAD_STATES = 1024
"""Hidden states that go through the vocabulary head at once: 0.6 GB of float32 at 152k words."""


@dataclass
class Prefix:
    """Computed prefixes of a batch: the cache, which of its columns each sample may see (bool [B, P]), and the position
    that follows each prefix (int64 [B])."""

    cache: Any
    seen: torch.Tensor
    following: torch.Tensor


@dataclass
class Answered:
    """What one batch answered: for each question the log-probabilities float64 [B, answers] of its answers, and the text
    of the question that was continued, one for each sample; finite: bool [B], False where the model overflowed and its
    answers mean nothing."""

    log_probs: list[np.ndarray]
    texts: list[str] | None
    finite: np.ndarray


class Answer(NamedTuple):
    """What one sample answered: as Answered, float64 [answers] for each question."""

    log_probs: list[np.ndarray]
    text: str | None


def check_model(vlm: "Vlm") -> None:
    """Raises ValueError for a model whose attention takes no mask of our own, or does not keep the whole prefix."""
    decoder = vlm.model.model.language_model.config
    if decoder._attn_implementation not in ("sdpa", "eager"):
        raise ValueError(
            f"{vlm.path}: attention {decoder._attn_implementation!r} takes no free mask; load it with sdpa"
        )
    layers = getattr(decoder, "layer_types", None)
    if "sliding_attention" in (layers or ()) or (layers is None and getattr(decoder, "sliding_window", None)):
        raise ValueError(
            f"{vlm.path}: its sliding-window attention forgets the prefix; score it with mode: official"
        )


def prefill(vlm: "Vlm", examples: Sequence["Encoded"]) -> Prefix:
    """The prefixes of some samples (examples without branches) through the whole model."""
    from transformers import DynamicCache

    batch = vlm.batch(examples)
    del batch["labels"]
    seen = batch.pop("attention_mask").bool()
    following = seen.sum(dim=1)
    if "mm_token_type_ids" in batch:
        batch["position_ids"], deltas = vlm.model.model.get_rope_index(
            batch["input_ids"], batch["mm_token_type_ids"], batch.get("image_grid_thw"), attention_mask=seen
        )
        following = following + deltas[:, 0]
    cache = DynamicCache()
    # No mask: right padding comes after all that counts, and without one the causal kernel is used.
    vlm.model.model(**batch, past_key_values=cache, use_cache=True)
    return Prefix(cache, seen, following)


class Questions:
    """Questions of a checkpoint, asked of batches of samples. One of them may be continued greedily to a text.

    continued: its number; max_new_tokens: the longest text. Raises ValueError for a model that cannot share a prefix.
    """

    def __init__(
        self,
        vlm: "Vlm",
        questions: Sequence[Question],
        *,
        continued: int | None = None,
        max_new_tokens: int = 0,
    ) -> None:
        check_model(vlm)
        self.vlm, self.continued, self.max_new_tokens = vlm, continued, max_new_tokens
        self.plan: QuestionTrie = build_questions(questions)
        trie = self.plan.trie
        self._tokens, self._depth, self._ancestors = (
            torch.from_numpy(array).to(vlm.device) for array in (trie.tokens, trie.depth, trie.ancestors)
        )
        self._states, self._state_of = np.unique(self.plan.node, return_inverse=True)

    def __call__(self, examples: Sequence["Encoded"]) -> Answered:
        """The answers about some samples; call it in inference mode."""
        prefix = prefill(self.vlm, examples)
        hidden = self._read_trie(prefix)
        read = self._token_log_probs(hidden)
        finite = hidden.isfinite().all(dim=2).all(dim=1).cpu().numpy() & ~np.isnan(read).any(axis=1)
        return Answered(
            self.plan.log_probs(read), None if self.continued is None else self._texts(prefix, hidden), finite
        )

    def _read_trie(self, prefix: Prefix) -> torch.Tensor:
        """Hidden states [B, N, H] of the trie's nodes, whose keys and values join the cache."""
        size, nodes = len(prefix.seen), len(self._tokens)
        before = prefix.seen[:, None].expand(-1, nodes, -1)
        visible = torch.cat([before, self._ancestors.expand(size, -1, -1)], dim=-1)
        positions = prefix.following[:, None] + self._depth
        return self._decode(prefix, self._tokens.expand(size, -1), visible, positions)

    def _decode(
        self, prefix: Prefix, tokens: torch.Tensor, visible: torch.Tensor, positions: torch.Tensor
    ) -> torch.Tensor:
        """Hidden states [B, T, H] of tokens [B, T] that see what `visible` [B, T, cached + T] allows."""
        blocked = torch.finfo(self.vlm.model.dtype).min
        mask = torch.zeros(visible.shape, dtype=self.vlm.model.dtype, device=visible.device).masked_fill_(
            ~visible, blocked
        )
        out = self.vlm.model.model.language_model(
            input_ids=tokens,
            attention_mask=mask[:, None],
            position_ids=positions,
            past_key_values=prefix.cache,
            use_cache=True,
        )
        return out.last_hidden_state

    def _token_log_probs(self, hidden: torch.Tensor) -> np.ndarray:
        """Log-probabilities float32 [B, K] of the plan's answer tokens."""
        chosen = hidden[:, torch.from_numpy(self._states).to(hidden.device)]
        rows = max(1, HEAD_STATES // max(len(self._states), 1))
        parts = []
        for chunk in chosen.split(rows):
            log_probs = self.vlm.log_probs(chunk.flatten(0, 1)).unflatten(0, chunk.shape[:2])
            parts.append(log_probs[:, self._state_of, self.plan.token].cpu())
        return torch.cat(parts).numpy()

    def _texts(self, prefix: Prefix, hidden: torch.Tensor) -> list[str]:
        """Greedy continuation of the continued question, from the cache that already holds its tokens."""
        start = int(self.plan.starts[self.continued])
        end, size = self.vlm.renderer.end_id, len(prefix.seen)
        visible = torch.cat([prefix.seen, self._ancestors[start].expand(size, -1)], dim=1)
        token = self.vlm.head(hidden[:, start]).argmax(dim=-1)
        tokens, going = [token], token != end
        while len(tokens) < self.max_new_tokens and going.any():
            visible = torch.cat([visible, visible.new_ones(size, 1)], dim=1)
            position = prefix.following + self._depth[start] + len(tokens)
            state = self._decode(prefix, token[:, None], visible[:, None], position[:, None])
            token = self.vlm.head(state[:, 0]).argmax(dim=-1).masked_fill(~going, end)
            tokens.append(token)
            going = going & (token != end)
        return [self._text(row) for row in torch.stack(tokens, dim=1).tolist()]

    def _text(self, tokens: list[int]) -> str:
        end = self.vlm.renderer.end_id
        kept = tokens[: tokens.index(end)] if end in tokens else tokens
        return self.vlm.tokenizer.decode(kept, skip_special_tokens=True)


def answer_rows(
    pool: "Pool",
    rows: Sequence[int],
    questions: Questions,
    flat: bool,
    batch_size: int,
    done: "Pass",
    advance: Advance,
) -> list[Answer | None]:
    """What some rows of a pool answer, in the order of `rows`; flat: the form of the prompt set.

    None where there is no answer, counted in `done.missing`: what cannot be rendered or read by its reason, what makes the
    model overflow as `not_finite`.
    """
    vlm = questions.vlm

    def score(examples: Sequence["Encoded"]) -> list[Answer | None]:
        found = questions(examples)
        # A broken image was replaced by a blank one, and is counted as broken whatever that gives.
        done.missing += {
            "not_finite": sum(
                not ok and e.name not in vlm.collator.broken
                for e, ok in zip(examples, found.finite, strict=True)
            )
        }
        texts = found.texts or [None] * len(examples)
        answers = [Answer([values[i] for values in found.log_probs], text) for i, text in enumerate(texts)]
        return [answer if ok else None for answer, ok in zip(answers, found.finite, strict=True)]

    return vlm.run(
        pool.samples(rows),
        encode=partial(vlm.renderer.context, flat=flat),
        make_batches=partial(batches_by_count, batch_size=batch_size),
        score=score,
        done=done,
        advance=advance,
    )
