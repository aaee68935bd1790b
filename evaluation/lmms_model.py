"""The lmms-eval side of `evaluation.model`: a chat model that answers through an Answerer and journals every batch.

python -m lmms_eval --model winnow --model_args pretrained=runs/base --tasks ... --batch_size 16
"""

from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lmms_eval.api.instance import Instance
from lmms_eval.api.model import lmms

from evaluation.journal import Journal, answer_key
from evaluation.model import Answerer
from training.models import checkpoint_hash

Progress = Callable[[int, int], None]


class WinnowModel(lmms):
    """`pretrained`: checkpoint directory. `journal`: JSONL of answers, read first and appended after every batch."""

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
        self.checkpoint = checkpoint_hash(Path(pretrained))
        self.answerer = Answerer.load(
            pretrained, batch_size=int(batch_size), device=device or default_device(), dtype=dtype
        )
        self.journal = Journal(Path(journal) if journal else None)
        self.on_progress = on_progress or (lambda done, total: None)

    @property
    def device(self) -> torch.device:
        return self.answerer.device

    @property
    def batch_size(self) -> int:
        return self.answerer.batch_size

    def generate_until(self, requests: list[Instance]) -> list[str]:
        """Answers in the order of the requests. A batch may mix tasks, never generation settings."""
        answers: dict[int, str] = {}
        for indices in self._groups(requests):
            # The text is a good stand-in for the length, and it needs no image to be decoded before its batch comes up.
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
        """The journal's answers where it has them, new ones for the rest."""
        generation = requests[indices[0]].args[2]
        names = {i: (requests[i].args[4], requests[i].args[3]) for i in indices}
        prompts = {i: self._prompt(requests[i]) for i in indices}
        keys = {i: answer_key(*names[i], prompts[i].hash, generation, self.checkpoint) for i in indices}
        answers = {i: known for i in indices if (known := self.journal.get(keys[i])) is not None}
        todo = [i for i in indices if i not in answers]
        if not todo:
            return answers
        for i, text in zip(todo, self.answerer.generate([prompts[i] for i in todo], generation)):
            answers[i] = text
            self.journal.add(keys[i], text, task=names[i][0], doc_id=names[i][1])
        self.journal.flush()
        return answers

    def _prompt(self, request: Instance) -> Any:
        _, doc_to_messages, _, doc_id, task, split = request.args
        return self.answerer.prompt(doc_to_messages(self.task_dict[task][split][doc_id]))

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        raise NotImplementedError("this model generates; tasks that compare likelihoods are not supported")

    def generate_until_multi_round(self, requests: list[Instance]) -> list[str]:
        raise NotImplementedError("this model answers single-round tasks only")


def default_device() -> str:
    """The first GPU if there is one, else the CPU."""
    return "cuda" if torch.cuda.is_available() else "cpu"
