"""Scoring by vLLM in this process, with its prefix cache.

Samples are processed in blocks. The first query of all samples of a block is computed before their other
queries are submitted: requests of one sample that miss the cache at the same time would each compute the
prefix. Scores are read from the tokens listed for one sampled token; prompt log-probabilities would bypass
the prefix cache (vLLM PR 23399).
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from PIL import Image

from curation.pool.sample import Sample
from curation.signals.raters.capability import digit_questions
from curation.signals.raters.engine import DigitLogProbs, Failed, Listed, read_digits
from curation.signals.raters.queries import Queries
from curation.teacher.chat import TOP_LOGPROBS
from training.aspects import mode_of_view
from training.images import ImageError
from training.in_vllm import import_vllm, request_of, start
from training.models import checkpoint_hash, load_processor
from training.render import Renderer, RenderError


class VllmEngine:
    """A checkpoint in vLLM.

    block: number of samples whose prefixes must fit into the cache together. max_images: most images of one
    sample.
    allow_anyres: tile images as the processor does (anyres) although the image mode of the checkpoint's
        config is "base"; without it such a checkpoint gets one tile of each image, as in training.
    view: what decides it instead, "single" or "anyres".
    llm: further arguments of vllm.LLM (tensor_parallel_size, max_model_len, ...).
    Raises ImportError with an install hint, PromptError.
    """

    def __init__(
        self,
        model_dir: str | Path,
        queries: Queries,
        *,
        block: int = 64,
        max_images: int = 1,
        dtype: str = "auto",
        allow_anyres: bool = False,
        view: str | None = None,
        llm: dict[str, Any] | None = None,
    ) -> None:
        vllm = import_vllm()
        processor, own_mode = load_processor(model_dir)
        self.image_mode = mode_of_view(view or ("anyres" if allow_anyres else None), own_mode)
        self.model_dir, self.block, self.dtype, self.version = Path(model_dir), block, dtype, vllm.__version__
        self.renderer = Renderer(processor, self.image_mode)
        self.flat, question = queries.flat, digit_questions(self.renderer, queries)[0]
        # Tokens that the tokenizer writes before each digit (LLaMA's: a space) are appended to the prompt.
        self.before_digit = list(question.answers[0][:-1])
        self.digit_of = {answer[-1]: digit for digit, answer in enumerate(question.answers)}
        self._sampling_params = vllm.SamplingParams
        self._tokens, self._cached = 0, 0
        self.llm = start(
            model_dir,
            dtype=dtype,
            max_images=max_images,
            image_mode=self.image_mode if view or allow_anyres else None,
            max_logprobs=TOP_LOGPROBS,
            **(llm or {}),
        )

    def digits(
        self, samples: Iterable[Sample], queries: Sequence[str]
    ) -> Iterator[list[DigitLogProbs | None] | Failed]:
        for block in self._blocks(samples):
            prompts = [self._prompts(sample, queries, self.before_digit) for sample in block]
            usable = [p for p in prompts if not isinstance(p, Failed)]
            first = iter(self._listed([p[0] for p in usable]))
            others = iter(self._listed([prompt for p in usable for prompt in p[1:]]))
            for p in prompts:
                if isinstance(p, Failed):
                    yield p
                else:
                    yield [self._read(next(first)), *(self._read(next(others)) for _ in p[1:])]

    def write(self, samples: Iterable[Sample], query: str, max_tokens: int) -> Iterator[str | Failed]:
        for block in self._blocks(samples):
            prompts = [self._prompts(sample, [query], []) for sample in block]
            params = self._sampling_params(max_tokens=max_tokens, temperature=0.0)
            outputs = iter(self._generate([p[0] for p in prompts if not isinstance(p, Failed)], params))
            yield from (p if isinstance(p, Failed) else next(outputs).text for p in prompts)

    def listed(self, samples: Sequence[Sample], query: str) -> list[Listed | Failed]:
        prompts = [self._prompts(sample, [query], self.before_digit) for sample in samples]
        listed = iter(self._listed([p[0] for p in prompts if not isinstance(p, Failed)]))
        return [p if isinstance(p, Failed) else next(listed) for p in prompts]

    def identity(self) -> dict[str, Any]:
        return {
            "engine": "vllm",
            "model_hash": checkpoint_hash(self.model_dir),
            "image_mode": self.image_mode if self.image_mode == "base" else "engine",
            "dtype": self.dtype,
            "versions": {"vllm": self.version},
        }

    def summary(self) -> dict[str, Any]:
        """Tokens of the prompts, and those of them whose keys and values were in the prefix cache."""
        return {"input_tokens": self._tokens, "cached_tokens": self._cached}

    def _blocks(self, samples: Iterable[Sample]) -> Iterator[list[Sample]]:
        rest = iter(samples)
        while block := list(islice(rest, self.block)):
            yield block

    def _prompts(
        self, sample: Sample, queries: Sequence[str], ending: list[int]
    ) -> list[dict[str, Any]] | Failed:
        """One vLLM prompt for each query about a sample, each with the tokens `ending` after the query."""
        try:
            images = [
                Image.fromarray(self.renderer.loader.read(picture).permute(1, 2, 0).numpy())
                for picture in sample.images
            ]
            context = self.renderer.context(sample, self.flat)
        except (ImageError, RenderError) as error:
            return Failed(error.reason, engine=False)
        endings = [[*self.renderer.query_tokens(query, self.flat), *ending] for query in queries]
        return [request_of(context, self.renderer.image_id, images, tokens) for tokens in endings]

    def _listed(self, prompts: list[dict[str, Any]]) -> list[dict[int, float]]:
        """Token id -> log-probability of the tokens listed after each prompt."""
        params = self._sampling_params(max_tokens=1, temperature=0.0, logprobs=TOP_LOGPROBS)
        return [
            {token: entry.logprob for token, entry in output.logprobs[0].items()}
            for output in self._generate(prompts, params)
        ]

    def _generate(self, prompts: list[dict[str, Any]], params: Any) -> list[Any]:
        if not prompts:
            return []
        results = self.llm.generate(prompts, params, use_tqdm=False)
        self._tokens += sum(len(result.prompt_token_ids) for result in results)
        self._cached += sum(result.num_cached_tokens or 0 for result in results)
        return [result.outputs[0] for result in results]

    def _read(self, listed: dict[int, float]) -> DigitLogProbs | None:
        return read_digits((self.digit_of.get(token), log_prob) for token, log_prob in listed.items())
