"""FLOPs of each producer of a signal: how often which model passes over which part of the samples."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recipes.stage_models import StageModels, Uncounted
from recipes.steps import Step

if TYPE_CHECKING:
    from curation.signals.raters.queries import Queries
    from curation.signals.raters.trie import Question
    from training.estimate.lengths import Lengths

WORDS = 4 / 3
"""Tokens of a word of English, where no tokenizer is asked."""
CHARACTERS = 6
"""Characters of a token, likewise."""
TURN = 4
"""Tokens that a chat template puts around a query, likewise; half of them before it."""
SENTENCE = 20
"""Assumed tokens of a first instruction."""


def losses(rule: StageModels, step: Step) -> float:
    """A forward pass for each term that differs: image and question, one of them, none."""
    from training.estimate.passes import forward, without_images, without_questions

    shape, lengths = rule.shape(step), rule.lengths(step)
    terms, seen = set(step.arguments["terms"]), lengths.images > 0
    images = _rows(lengths, seen)
    bare = without_questions(lengths)
    parts = {
        "full": [lengths],
        # Of a text-only sample the loss without an image is the full one, computed once if both are asked.
        "noimg": [without_images(images if "full" in terms else lengths)],
        "noq": [_rows(bare, seen) if "a" in terms else bare],
        "a": [without_images(bare)],
    }
    return sum(forward(shape, part, part.labels) for term in terms for part in parts[term] if len(part))


def validity(rule: StageModels, step: Step) -> float:
    """Two forward passes with the query after the conversation, one of them without the questions."""
    from training.estimate.passes import forward, longer, without_questions

    shape, lengths = rule.shape(step), rule.lengths(step)
    query = _tokens(step.arguments["query"])
    return sum(forward(shape, longer(part, query), 1) for part in (lengths, without_questions(lengths)))


def perturbed(rule: StageModels, step: Step) -> float:
    """A forward pass with noise over each image, and at most one with other letters for each sample."""
    from training.estimate.passes import forward

    shape, lengths = rule.shape(step), rule.lengths(step)
    images = _rows(lengths, lengths.images > 0)
    return sum(forward(shape, part, part.labels) for part in (images, lengths) if len(part))


def answered(rule: StageModels, step: Step) -> float:
    """A generation for each of the first questions, as long as the reference or the limit."""
    import numpy as np

    from training.estimate.passes import generation

    shape, lengths, arguments = rule.shape(step), rule.lengths(step), step.arguments
    turns = np.maximum(1, lengths.labels * 0 if lengths.turns is None else lengths.turns)
    text, total = lengths.tokens - lengths.image_tokens, 0.0
    for number in range(1, arguments["max_turns"] + 1):
        asked = turns >= number
        if not asked.any():
            break
        part = _rows(replace(lengths, tokens=lengths.image_tokens + text * number // turns), asked)
        new = np.minimum(np.maximum(1, lengths.labels // turns)[asked], arguments["max_new_tokens"])
        total += generation(shape, replace(part, tokens=np.maximum(1, part.tokens - new)), new)
    return total


def spectrum(rule: StageModels, step: Step) -> float:
    """A forward pass; the singular values are in seconds alone."""
    from training.estimate.passes import forward

    return forward(rule.shape(step), rule.lengths(step))


def embedded(rule: StageModels, step: Step) -> float:
    """A forward pass of a vision-language model, or of an encoder over the first image or the text."""
    from training.estimate.passes import forward

    settings = step.arguments
    if settings["kind"] == "states":
        lengths = rule.lengths(step)
        limit = settings.get("first_tokens")
        return forward(rule.shape(step), lengths if limit is None else lengths.within(limit, "truncate"))
    return _encoded(rule, step, images=settings["kind"] != "sentence", **_text_of(settings))


def clip(rule: StageModels, step: Step) -> float:
    """The images, and the text that is compared with them."""
    return _encoded(rule, step, images=True, **_text_of(step.arguments))


def queries(rule: StageModels, step: Step) -> float:
    """The validation items, embedded as the pool was."""
    from training.estimate.passes import forward, of_mean

    vectors = rule.steps[rule.input(step, "vectors")]
    if vectors.arguments.get("kind") != "states":
        return 0.0  # a few texts: below the rounding of all else
    lengths = rule.lengths(step)
    return of_mean(lengths, _items(rule, step), forward(rule.shape(step), lengths))


def at_warmup(rule: StageModels, step: Step) -> float:
    """A gradient of each sample and validation item at each adapter, and its projection."""
    from training.estimate.passes import gradients, of_mean

    lengths, lora, adapters = rule.lengths(step), _lora(rule, step), _adapters(rule, step)
    once = gradients(rule.shape(step), lengths, lora, step.arguments["dim"])
    return adapters * (once + of_mean(lengths, _items(rule, step), once))


def masked(rule: StageModels, step: Step) -> float:
    """Gradients of the validation items; those of the pool are another stage's."""
    from training.estimate.passes import gradients, of_mean

    made = rule.steps[rule.input(step, "gradients")]
    lengths = rule.lengths(step)
    once = gradients(rule.shape(step), lengths, _lora(rule, step), made.arguments["dim"])
    return _adapters(rule, made) * of_mean(lengths, _items(rule, step), once)


