"""The 14 vision-language capabilities and 9 interaction styles of mmSSR (arXiv 2503.13383), with definitions.

Keys are part of column names and must not change; `phrase` is the wording that a model reads in a prompt.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Capability:
    """One scored capability: `key` (in column names), `phrase` (in prompts), `definition` (for teachers)."""

    key: str
    phrase: str
    definition: str


CAPABILITIES: tuple[Capability, ...] = (
    Capability("spatial", "object spatial understanding", "positions, relations and layout of objects"),
    Capability(
        "attribute", "attribute identification", "colour, shape, material, state or count of an entity"
    ),
    Capability("logic", "logical deduction", "inference in several steps from what is seen"),
    Capability("scene", "scene understanding", "setting, context or overall gist of the image"),
    Capability(
        "fine_grained",
        "fine-grained recognition",
        "identity at the level of species, brand, model or landmark",
    ),
    Capability("generation", "language generation", "fluent output of some length"),
    Capability(
        "in_context", "in-context learning", "use of examples, a format or a context given in the prompt"
    ),
    Capability("comparison", "comparative analysis", "contrast of two or more entities, images or regions"),
    Capability("activity", "activity recognition", "actions, poses or events"),
    Capability("causal", "causal reasoning", "why something is so, what follows, cause and effect"),
    Capability("humanities", "humanities", "history, art, culture, geography or social science"),
    Capability("stem", "stem knowledge", "mathematics, physics, biology or engineering"),
    Capability("data", "data understanding", "charts, tables, plots and diagrams"),
    Capability("ocr", "optical character recognition", "reading text in the image"),
)
CAPABILITY_KEYS: tuple[str, ...] = tuple(capability.key for capability in CAPABILITIES)

STYLES: dict[str, str] = {
    "multi_choice": "multi-choice",
    "coordinate": "coordinate",
    "yes_no": "yes/no",
    "word": "word/short-phrase",
    "short_description": "short description",
    "detailed_description": "detailed description",
    "comparison": "comparison",
    "chain_of_thought": "chain-of-thought (step-by-step)",
    "specified": "specified style",
}
"""Style key -> the wording of the paper. Any other text of a styler counts as `other`."""

MAX_SCORE = 5
"""Capability scores are the integers 0..5 (0 = absent, or the data is wrong)."""
