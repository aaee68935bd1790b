"""Local models as graders: a reward model, and Deita's scorers of complexity and quality.

Both read text only, without image placeholders. A pair that is longer than a reward model's context is
truncated, as its library does, and counted. A scorer's prompt ends with the request for a grade and cannot be
truncated, so a turn that is too long for it has no grade.
"""

import hashlib
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from curation.pool.sample import IMAGE_PLACEHOLDER
from curation.signals.core.batches import batches_by_tokens, padded_tokens
from curation.signals.core.vlm import ModelError, checkpoint_identity, default_device
from training.hub import local_copy
from training.models import dtype_of, quiet

if TYPE_CHECKING:
    from curation.pool.sample import Sample

PROMPTS = {
    "complexity": "You are a helpful assistant. "
    "Please identify the complexity score of the following user query. \n"
    "##Query: {question}  \n##Complexity: ",
    "quality": "You are a helpful assistant. "
    "Please identify the quality score of the Response corresponding to the Question. \n"
    " #Question#:\n{question}\n#Response#:\n{answer} \n##Quality: ",
}
"""For the released scorers (hkust-nlp/deita-complexity-scorer, deita-quality-scorer).

Not verified against their model cards.
"""
GRADES = (1, 2, 3, 4, 5, 6)
"""Grades of Deita's scorers (arXiv 2312.15685)."""