def step_gain(rule: StageModels, step: Step) -> float:
    """A step on each sample, and after it a forward pass of all anchors."""
    from training.estimate.passes import forward, gradients, of_mean

    shape, lengths = rule.shape(step), rule.lengths(step)
    anchors = min(step.arguments["anchors"], _items(rule, step))
    after = of_mean(lengths, anchors, forward(shape, lengths, lengths.labels)) * len(lengths)
    return gradients(shape, lengths, _lora(rule, step)) + after


def joint(rule: StageModels, step: Step) -> float:
    """The training of a score net together with a model, on all samples or a share of them."""
    from training.spec import FitSpec, LoraSpec

    settings = step.arguments["joint"]
    lora = LoraSpec(**settings["lora"]) if settings["lora"] else None
    spec = FitSpec(lora=lora, freeze=() if lora else settings["freeze"])
    lengths = rule.lengths(step)
    rows = ceil(len(lengths) * step.arguments.get("share", 1.0))
    steps = settings["max_steps"]
    seen = steps * settings["batch_size"] if steps else rows * settings["epochs"]
    return seen * rule.training_each(rule.shape(step), spec, lengths)


def quality(rule: StageModels, step: Step) -> float:
    """Text models over questions and answers; a stand-in and a judge on a server compute nothing here."""
    import numpy as np

    given = [name for name in step.inputs if name.endswith("_model")]
    if not given:
        return 0.0
    lengths = rule.texts(step)
    text = np.maximum(1, lengths.tokens - lengths.image_tokens)
    return sum(rule.encoder(step, name).text.flops(text, causal=True) for name in given)


def capability(rule: StageModels, step: Step) -> float:
    """All capability queries after one prefix; in mode `official` a generation for each of them."""
    return _asked(rule, step, "capability")


def style(rule: StageModels, step: Step) -> float:
    """The style query after the prefix, and the list that follows."""
    return _asked(rule, step, "style")


def nothing(rule: StageModels, step: Step) -> float:
    """No pass of a model: in seconds alone."""
    return 0.0


SIGNALS: Mapping[str, Callable[[StageModels, Step], float]] = {
    "curation.signals.raters.capability:score_capabilities": capability,
    "curation.signals.raters.style:score_styles": style,
    "curation.signals.raters.by_engine:score_capabilities_by_engine": capability,
    "curation.signals.raters.by_engine:score_styles_by_engine": style,
    "curation.signals.losses:score_losses": losses,
    "curation.signals.answered.producer:score_answers": answered,
    "curation.signals.validity:score_validity": validity,
    "curation.signals.vectors.embeddings:embed_pool": embedded,
    "curation.signals.vectors.spectrum:score_spectrum": spectrum,
    "curation.signals.vectors.leverage:score_leverage": nothing,
    "curation.signals.perturbed:score_perturbed_losses": perturbed,
    "curation.signals.vectors.clip:score_clip": clip,
    "curation.signals.vectors.clusters:fit_clusters": nothing,
    "curation.signals.quality.producer:score_quality": quality,
    "curation.signals.gradients.at_warmup:score_gradients_at_warmup": at_warmup,
    "curation.signals.scorers.self_filter:score_self_filter": joint,
    "curation.signals.scorers.coido:score_coido": joint,
    "curation.signals.scorers.once_select:score_once_select": nothing,
    "curation.signals.gradients.masked:score_masked_influence": masked,
    "curation.signals.gradients.one_step:score_step_gain": step_gain,
    "curation.signals.target_queries:score_queries": queries,
    "curation.signals.subset_value.of_probes:score_value_of_probes": nothing,
    "curation.dedup.signal:score_duplicates": nothing,
    "curation.signals.raters.oracle:tell_truth": nothing,
}
"""By the producer of a signal (curation/catalogue.py); a test holds that none is missing."""


# --------------------------------------------------------------------------------- what they share


def rated(rule: StageModels, step: Step, lengths: "Lengths") -> "Lengths":
    """The examples of a rater's training: each sample with its queries and their answers as branches."""
    kind = {"scorer": "capability", "styler": "style"}[step.config["rater"]]
    prompts = _prompts(rule.place(step), step.config["prompts"], kind, rule.exact)
    labels = lengths.labels * 0 + prompts.answers
    return replace(lengths, tokens=lengths.tokens + sum(prompts.queries) + prompts.answers, labels=labels)


def _asked(rule: StageModels, step: Step, kind: str) -> float:
    from training.estimate.passes import generation, longer, questions

    shape, lengths = rule.shape(step), rule.lengths(step)
    prompts = _prompts(rule.place(step), step.arguments["prompts"], kind, rule.exact)
    written = prompts.answers // len(prompts.queries)
    if step.arguments.get("mode") == "official":
        return sum(generation(shape, longer(lengths, query), written + 1) for query in prompts.queries)
    if kind == "style" and step.arguments.get("mode") != "likelihood":
        return questions(shape, lengths, range(sum(prompts.queries) + written), written)
    return questions(shape, lengths, prompts.depths, prompts.read)


