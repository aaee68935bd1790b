"""From samples to texts: the chat template of a checkpoint, and rules about texts as part of it.

    template = with_rules(find_template(processor, special), image_first=True)
    text, spans = render(template, messages_of(sample), special)

Templates receive plain string contents in which `<image>` marks the place of an image. A checkpoint's own
template is used if it accepts such contents and marks the assistant's answer, end-of-turn included, with {%
generation %}; otherwise one of `training/templates/` is used.
"""

import json
from pathlib import Path
from typing import Any

import jinja2
from transformers.utils.chat_template_utils import render_jinja_template

from curation.pool.sample import IMAGE_PLACEHOLDER, Sample
from training import families

TEMPLATES = Path(__file__).parent / "templates"
PROBE = [{"role": "user", "content": "why <image> so"}, {"role": "assistant", "content": "because"}]
"""A conversation that tells what a template does with contents, image and answer."""


def find_template(processor: Any, special: dict[str, str]) -> str:
    """The chat template for a processor; ValueError when neither its own nor a shipped one fits."""
    own = [processor.chat_template, processor.tokenizer.chat_template]
    image_token = getattr(processor, "image_token", IMAGE_PLACEHOLDER)
    shipped = families.of_processor(processor).template(processor)
    candidates = [text for text in own if isinstance(text, str)]
    if shipped:
        candidates.append((TEMPLATES / f"{shipped}.jinja").read_text())
    for template in candidates:
        if _fits(template, special, image_token):
            return template
    raise ValueError(
        "no chat template accepts string contents and has {% generation %} marks: add one to the checkpoint"
    )


def _fits(template: str, special: dict[str, str], image_token: str = IMAGE_PLACEHOLDER) -> bool:
    """Whether the template renders string contents, replaces `<image>` by the image token, and marks each
    answer together with its end-of-turn token."""
    if "generation" not in template:
        return False
    try:
        text, spans = render(template, PROBE, special)
    except (jinja2.TemplateError, TypeError):  # a template for contents that are lists of parts
        return False
    before, after = PROBE[0]["content"].split(IMAGE_PLACEHOLDER)
    if len(spans) != 1 or before not in text or after not in text or text.count(image_token) != 1:
        return False
    marked = text[slice(*spans[0])].strip()
    return marked.startswith(PROBE[1]["content"]) and marked != PROBE[1]["content"]


def with_rules(template: str, system: str | None = None, image_first: bool = False) -> str:
    """The chat template with rules about texts written before it; the template itself without any.

    What they mean, `training.render.RenderRules` says.
    """
    head = ""
    if system is not None:
        head += _SYSTEM.replace("SYSTEM", json.dumps(system, ensure_ascii=False))
    return head + _IMAGE_FIRST * image_first + template


_SYSTEM = """\
{%- if not messages or messages[0]['role'] != 'system' -%}
{%- set messages = [{'role': 'system', 'content': SYSTEM}] + messages -%}
{%- endif %}"""
# The white space that LLaVA strips goes too, so that `Q\n<image>` becomes `<image>\nQ`.
_IMAGE_FIRST = """\
{%- set placed = namespace(messages=[]) -%}
{%- for message in messages -%}
{%- set content = message['content'] -%}
{%- if message['role'] == 'user' and content is string and content.count('<image>') == 1 -%}
{%- set content = ('<image>\\n' + content.replace('<image>', '').strip()).strip() -%}
{%- endif -%}
{%- set placed.messages = placed.messages + [dict(message, content=content)] -%}
{%- endfor -%}
{%- set messages = placed.messages %}"""


def messages_of(sample: Sample) -> list[dict[str, str]]:
    """The chat messages of a sample: its system text, then each question with its answer."""
    out = [] if sample.system is None else [{"role": "system", "content": sample.system}]
    for turn in sample.turns:
        out += [{"role": "user", "content": turn.question}, {"role": "assistant", "content": turn.answer}]
    return out


def render(
    template: str,
    messages: list[dict[str, str]],
    special: dict[str, str],
    add_generation_prompt: bool = False,
) -> tuple[str, list[tuple[int, int]]]:
    """The text of one conversation, and the character span of each answer with its end-of-turn token."""
    options: dict[str, Any] = {"add_generation_prompt": add_generation_prompt, **special}
    rendered: Any = render_jinja_template(
        [messages], chat_template=template, return_assistant_tokens_mask=True, **options
    )
    texts, spans = rendered
    return texts[0], spans[0]
