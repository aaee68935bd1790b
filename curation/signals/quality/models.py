"""Graders that are models on this machine: a reward model, and Deita's scorers of complexity and quality.

Both read text only: image placeholders are taken out. A reward model's pair that is longer than its context is cut, as its
library does, and counted; a scorer's prompt ends with the question for a grade, so a turn that is too long for it has none.
"""

import hashlib
import time
from collections import Counter
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from curation.pool.sample import IMAGE_PLACEHOLDER
from curation.signals.core.batches import batches_by_tokens, padded_tokens
from curation.signals.core.vlm import ModelError
from training.hub import local_copy
from training.models import checkpoint_hash, quiet

if TYPE_CHECKING:
    from curation.pool.sample import Sample

PROMPTS = {
    "complexity": "You are a helpful assistant. Please identify the complexity score of the following user query. \n"
    "##Query: {question}  \n##Complexity: ",
    "quality": "You are a helpful assistant. Please identify the quality score of the Response corresponding to the Question. \n"
    " #Question#:\n{question}\n#Response#:\n{answer} \n##Quality: ",
}
"""For the released scorers (hkust-nlp/deita-complexity-scorer, deita-quality-scorer); not compared with their model cards, which
were out of reach."""
GRADES = np.arange(1, 7)


class TurnModel:
    """A text model that gives a number to each turn of a conversation."""

    def __init__(self, model: Any, path: Path, max_tokens: int, dtype: str, device: str | None) -> None:
        from transformers import AutoTokenizer

        self.path, self.dtype, self.max_tokens = local_copy(path), dtype, max_tokens
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        with quiet():
            self.model = (
                model.from_pretrained(str(self.path), dtype=getattr(torch, dtype)).eval().to(self.device)
            )
            self.tokenizer = AutoTokenizer.from_pretrained(str(self.path))
        self.context = min(
            self.tokenizer.model_max_length, getattr(self.model.config, "max_position_embeddings", 1 << 30)
        )
        self.pad_id = (
            self.tokenizer.pad_token_id
            if self.tokenizer.pad_token_id is not None
            else self.tokenizer.eos_token_id
        )
        self.missing, self.cut, self.tokens, self.padded, self.seconds = Counter(), 0, 0, 0, 0.0

    def identity(self) -> dict[str, Any]:
        versions = {name: version(name) for name in ("torch", "transformers")}
        return {
            "model_hash": checkpoint_hash(self.path),
            "dtype": self.dtype,
            "device": self.device.type,
            "versions": versions,
        }

    def summary(self) -> dict[str, Any]:
        return {
            "missing": dict(self.missing),
            "cut": self.cut,
            "seconds": round(self.seconds, 3),
            "padding_efficiency": round(self.tokens / self.padded, 4) if self.padded else None,
        }

    def grade(self, samples: Sequence["Sample"], advance: Callable[[float], None]) -> list[float | None]:
        start = time.perf_counter()
        owners = [number for number, sample in enumerate(samples) for _ in sample.turns]
        asked = [
            turn.question.replace(IMAGE_PLACEHOLDER, " ").strip()
            for sample in samples
            for turn in sample.turns
        ]
        said = [turn.answer.strip() for sample in samples for turn in sample.turns]
        values = self._values(asked, said, lambda turns: advance(turns * len(samples) / len(owners)))
        turns: list[list[float | None]] = [[] for _ in samples]
        for owner, value in zip(owners, values, strict=True):
            turns[owner].append(value)
        self.seconds += time.perf_counter() - start
        return [self._joined(each) for each in turns]

    def _joined(self, turns: list[float | None]) -> float | None:
        if any(value is None for value in turns):
            self.missing["too_long"] += 1
            return None
        value = self._join(turns)
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
        """A number for each turn, None where it is too long; batches of similar length."""
        encoded = [
            self._encode(question, answer) for question, answer in zip(questions, answers, strict=True)
        ]
        usable = np.array([i for i, each in enumerate(encoded) if each is not None], dtype=np.int64)
        lengths = np.array([len(encoded[i]["input_ids"]) for i in usable], dtype=np.int64)
        batches, values = batches_by_tokens(lengths, self.max_tokens), [None] * len(encoded)
        advance(len(encoded) - len(usable))
        for batch in batches:
            at = usable[batch]
            for i, value in zip(at, self._score(self._pad([encoded[i] for i in at])).tolist(), strict=True):
                values[i] = value
            advance(len(at))
        self.tokens += int(lengths.sum())
        self.padded += padded_tokens(lengths, batches)
        return values

    def _pad(self, examples: Sequence[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
        """Right-padded model inputs; every field of the tokenizer's is kept (a classifier may want token types)."""
        width = max(len(example["input_ids"]) for example in examples)
        fill = {"input_ids": self.pad_id}
        fields = {
            name: [e[name] + [fill.get(name, 0)] * (width - len(e[name])) for e in examples]
            for name in examples[0]
        }
        return {name: torch.tensor(rows, device=self.device) for name, rows in fields.items()}


class RewardModel(TurnModel):
    """The logit of a sequence classifier for the pair (question, answer), mean over turns."""

    def __init__(
        self, path: Path, max_tokens: int, dtype: str = "float32", device: str | None = None
    ) -> None:
        from transformers import AutoModelForSequenceClassification

        super().__init__(AutoModelForSequenceClassification, path, max_tokens, dtype, device)
        if self.model.config.num_labels != 1:
            raise ModelError(f"{path} has {self.model.config.num_labels} labels: a reward model has one")
        self.model.config.pad_token_id = self.pad_id  # decoders look for the last token that is no padding

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
    """The expected grade 1..6 that a causal model gives as its next token, sum over turns."""

    def __init__(
        self, column: str, path: Path, max_tokens: int, dtype: str = "float32", device: str | None = None
    ) -> None:
        from transformers import AutoModelForCausalLM

        super().__init__(AutoModelForCausalLM, path, max_tokens, dtype, device)
        self.prompt = PROMPTS[column]
        vocabulary = self.tokenizer.get_vocab()
        if absent := [str(grade) for grade in GRADES if str(grade) not in vocabulary]:
            raise ModelError(
                f"{path} has no single token for the grade {absent[0]}: it cannot be read as a scorer"
            )
        self.digits = torch.tensor([vocabulary[str(grade)] for grade in GRADES], device=self.device)

    def identity(self) -> dict[str, Any]:
        return {**super().identity(), "prompt_hash": hashlib.sha256(self.prompt.encode()).hexdigest()[:16]}

    def _encode(self, question: str, answer: str) -> dict[str, list[int]] | None:
        ids = self.tokenizer(self.prompt.format(question=question, answer=answer), verbose=False)["input_ids"]
        return {"input_ids": ids, "attention_mask": [1] * len(ids)} if len(ids) <= self.context else None

    def _score(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        last = batch["attention_mask"].sum(dim=1) - 1
        hidden = self.model.get_decoder()(**batch, use_cache=False).last_hidden_state[
            torch.arange(len(last)), last
        ]
        logits = self.model.get_output_embeddings()(hidden)[:, self.digits].float()
        return logits.softmax(dim=1) @ torch.arange(1.0, 7.0, device=self.device)

    def _join(self, turns: list[float]) -> float:
        return float(np.sum(turns))