@dataclass(frozen=True)
class Prompts:
    """Tokens of the queries of a rater.

    queries: of each; answers: of all answers; depths: of the nodes of the trie of all queries and candidate
    answers; read: its positions at which the head is read.
    """

    queries: list[int]
    answers: int
    depths: list[int]
    read: int


@cache
def _prompts(place: Path | None, prompts: str, kind: str, exact: bool) -> Prompts:
    """By the chat template and tokenizer in a folder; not `exact`: without loading them, about."""
    from curation.signals.raters.queries import load_queries
    from curation.signals.raters.trie import build_questions

    queries = load_queries(prompts)
    asked = _rendered(place, queries, kind) if exact and place else _assumed(place, queries, kind)
    plan = build_questions(asked)
    mean = max(1, round(sum(len(a) for q in asked for a in q.answers) / sum(len(q.answers) for q in asked)))
    return Prompts(
        [len(question.prompt) for question in asked],
        len(asked) if kind == "capability" else 2 * mean,  # a sample has about two styles
        [int(depth) for depth in plan.trie.depth],
        len(set(plan.node.tolist())),
    )


def _rendered(place: Path, queries: "Queries", kind: str) -> list["Question"]:
    """The questions as the rater reads them."""
    from curation.signals.raters.capability import digit_questions
    from curation.signals.raters.style import style_question
    from training.models import load_processor
    from training.render import Renderer

    renderer = Renderer(*load_processor(place))
    if kind == "capability":
        return digit_questions(renderer, queries)
    return [style_question(renderer, queries)]


def _assumed(place: Path | None, queries: "Queries", kind: str) -> list["Question"]:
    """The questions between template tokens, by the tokenizer in the folder or, without one, by words."""
    from curation.signals.raters.trie import Question

    ids = _ids(place)
    before, after = tuple(-1 - n for n in range(TURN // 2)), tuple(-1 - n for n in range(TURN // 2, TURN))
    digits = tuple((-100 - digit,) for digit in range(6))
    if kind == "capability":
        return [Question((*before, *ids(query), *after), digits) for query in queries.capability]
    names = tuple(tuple(ids(phrase)) for phrase in queries.styles.values())
    return [Question((*before, *ids(queries.style), *after), names)]


def _ids(place: Path | None) -> Callable[[str], list[int]]:
    """Token ids of a text."""
    if place is None or not (place / "tokenizer.json").is_file():
        known: dict[str, int] = {}
        return lambda text: [
            known.setdefault(f"{word}{part}", len(known))
            for word in text.split()
            for part in range(max(1, ceil(len(word) / CHARACTERS)))
        ]
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(place / "tokenizer.json"))
    return lambda text: tokenizer.encode(text, add_special_tokens=False).ids


def _rows(lengths: "Lengths", keep: Any) -> "Lengths":
    import numpy as np

    return lengths.take(np.flatnonzero(keep))


def _tokens(text: str) -> int:
    """About how many tokens a text has."""
    return ceil(WORDS * len(text.split()))


def _text_of(settings: Mapping[str, Any]) -> dict[str, str]:
    """Which text an encoder reads: none, for a vision encoder or the images of a dual one."""
    if settings.get("kind") == "vision" or settings.get("part") == "image":
        return {"text": ""}
    return {"text": settings.get("text", "both")}


def _encoded(rule: StageModels, step: Step, *, images: bool, text: str) -> float:
    import numpy as np

    encoder = rule.encoder(step)
    lengths = rule.texts(step)
    whole = lengths.tokens - lengths.image_tokens
    tokens = {
        "": np.zeros(0, np.int64),
        "first_instruction": np.minimum(np.maximum(1, whole - lengths.labels), SENTENCE),
        "question": np.maximum(1, whole - lengths.labels),
        "answer": lengths.labels,
        "both": whole,
    }[text]
    return (encoder.images(float((lengths.images > 0).sum())) if images else 0.0) + encoder.texts(tokens)


def _items(rule: StageModels, step: Step) -> float:
    """Validation items of a targeted signal."""
    made = rule.steps.get(rule.input(step, "validation")) if "validation" in step.inputs else None
    return made.work if made else 0.0


def _lora(rule: StageModels, step: Step) -> Any:
    warmup = rule.steps[rule.input(step, "warmup")].spec
    if warmup is None or warmup.lora is None:
        raise Uncounted("its warm-up has no adapters")
    return warmup.lora


def _adapters(rule: StageModels, step: Step) -> int:
    """Adapters at which a gradient is computed: the last, or one for each epoch of the warm-up."""
    warmup = rule.steps[rule.input(step, "warmup")].spec
    assert warmup is not None
    return 1 if step.arguments["checkpoints"] == "last" else ceil(warmup.epochs)
