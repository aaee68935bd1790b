"""Chat models for lmms-eval: one that answers through an Answerer, and the same with shuffled images.

python -m lmms_eval --model winnow --model_args pretrained=runs/base --tasks ... --batch_size 16
"""

import copy
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lmms_eval.api.instance import Instance
from lmms_eval.api.model import lmms

from evaluation.journal import Journal, answer_key
from evaluation.model import Answerer
from evaluation.shuffled import Messages, images, ring, with_images
from training.models import checkpoint_hash

Progress = Callable[[int, int], None]


class WinnowModel(lmms):
    """A checkpoint as an lmms-eval model.

    `pretrained`: checkpoint directory. `journal`: JSONL of answers, read at the start and appended after
    every batch.
    """

    is_simple = False

    def __init__(
        self,
        pretrained: str | Path,
        batch_size: int | str = 64,
        device: str | None = None,
        dtype: str = "float32",
        journal: str | Path | None = None,
        on_progress: Progress | None = None,
        max_batch_size: int | None = None,
    ) -> None:
        super().__init__()
        self.checkpoint = checkpoint_hash(pretrained)
        self.answerer = Answerer.load(
            pretrained, batch_size=int(batch_size), device=device or default_device(), dtype=dtype
        )
        self.journal = Journal(Path(journal) if journal else None)
        self.on_progress = on_progress or (lambda done, total: None)

    @property
    def device(self) -> torch.device:
        """The device of the model."""
        return self.answerer.device

    @property
    def batch_size(self) -> int:
        """Requests per batch."""
        return self.answerer.batch_size

    def generate_until(self, requests: list[Instance]) -> list[str]:
        """Answers in the order of the requests. A batch may mix tasks, but not generation settings."""
        answers: dict[int, str] = {}
        for indices in self._groups(requests):
            # The text's length approximates the prompt's without decoding any image before its batch.
            for batch in self.answerer.batches([len(requests[i].args[0]) for i in indices]):
                answers |= self._answer_batch(requests, [indices[k] for k in batch])
                self.on_progress(len(answers), len(requests))
        return [answers[i] for i in range(len(requests))]

    def _groups(self, requests: list[Instance]) -> list[list[int]]:
        groups: dict[str, list[int]] = defaultdict(list)
        for i, request in enumerate(requests):
            groups[repr(sorted(request.args[2].items(), key=str))].append(i)
        return list(groups.values())

    def _answer_batch(self, requests: list[Instance], indices: list[int]) -> dict[int, str]:
        """Answers to one batch: from the journal if it has them, else generated."""
        generation = requests[indices[0]].args[2]
        names = {i: (requests[i].args[4], requests[i].args[3]) for i in indices}
        prompts = {i: self._prompt(requests[i]) for i in indices}
        keys = {i: answer_key(*names[i], prompts[i].hash, generation, self.checkpoint) for i in indices}
        answers = {i: known for i in indices if (known := self.journal.get(keys[i])) is not None}
        todo = [i for i in indices if i not in answers]
        if not todo:
            return answers
        texts = self.answerer.generate([prompts[i] for i in todo], generation)
        for i, text in zip(todo, texts, strict=True):
            answers[i] = text
            self.journal.add(keys[i], text, task=names[i][0], doc_id=names[i][1])
        self.journal.flush()
        return answers

    def _prompt(self, request: Instance) -> Any:
        _, doc_to_messages, _, doc_id, task, split = request.args
        return self.answerer.prompt(doc_to_messages(self.task_dict[task][split][doc_id]))

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        """Not supported."""
        raise NotImplementedError(
            "this model generates answers; tasks that compare likelihoods are not supported"
        )

    def generate_until_multi_round(self, requests: list[Instance]) -> list[str]:
        """Not supported."""
        raise NotImplementedError("this model supports single-round tasks only")


class ShuffledImages(lmms):
    """A chat model evaluated with the images of other questions, see `evaluation.shuffled`.

    `shuffled` has the tasks in which some question got images of another one. A question whose prompt is
    unchanged keeps its answer, which the journal has.
    """

    is_simple = False

    def __init__(self, model: lmms) -> None:
        super().__init__()
        self.model = model
        self.shuffled: set[str] = set()
        self._rings: dict[tuple[str, int], list[int]] = {}

    def generate_until(self, requests: list[Instance]) -> list[str]:
        """Answers in the order of the requests."""
        self.model.task_dict = self.task_dict
        return self.model.generate_until([self._changed(request) for request in requests])

    def _changed(self, request: Instance) -> Instance:
        """The request with a `doc_to_messages` that inserts other images; decodes nothing itself."""
        context, doc_to_messages, generation, doc_id, task, split = request.args

        def changed(doc: dict[str, Any]) -> Messages:
            messages = doc_to_messages(doc)
            pictures = self._pictures(doc_to_messages, doc_id, task, split) if images(messages) else []
            if not pictures:
                return messages
            self.shuffled.add(task)
            return with_images(messages, pictures)

        request = copy.copy(request)
        request.arguments = (context, changed, generation, doc_id, task, split)
        return request

    def _pictures(self, doc_to_messages: Callable, doc_id: int, task: str, split: str) -> list[Any]:
        """Images of the next question on the ring that has any; [] if no other question has."""
        docs = self.task_dict[task][split]
        key = task, len(docs)
        if key not in self._rings:
            self._rings[key] = ring(*key)
        following = self._rings[key]
        other = following[doc_id]
        while other != doc_id:
            if pictures := images(doc_to_messages(docs[other])):
                return pictures
            other = following[other]
        return []

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        """Not supported."""
        raise NotImplementedError("only generated answers can be evaluated with shuffled images")

    def generate_until_multi_round(self, requests: list[Instance]) -> list[str]:
        """Not supported."""
        raise NotImplementedError("only single-round tasks can be evaluated with shuffled images")


def default_device() -> str:
    """The first GPU if there is one, else the CPU."""
    return "cuda" if torch.cuda.is_available() else "cpu"