class TurnModel:
    """A text model that assigns a number to each turn of a conversation.

    Subclasses define `_encode` (None for a turn that is too long), `_score` and `_join` (turns to sample).
    """

    def __init__(self, model: Any, path: Path, max_tokens: int, dtype: str, device: str | None) -> None:
        from transformers import AutoTokenizer

        self.path, self.dtype, self.max_tokens = local_copy(path), dtype, max_tokens
        self.device = default_device(device)
        with quiet():
            self.model = model.from_pretrained(str(self.path), dtype=dtype_of(dtype)).eval().to(self.device)
            self.tokenizer = AutoTokenizer.from_pretrained(str(self.path))
        # Either may be missing: tokenizers then report a huge model_max_length.
        self.context = min(
            self.tokenizer.model_max_length, getattr(self.model.config, "max_position_embeddings", 1 << 30)
        )
        self.pad_id = (
            self.tokenizer.pad_token_id
            if self.tokenizer.pad_token_id is not None
            else self.tokenizer.eos_token_id
        )
        self.missing: Counter[str] = Counter()
        self.cut, self.tokens, self.padded, self.seconds = 0, 0, 0, 0.0

    def identity(self) -> dict[str, Any]:
        return checkpoint_identity(self.path, self.dtype, self.device)

    def summary(self) -> dict[str, Any]:
        return {
            "missing": dict(self.missing),
            "cut": self.cut,
            "seconds": round(self.seconds, 3),
            "padding_efficiency": round(self.tokens / self.padded, 4) if self.padded else None,
        }

    def grade(self, samples: Sequence["Sample"], advance: Callable[[float], None]) -> list[float | None]:
        return self.join(self.grade_turns(samples, advance))

    def grade_turns(
        self, samples: Sequence["Sample"], advance: Callable[[float], None]
    ) -> list[list[float | None]]:
        """The grades of each sample's turns, None for a turn that is too long."""
        start = time.perf_counter()
        owners = [index for index, sample in enumerate(samples) for _ in sample.turns]
        turns = [turn for sample in samples for turn in sample.turns]
        questions = [turn.question.replace(IMAGE_PLACEHOLDER, " ").strip() for turn in turns]
        answers = [turn.answer.strip() for turn in turns]
        values = self._values(questions, answers, lambda done: advance(done * len(samples) / len(turns)))
        by_sample: list[list[float | None]] = [[] for _ in samples]
        for owner, value in zip(owners, values, strict=True):
            by_sample[owner].append(value)
        self.seconds += time.perf_counter() - start
        return by_sample

    def join(self, by_sample: Sequence[Sequence[float | None]]) -> list[float | None]:
        """The grade of each sample from those of its turns; None, counted, where one of them is missing."""
        return [self._joined(grades) for grades in by_sample]

    def _joined(self, turns: Sequence[float | None]) -> float | None:
        known = [value for value in turns if value is not None]
        if len(known) < len(turns):
            self.missing["too_long"] += 1
            return None
        value = self._join(known)
        if not np.isfinite(value):
            self.missing["not_finite"] += 1
            return None
        return float(value)

    def _join(self, turns: list[float]) -> float:
        raise NotImplementedError

    def _encode(self, question: str, answer: str) -> dict[str, list[int]] | None:
        raise NotImplementedError

    def _score(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        raise NotImplementedError

    @torch.inference_mode()
    def _values(
        self, questions: Sequence[str], answers: Sequence[str], advance: Callable[[int], None]
    ) -> list[float | None]:
        """A number for each turn, None where it is too long; computed in batches of similar length."""
        encoded = [
            self._encode(question, answer) for question, answer in zip(questions, answers, strict=True)
        ]
        usable = [(i, example) for i, example in enumerate(encoded) if example is not None]
        lengths = np.array([len(example["input_ids"]) for _, example in usable], dtype=np.int64)
        batches = batches_by_tokens(lengths, self.max_tokens)
        values: list[float | None] = [None] * len(encoded)
        advance(len(encoded) - len(usable))
        for batch in batches:
            chunk = [usable[k] for k in batch]
            scores = self._score(self._pad([example for _, example in chunk])).tolist()
            for (i, _), value in zip(chunk, scores, strict=True):
                values[i] = value
            advance(len(batch))
        self.tokens += int(lengths.sum())
        self.padded += padded_tokens(lengths, batches)
        return values

    def _pad(self, examples: Sequence[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
        """Right-padded model inputs with every field of the tokenizer (a classifier may need token types)."""
        width = max(len(example["input_ids"]) for example in examples)
        fill = {"input_ids": self.pad_id}
        fields = {
            name: [e[name] + [fill.get(name, 0)] * (width - len(e[name])) for e in examples]
            for name in examples[0]
        }
        return {name: torch.tensor(rows, device=self.device) for name, rows in fields.items()}


class RewardModel(TurnModel):
    """The logit of a sequence classifier for the pair (question, answer); mean over the turns."""

    def __init__(
        self, path: Path, max_tokens: int, dtype: str = "float32", device: str | None = None
    ) -> None:
        from transformers import AutoModelForSequenceClassification

        super().__init__(AutoModelForSequenceClassification, path, max_tokens, dtype, device)
        if self.model.config.num_labels != 1:
            raise ModelError(
                f"{path} is not a reward model: it has {self.model.config.num_labels} labels instead of one"
            )
        # Decoder classifiers read the logit at the last token that is not padding.
        self.model.config.pad_token_id = self.pad_id

    def _encode(self, question: str, answer: str) -> dict[str, list[int]]:
        whole = self.tokenizer(question, answer, verbose=False)
        if len(whole["input_ids"]) <= self.context:
            return dict(whole)
        self.cut += 1
        return dict(self.tokenizer(question, answer, truncation=True, max_length=self.context))

    def _score(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        return self.model(**batch).logits[:, 0].float()

    def _join(self, turns: list[float]) -> float:
        return float(np.mean(turns))


class ScaleModel(TurnModel):
    """The expected grade 1..6 under a causal model's next-token probabilities; sum over the turns."""

    def __init__(
        self, column: str, path: Path, max_tokens: int, dtype: str = "float32", device: str | None = None
    ) -> None:
        from transformers import AutoModelForCausalLM

        super().__init__(AutoModelForCausalLM, path, max_tokens, dtype, device)
        self.prompt = PROMPTS[column]
        vocabulary = self.tokenizer.get_vocab()
        if absent := [str(grade) for grade in GRADES if str(grade) not in vocabulary]:
            raise ModelError(
                f"{path} is not a scorer: its tokenizer has no single token for the grade {absent[0]}"
            )
        self.digits = torch.tensor([vocabulary[str(grade)] for grade in GRADES], device=self.device)

    def identity(self) -> dict[str, Any]:
        return {**super().identity(), "prompt_hash": hashlib.sha256(self.prompt.encode()).hexdigest()[:16]}

    def _encode(self, question: str, answer: str) -> dict[str, list[int]] | None:
        ids = self.tokenizer(self.prompt.format(question=question, answer=answer), verbose=False)["input_ids"]
        return {"input_ids": ids, "attention_mask": [1] * len(ids)} if len(ids) <= self.context else None

    def _score(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        last = batch["attention_mask"].sum(dim=1) - 1
        states = self.model.get_decoder()(**batch, use_cache=False).last_hidden_state
        hidden = states[torch.arange(len(last)), last]
        # Only the last position of each sample goes through the vocabulary head.
        logits = self.model.get_output_embeddings()(hidden)[:, self.digits].float()
        return logits.softmax(dim=1) @ torch.tensor(GRADES, dtype=torch.float32, device=self.device)

    def _join(self, turns: list[float]) -> float:
        return float(np.sum(turns))
