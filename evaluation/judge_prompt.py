"""What a judge is asked and how its reply is read: a YAML file of `evaluation/judges`.

    prompt = load_prompt("mmvet")
    prompt.read({}, "0.7")      # 0.7
    prompt.read({}, "7")        # None: not in the form that was asked for

A reply is read as a whole or not at all: no number is searched in a sentence.
"""

import hashlib
import re
import string
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from evaluation import judges
from evaluation.suite import Entry, Judge

VARIABLES = ("question", "reference", "prediction", "choices", "context", "answer_type")
"""The fields of a request that a prompt may name, beside `form`."""
OPTIONAL = ("choices",)
"""Fields that may be absent: an open question has none."""

Fields = Mapping[str, Any]
"""The fields of a request: texts, and lists of texts (`choices`, `context`)."""


class PromptError(ValueError):
    """A judge's prompt that cannot be used, or a request without the fields that it needs."""


class Form(Entry):
    """One form of reply. `ask` says it to the judge; `grammar` is a regular expression of the whole reply.

    `value` makes the verdict of the group `value`: `number` a float; `text` the text itself; `choice` the
    text of the choice with this letter; `ratio` its number divided by that of the group `reference`. Where
    the group takes no part in the match, the answer states nothing and the verdict is "".
    """

    ask: str = Field(min_length=1)
    grammar: str
    value: Literal["number", "text", "choice", "ratio"]

    @model_validator(mode="after")
    def _groups_are_there(self) -> Self:
        try:
            groups = set(re.compile(self.grammar).groupindex)
        except re.error as error:
            raise ValueError(f"grammar is not a regular expression: {error}") from error
        wanted = {"value", "reference"} if self.value == "ratio" else {"value"}
        if groups != wanted:
            raise ValueError(f"the named groups of the grammar must be {', '.join(sorted(wanted))}")
        return self

    def read(self, reply: str, choices: Sequence[str]) -> float | str | None:
        """The verdict in a reply; None if the reply does not have this form."""
        match = re.fullmatch(self.grammar, reply.strip(), re.ASCII)
        if match is None:
            return None
        value = match["value"]
        if value is None:
            return ""
        if self.value == "choice":
            at = string.ascii_uppercase.index(value)
            return choices[at] if at < len(choices) else None
        if self.value == "ratio":
            return float(value) / float(match["reference"])
        return float(value) if self.value == "number" else value


class Prompt(Entry):
    """A judge's prompt.

    `kind`: `extract` reads a value out of an answer, `score` grades it. `prompt`: the question to the judge,
    with variables in braces; `again` follows a reply without the form. `select` names the field that chooses
    among several forms (the form `choice` where there are choices). `prediction_chars`: a longer answer is
    cut in the middle. `deviations`: what differs from the benchmark's own judge.
    """

    name: str
    version: str
    source: str
    kind: Literal["extract", "score"]
    prompt: str
    again: str
    forms: dict[str, Form] = Field(min_length=1)
    select: Literal["answer_type"] | None = None
    max_tokens: int = Field(ge=1)
    prediction_chars: int = Field(12_000, ge=100)
    deviations: tuple[str, ...] = ()
    file: str
    sha256: str

    @model_validator(mode="after")
    def _variables_are_known(self) -> Self:
        for text, known in ((self.prompt, {*VARIABLES, "form"}), (self.again, {"form"})):
            if unknown := sorted(_variables(text) - known):
                raise ValueError(
                    f"unknown variable {', '.join(unknown)}: there are {', '.join(sorted(known))}"
                )
        if missing := {"prediction", "form"} - _variables(self.prompt):
            raise ValueError(f"the prompt lacks {', '.join(sorted(missing))}")
        if (self.select is None) == (len(self.forms) > 1):
            raise ValueError("`select` is needed for several forms, and for nothing else")
        if any(form.value == "choice" for form in self.forms.values()) and "{choices}" not in self.prompt:
            raise ValueError("a form with the value choice needs {choices} in the prompt")
        if any((form.value in ("number", "ratio")) != (self.kind == "score") for form in self.forms.values()):
            raise ValueError("the value of kind score is a number or ratio, that of extract a text or choice")
        return self

    @cached_property
    def needs(self) -> frozenset[str]:
        """The fields without which no request can be made."""
        named = _variables(self.prompt) - {"form", *OPTIONAL}
        return frozenset(named | ({self.select} if self.select else set()))

    def form(self, fields: Fields) -> Form:
        """The form of the reply to this request. Raises PromptError if there is none for its answer type."""
        if self.select is None:
            return next(iter(self.forms.values()))
        kind = "choice" if _texts(fields.get("choices")) else str(fields.get(self.select))
        if kind not in self.forms:
            known = ", ".join(self.forms)
            raise PromptError(f"{self.file} has no form of reply for the answer type {kind!r}, only {known}")
        return self.forms[kind]

    def text(self, fields: Fields) -> str:
        """The question to the judge. Raises PromptError if a field is missing."""
        if missing := [name for name in sorted(self.needs) if fields.get(name) is None]:
            given = ", ".join(sorted(name for name in fields if name not in missing))
            raise PromptError(f"{self.file} needs the field {', '.join(missing)}, the request has {given}")
        shown = {name: _shown(name, fields.get(name)) for name in VARIABLES}
        shown["prediction"] = _cut(shown["prediction"], self.prediction_chars)
        # A model's answer may hold half of a surrogate pair, which no request can carry.
        text = self.prompt.format(form=self.form(fields).ask, **shown)
        return text.encode("utf-8", "replace").decode()

    def repeat(self, fields: Fields) -> str:
        """What follows a reply that does not have the form."""
        return self.again.format(form=self.form(fields).ask)

    def read(self, fields: Fields, reply: str) -> float | str | None:
        """The verdict in a judge's reply; None if it does not have the form that was asked for."""
        return self.form(fields).read(reply, _texts(fields.get("choices")))

    def needs_judge(self, fields: Fields) -> bool:
        """Whether a judge must see this answer.

        kind score: always. kind extract: not if the answer is a bare value in the form of a reply, exactly
        the text of one choice (up to case and a final stop), or empty: those the benchmark's rules read.
        """
        if self.kind == "score":
            return True
        answer, choices = str(fields["prediction"]).strip(), _texts(fields.get("choices"))
        if not answer or self.form(fields).read(answer, choices):
            return False
        return [_plain(choice) for choice in choices].count(_plain(answer)) != 1


