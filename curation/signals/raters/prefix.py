"""Questions about samples, answered after each sample's prefix has been computed once.

System prompt, images and conversation go through the model once, right-padded, with the plain causal kernel.
The trie of all questions then goes through it in one masked forward pass on the cached keys and values. A
question attends to its sample's prefix and to its own path only, at the positions that directly follow the
prefix, so its log-probs are those of a forward pass of its own.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from curation.signals.core.batches import batches_by_count
from curation.signals.core.table import Advance
from curation.signals.raters.trie import Question, QuestionTrie, build_questions
from training.one_turn import OneTurn

if TYPE_CHECKING:
    from curation.pool.read import Pool
    from curation.signals.core.vlm import PassStats, Vlm
    from training.render import Encoded

HEAD_STATES = 1024
"""Hidden states that go through the vocabulary head at once: 0.6 GB of logits for a 152k vocabulary."""


@dataclass
class Prefix:
    """Computed prefixes of a batch.

    cache: keys and values. seen: bool [B, P], the cache columns that hold a token of the sample, not padding.
    following: int64 [B], the position that follows each prefix.
    """

    cache: Any
    seen: torch.Tensor
    following: torch.Tensor


@dataclass
class BatchAnswers:
    """Answers of a batch of samples.

    log_probs: for each question float64 [B, answers], of its candidate answers. texts: the greedy
    continuations of the continued question, one for each sample; None without such a question. finite: bool
    [B], False where the model overflowed, so that the sample's answers are invalid.
    """

    log_probs: list[np.ndarray]
    texts: list[str] | None
    finite: np.ndarray


class SampleAnswers(NamedTuple):
    """Answers of one sample: for each question log_probs float64 [answers]; the text of the continued one."""

    log_probs: list[np.ndarray]
    text: str | None


def attention_implementation(config: Any) -> str | None:
    """The attention kernel of a model configuration ("sdpa", "eager", "flash_attention_2", ...).

    transformers has no public getter: `attn_implementation` is accepted by constructors and
    `set_attn_implementation`, but can be read back only from this underscored property. A test holds that it
    works in the installed version.
    """
    return config._attn_implementation


def check_model(vlm: "Vlm") -> None:
    """Raises ValueError if the model's attention takes no custom mask, or does not keep the whole prefix."""
    decoder = vlm.model.model.language_model.config
    attention = attention_implementation(decoder)
    if attention not in ("sdpa", "eager"):
        raise ValueError(
            f"{vlm.path}: attention {attention!r} takes no custom mask; load the model with sdpa"
        )
    layers = getattr(decoder, "layer_types", None)
    if "sliding_attention" in (layers or ()) or (layers is None and getattr(decoder, "sliding_window", None)):
        raise ValueError(
            f"{vlm.path}: sliding-window attention does not keep the whole prefix; "
            "score it with mode: official"
        )


def prefill(vlm: "Vlm", examples: Sequence["Encoded"]) -> Prefix:
    """Run the prefixes of some samples (examples without branches) through the whole model."""
    from transformers import DynamicCache

    batch = vlm.batch(examples)
    del batch["labels"]
    seen = batch.pop("attention_mask").bool()
    following = seen.sum(dim=1)
    if "mm_token_type_ids" in batch:  # Qwen2.5-VL: positions of image tokens are three-dimensional
        batch["position_ids"], deltas = vlm.model.model.get_rope_index(
            batch["input_ids"], batch["mm_token_type_ids"], batch.get("image_grid_thw"), attention_mask=seen
        )
        following = following + deltas[:, 0]
    cache = DynamicCache()
    # No mask: padding is on the right, after all real tokens, and without a mask the causal kernel is used.
    vlm.model.model(**batch, past_key_values=cache, use_cache=True)
    return Prefix(cache, seen, following)


