"""A chat model for lmms-eval that answers through an Answerer.

python -m lmms_eval --model winnow --model_args pretrained=runs/base --tasks ... --batch_size 16
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lmms_eval.api.instance import Instance
from lmms_eval.api.model import lmms

from curation.progress import Progress
from evaluation.answer import answers
from evaluation.model import Answerer, Messages
from training.models import checkpoint_hash


@dataclass(frozen=True)
class _Question:
    """A request of lmms-eval as `evaluation.answer` wants a question; `at` is its place in the requests."""

    at: int
    task: str
    index: int
    generation: Mapping[str, Any]
    messages: Callable[[], Messages]


class WinnowModel(lmms):
    """A checkpoint as an lmms-eval model; the arguments are those of `Answerer.load`.

    `loaders`: threads that decode images ahead of the model. `on_progress(done, total)` counts requests.
    """

    is_simple = False

    def __init__(
        self,
        pretrained: str | Path,
        batch_size: int | str = 64,
        device: str | None = None,
        dtype: str = "auto",
        template: str = "auto",
        max_batch_tokens: int | None = None,
        loaders: int = 0,
        on_progress: Progress | None = None,
        max_batch_size: int | None = None,
    ) -> None:
        super().__init__()
        self.checkpoint = checkpoint_hash(pretrained)
        self.answerer = Answerer.load(
            pretrained,
            batch_size=int(batch_size),
            max_batch_tokens=None if max_batch_tokens is None else int(max_batch_tokens),
            device=device,
            dtype=dtype,
            template=template,
        )
        self.loaders = int(loaders)
        self.on_progress = on_progress or (lambda done, total: None)

    @property
    def device(self) -> torch.device:
        """The device of the model."""
        return self.answerer.device

    @property
    def batch_size(self) -> int:
        """Most requests of a batch."""
        return self.answerer.batch_size

    def generate_until(self, requests: list[Instance]) -> list[str]:
        """Answers in the order of the requests. A batch may mix tasks, but not generation settings."""
        texts: dict[int, str] = {}
        questions = [self._question(at, request) for at, request in enumerate(requests)]
        for batch in answers(self.answerer, questions, loaders=self.loaders):
            texts |= {question.at: answer.text for question, _, answer in batch}
            self.on_progress(len(texts), len(requests))
        return [texts[at] for at in range(len(requests))]

    def _question(self, at: int, request: Instance) -> _Question:
        _, doc_to_messages, generation, doc_id, task, split = request.args

        def messages() -> Messages:
            return doc_to_messages(self.task_dict[task][split][doc_id])

        return _Question(at, task, doc_id, generation, messages)

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        """Not supported."""
        raise NotImplementedError(
            "this model generates answers; tasks that compare likelihoods are not supported"
        )

    def generate_until_multi_round(self, requests: list[Instance]) -> list[str]:
        """Not supported."""
        raise NotImplementedError("this model supports single-round tasks only")