def load_prompt(name: str | Path) -> Prompt:
    """Read a prompt by its name ("mmvet") or path. PromptError names the file and what is wrong."""
    import yaml

    try:
        path = judges.path_of(name)
    except FileNotFoundError as error:
        raise PromptError(str(error)) from error
    content = path.read_bytes()
    about = {"file": f"judges/{path.name}", "sha256": hashlib.sha256(content).hexdigest()}
    try:
        entries = yaml.safe_load(content)
        if not isinstance(entries, dict) or entries.keys() & about:
            raise PromptError(f"{path}: must be a mapping of a prompt's keys, without {', '.join(about)}")
        return Prompt.model_validate(entries | about)
    except yaml.YAMLError as error:
        raise PromptError(f"{path} is not valid YAML: {error}") from error
    except ValidationError as error:
        problems = [f"{'.'.join(map(str, p['loc'])) or 'file'}: {p['msg']}" for p in error.errors()]
        raise PromptError(f"{path}: {'; '.join(problems)}") from error


def prompt_of(judge: Judge) -> Prompt:
    """The prompt that a suite names. Raises PromptError if it does not exist or does not fit."""
    prompt = load_prompt(judge.prompt)
    if prompt.kind != judge.kind:
        raise PromptError(f"{prompt.file} is of kind {prompt.kind}, the suite wants kind {judge.kind}")
    if unknown := sorted(judge.fields.keys() - set(VARIABLES)):
        raise PromptError(
            f"{prompt.file} has no variable {', '.join(unknown)}: there are {', '.join(VARIABLES)}"
        )
    if missing := sorted(prompt.needs - {"prediction"} - judge.fields.keys()):
        raise PromptError(
            f"{prompt.file} needs the column of {', '.join(missing)} in the suite's judge.fields"
        )
    return prompt


def fields_of(judge: Judge, doc: Mapping[str, Any], prediction: str) -> dict[str, Any]:
    """The fields of a request from a question's data. PromptError names a column that the data lack."""
    if lacking := sorted(set(judge.fields.values()) - doc.keys()):
        raise PromptError(f"judge prompt {judge.prompt!r}: the data have no column {', '.join(lacking)}")
    return {name: doc[column] for name, column in judge.fields.items()} | {"prediction": prediction}


def _variables(text: str) -> set[str]:
    """The names in braces. Raises ValueError for anything else in braces."""
    names = set()
    for _, name, specification, conversion in string.Formatter().parse(text):
        if name is not None:
            if not name.isidentifier() or specification or conversion:
                raise ValueError(f"a variable must be a plain name in braces, not {{{name}}}")
            names.add(name)
    return names


def _texts(value: Any) -> list[str]:
    return [] if value is None or isinstance(value, str) else [str(text) for text in value]


def _shown(name: str, value: Any) -> str:
    if name == "choices":
        lettered = zip(string.ascii_uppercase, _texts(value), strict=False)
        return "\n".join(f"({letter}) {choice}" for letter, choice in lettered)
    return "\n".join(_texts(value)) if isinstance(value, (list, tuple)) else str(value or "")


def _cut(text: str, limit: int) -> str:
    """A longer text without its middle: an answer's beginning and its end say most."""
    if len(text) <= limit:
        return text
    half = limit // 2
    return f"{text[:half]}\n[... {len(text) - 2 * half} characters left out ...]\n{text[-half:]}"


def _plain(text: str) -> str:
    return text.strip().rstrip(".").casefold()