class Questions:
    """Questions for one checkpoint, answered for batches of samples.

    continued: index of the question that is also continued greedily to a text of at most `max_new_tokens`
    tokens.
    Raises ValueError for a model that cannot share a prefix.
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
        # Candidate answers share nodes: each distinct node goes through the vocabulary head once.
        self._states, self._state_of = np.unique(self.plan.node, return_inverse=True)

    def __call__(self, examples: Sequence["Encoded"]) -> BatchAnswers:
        """The answers of some samples; must be called in inference mode."""
        prefix = prefill(self.vlm, examples)
        hidden = self._read_trie(prefix)
        token_log_probs = self._token_log_probs(hidden)
        finite = hidden.isfinite().all(dim=2).all(dim=1).cpu().numpy() & ~np.isnan(token_log_probs).any(
            axis=1
        )
        texts = None if self.continued is None else self._texts(prefix, hidden, self.continued)
        return BatchAnswers(self.plan.log_probs(token_log_probs), texts, finite)

    def _read_trie(self, prefix: Prefix) -> torch.Tensor:
        """Hidden states [B, N, H] of the trie's nodes; their keys and values are appended to the cache."""
        size, nodes = len(prefix.seen), len(self._tokens)
        before = prefix.seen[:, None].expand(-1, nodes, -1)
        visible = torch.cat([before, self._ancestors.expand(size, -1, -1)], dim=-1)
        positions = prefix.following[:, None] + self._depth
        return self._decode(prefix, self._tokens.expand(size, -1), visible, positions)

    def _decode(
        self, prefix: Prefix, tokens: torch.Tensor, visible: torch.Tensor, positions: torch.Tensor
    ) -> torch.Tensor:
        """Hidden states [B, T, H] of tokens [B, T]; `visible` bool [B, T, cached + T] allows attention."""
        # The lowest finite number, as in transformers' own masks: -inf makes a fully masked row NaN.
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

    def _texts(self, prefix: Prefix, hidden: torch.Tensor, continued: int) -> list[str]:
        """Greedy continuation of question `continued`, whose tokens are in the cache already."""
        start = int(self.plan.starts[continued])
        end, size = self.vlm.renderer.end_id, len(prefix.seen)
        visible = torch.cat([prefix.seen, self._ancestors[start].expand(size, -1)], dim=1)
        token = self.vlm.head(hidden[:, start]).argmax(dim=-1)
        tokens, unfinished = [token], token != end
        while len(tokens) < self.max_new_tokens and unfinished.any():
            visible = torch.cat([visible, visible.new_ones(size, 1)], dim=1)
            position = prefix.following + self._depth[start] + len(tokens)
            state = self._decode(prefix, token[:, None], visible[:, None], position[:, None])
            token = self.vlm.head(state[:, 0]).argmax(dim=-1).masked_fill(~unfinished, end)
            tokens.append(token)
            unfinished = unfinished & (token != end)
        return [self._text(row) for row in torch.stack(tokens, dim=1).tolist()]

    def _text(self, tokens: list[int]) -> str:
        end = self.vlm.renderer.end_id
        kept = tokens[: tokens.index(end)] if end in tokens else tokens
        return self.vlm.tokenizer.decode(kept, skip_special_tokens=True)


def answer_rows(
    pool: "Pool",
    rows: Sequence[int],
    questions: Questions,
    flat: OneTurn | bool,
    batch_size: int,
    stats: "PassStats",
    advance: Advance,
) -> list[SampleAnswers | None]:
    """The answers of some rows of a pool, in the order of `rows`. flat: see `Queries`.

    None for a row without valid answers, counted in `stats.missing`: by its reason where it cannot be
    rendered or its image not be decoded, as `not_finite` where the model overflowed.
    """
    vlm = questions.vlm

    def score(examples: Sequence["Encoded"]) -> list[SampleAnswers | None]:
        batch = questions(examples)
        # `Vlm.run` itself counts samples with a broken image, whatever the blank one in its place gives.
        stats.missing += Counter(
            not_finite=sum(
                not ok and example.name not in vlm.collator.broken
                for example, ok in zip(examples, batch.finite, strict=True)
            )
        )
        texts: Sequence[str | None] = batch.texts or [None] * len(examples)
        answers = [
            SampleAnswers([log_probs[i] for log_probs in batch.log_probs], text)
            for i, text in enumerate(texts)
        ]
        return [answer if ok else None for answer, ok in zip(answers, batch.finite, strict=True)]

    return vlm.run(
        pool.samples(rows),
        encode=partial(vlm.renderer.context, flat=flat),
        make_batches=partial(batches_by_count, batch_size=batch_size),
        score=score,
        stats=stats,
        advance=advance,
    )
