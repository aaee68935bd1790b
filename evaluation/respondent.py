"""A checkpoint as what answers an evaluation's questions, by the engine that the settings name."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

from evaluation.answering import Batch, Settings
from evaluation.questions import Question


@dataclass
class Checkpoint:
    """A checkpoint on this process's device; loaded when the first question is asked."""

    path: str | Path
    settings: Settings = field(default_factory=Settings)
    _engine: Any = None

    @cached_property  # it reads all weights
    def identity(self) -> dict[str, Any]:
        """Raises CheckpointError for what is no image-text-to-text checkpoint."""
        from curation.closure import code_hash
        from evaluation.model import check_checkpoint
        from training.hub import local_copy
        from training.models import checkpoint_hash

        check_checkpoint(local_copy(self.path))
        s = self.settings
        code = code_hash(
            "evaluation.answer" if s.engine == "hf" else "evaluation.engines",
            "evaluation.questions",
            "evaluation.shuffled",
        )
        return {
            "checkpoint": checkpoint_hash(self.path),
            **(served(s.engine, self.path) if "://" in s.engine else self._own()),
            "code": code[:16],
            "versions": {name: version(name) for name in ("lmms-eval", "transformers")},
        }

    def _own(self) -> dict[str, Any]:
        """How a model in this process answers."""
        from evaluation.model import resolved_dtype, resolved_template

        s = self.settings
        dtype = resolved_dtype(s.dtype, s.device)
        # In float32 an answer does not depend on its batch; in the shorter types one in some dozen does.
        batch = {} if dtype == "float32" else {"batch": [s.batch_size, s.max_batch_tokens]}
        engine = f"vllm {version('vllm')}" if s.engine == "vllm" else s.engine
        return {
            "dtype": dtype,
            **batch,
            "template": resolved_template(self.path, s.template),
            "engine": engine,
        }

    def answers(self, questions: Sequence[Question]) -> Iterator[Batch]:
        from evaluation.answer import answers

        if self._engine is None:
            self._engine = open_engine(self.path, self.settings)
        yield from answers(self._engine, questions, loaders=self.settings.loaders)


def served(engine: str, path: str | Path) -> dict[str, str]:
    """How a server's model answers, by its name; its address is not part of a result.

    The server renders the prompts and chose the type of the weights: neither is known here, nor whether it
    serves this very checkpoint. Raises CheckpointError if it has several models and none is named.
    """
    from evaluation.engines import only_model

    base_url, _, name = engine.partition("#")
    model = name or only_model(base_url, path)
    return {"dtype": "server's", "template": "server's", "engine": f"server of {model}"}


def open_engine(path: str | Path, settings: Settings) -> Any:
    """The engine that answers with a checkpoint: Hugging Face, vLLM in this process, or a server."""
    if settings.engine == "hf":
        from evaluation.model import Answerer

        return Answerer.load(
            path,
            batch_size=settings.batch_size,
            max_batch_tokens=settings.max_batch_tokens,
            device=settings.device,
            dtype=settings.dtype,
            template=settings.template,
        )
    from evaluation.engines import open_server, open_vllm

    return open_vllm(path, settings) if settings.engine == "vllm" else open_server(path, settings)
