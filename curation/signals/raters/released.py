"""Read the protocol of mmSSR's raters from a clone of the released code, as the content of a prompt set.

Nothing of the clone is run: its files are parsed, and only constants are worked out (texts, lists of texts,
their sums, joins and f-strings). What is read where:

- config/ss.py: the style candidates, the style query, the capability query
- llava/eval/model_ss.py: labels, joiner, text after an image, system prompt, view of the image, length limit
"""

import ast
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from curation.signals.raters.queries import PromptError
from curation.taxonomy import STYLES

CONFIG = Path("config/ss.py")
PROGRAM = Path("llava/eval/model_ss.py")
_KEYWORD = "{cap_keyword}"
"""What the released capability query has in the place of a capability."""


def protocol_of(clone: Path) -> dict[str, Any]:
    """The keys of a prompt set. Raises PromptError, which names the file and the piece that is not there."""
    config = _Source.of(clone, CONFIG)
    program = _Source.of(clone, PROGRAM, config.values)
    return {**_queries(config), **_conversation(program), **_run(program)}


@dataclass
class _Source:
    """A parsed file, and the constants of its module; of a name that is assigned twice, the last counts.

    `lists`: each list of texts that it assigns, with what joins it in a later text (None: nothing does).
    """

    path: Path
    tree: ast.Module
    values: dict[str, Any]
    lists: list[tuple[list[str], str | None]] = field(default_factory=list)

    @classmethod
    def of(cls, clone: Path, name: Path, known: dict[str, Any] | None = None) -> "_Source":
        path = clone / name
        try:
            tree = ast.parse(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise PromptError(
                f"{path} cannot be read ({error.strerror}); give the folder of a clone of the released code"
            ) from error
        except (SyntaxError, ValueError) as error:  # ValueError: no UTF-8, or a NUL byte
            raise PromptError(f"{path} is not valid Python: {error}") from error
        made = cls(path, tree, dict(known or {}))
        for node in tree.body:
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                made._assign(node.targets[0].id, node.value)
        return made

    def _assign(self, name: str, node: ast.expr) -> None:
        try:
            self.values[name] = value = self.constant(node)
        except _NotConstant:
            return
        if isinstance(value, list):
            self.lists.append((value, None))

    def constant(self, node: ast.expr) -> Any:
        """The text, number or list of texts that an expression is. Raises _NotConstant."""
        match node:
            case ast.Constant(value=str() | int() as value):
                return value
            case ast.List(elts=items) | ast.Tuple(elts=items):
                return [self.constant(item) for item in items]
            case ast.Name(id=name) if name in self.values:
                return self.values[name]
            case ast.BinOp(left=left, op=ast.Add(), right=right):
                return _sum(self.constant(left), self.constant(right))
            case ast.Subscript(value=held, slice=ast.Constant(value=int() as at)):
                items = self.constant(held)
                if isinstance(items, list) and -len(items) <= at < len(items):
                    return items[at]
            case ast.JoinedStr(values=parts):
                return "".join(_text(self.constant(part)) for part in parts)
            case ast.FormattedValue(value=value, conversion=-1, format_spec=None):
                return self.constant(value)
            case ast.Call(func=ast.Attribute(value=between, attr="join"), args=[items]):
                return self._joined(_text(self.constant(between)), self.constant(items))
        raise _NotConstant

    def _joined(self, between: str, items: Any) -> str:
        if not isinstance(items, list):
            raise _NotConstant
        self.lists = [(listed, between if listed == items else by) for listed, by in self.lists]
        return between.join(_text(item) for item in items)

    def named(self, name: str) -> str:
        """The text of a constant of the module."""
        value = self.values.get(name)
        if not isinstance(value, str):
            raise self.lacks(f"the text `{name}`")
        return value

    def function(self, name: str) -> ast.FunctionDef:
        found = [node for node in self.tree.body if isinstance(node, ast.FunctionDef) and node.name == name]
        if not found:
            raise self.lacks(f"the function `{name}`")
        return found[0]

    def lacks(self, what: str) -> PromptError:
        return PromptError(
            f"{self.path} has not, in the form of the released code, {what}; write the prompt set by hand"
        )


class _NotConstant(Exception):
    """An expression that is no constant."""


def _queries(config: _Source) -> dict[str, Any]:
    """The queries and the list of styles."""
    capability, style = config.named("cap_query"), config.named("style_query")
    if _KEYWORD not in capability:
        raise config.lacks(f"the place of the capability, {_KEYWORD}, in `cap_query`")
    for name in ("cap_instruct", "style_instruct"):
        if config.named(name):
            raise PromptError(
                f"{config.path}: `{name}` is a text before the conversation, which a prompt set cannot say"
            )
    keys = {phrase: key for key, phrase in STYLES.items()}
    lists = [entry for entry in config.lists if entry[1] is not None and set(entry[0]) == set(keys)]
    if not lists:
        raise config.lacks(f"a joined list of the styles {', '.join(keys)}")
    phrases, between = lists[0]
    found = {
        "capability": capability.replace(_KEYWORD, "{phrase}"),
        # The list in the order of the clone; a prompt set writes {styles} in that of the taxonomy.
        "style": style.replace(between.join(phrases), "{styles}") if phrases == list(keys) else style,
        "style_separator": between,
        "styles": dict(STYLES),
    }
    return found


def _conversation(program: _Source) -> dict[str, Any]:
    """How the rounds of a conversation and the query are written."""
    written = program.function("format_convs")
    appended = [call.args[0] for call in _calls(written, "append") if len(call.args) == 1]
    rounds = [_terms(node) for node in appended]
    parts = next((terms for terms in rounds if isinstance(terms[0], ast.IfExp)), None)
    if parts is None or len(parts) < 2:
        raise program.lacks("a round as question, separator and label of the answer in `format_convs`")
    assert isinstance(parts[0], ast.IfExp)
    labels = _question(program, parts[0])
    between, *answer = [_constant(program, part, "the label of the answer") for part in parts[1:]]
    labels |= {"between": between, "answer": "".join(answer)}
    joined = [call for call in _calls(written, "join") if isinstance(call.func, ast.Attribute)]
    if not joined:
        raise program.lacks("what joins the rounds in `format_convs`")
    assert isinstance(joined[-1].func, ast.Attribute)
    joiner = _constant(program, joined[-1].func.value, "what joins the rounds")
    if (before_query := _before_query(program)) != joiner:
        raise PromptError(
            f"{program.path}: the query follows after {before_query!r}, the rounds after {joiner!r}; "
            "a prompt set has one joiner"
        )
    return {"conversation": "flat", "labels": labels, "joiner": joiner, **_after_image(program)}


def _question(program: _Source, choice: ast.IfExp) -> dict[str, Any]:
    """Label of a question, what is stripped from it, and how questions begin that have none."""
    unless: list[str] = []
    for call in _calls(choice.test, "startswith"):
        value = _constant(program, call.args[0], "the beginning of a question without a label")
        unless += value if isinstance(value, list) else [value]
    match choice:
        case ast.IfExp(
            body=ast.Name(), orelse=ast.JoinedStr(values=[label, ast.FormattedValue(value=asked)])
        ):
            text = _constant(program, label, "the label of the question")
        case _:
            raise program.lacks("a labelled question in `format_convs`")
    match asked:
        case ast.Name():
            strip = {}
        case ast.Call(func=ast.Attribute(attr="strip"), args=[characters]):
            strip = {"strip": _constant(program, characters, "what is stripped from a question")}
        case _:
            raise program.lacks("the question after its label in `format_convs`")
    return {"question": text, **strip, "unless": unless}


def _before_query(program: _Source) -> str:
    for node in ast.walk(program.function("eval_model")):
        if isinstance(node, ast.Assign):
            terms = _terms(node.value)
            at = [i for i, term in enumerate(terms) if _is_call(term, "format_convs")]
            if at and isinstance(terms[-1], ast.Name) and len(terms) - at[0] > 2:
                between = terms[at[0] + 1 : -1]
                return "".join(_constant(program, term, "what precedes the query") for term in between)
    raise program.lacks("the conversation followed by the query in `eval_model`")


def _after_image(program: _Source) -> dict[str, str]:
    """The text that `preprocess_qwen` writes after each image, if any."""
    function = program.function("preprocess_qwen")
    texts: dict[str, str] = {}
    for node in ast.walk(function):
        match node:
            case ast.Assign(
                targets=[ast.Name(id=name)],
                value=ast.Attribute(
                    value=ast.Call(args=[ast.Constant(value=str() as text)]), attr="input_ids"
                ),
            ):
                texts[name] = text
    for node in ast.walk(function):
        match node:
            case ast.BinOp(left=ast.List(elts=[ast.Name(id="IMAGE_TOKEN_INDEX")]), right=ast.Name(id=name)):
                if name not in texts:
                    raise program.lacks(f"the text of `{name}`, which follows an image")
                return {"after_image": texts[name]}
    return {}


def _run(program: _Source) -> dict[str, Any]:
    """System prompt, view of the image and limit of a generation."""
    function = program.function("eval_model")
    named = [
        node.value
        for node in ast.walk(function)
        if isinstance(node, ast.Assign)
        and isinstance(node.targets[0], ast.Name)
        and node.targets[0].id == "system_message"
        and isinstance(node.value, ast.Constant)
    ]
    if not named:
        raise program.lacks("the text `system_message` in `eval_model`")
    limits = [
        keyword.value
        for call in _calls(function, "generate")
        for keyword in call.keywords
        if keyword.arg == "max_new_tokens"
    ]
    if not limits:
        raise program.lacks("a call of `generate` with `max_new_tokens` in `eval_model`")
    return {
        "system": _constant(program, named[0], "the system prompt"),
        "image": _view(program, function),
        "max_new_tokens": _constant(program, limits[0], "`max_new_tokens`"),
    }


def _view(program: _Source, function: ast.FunctionDef) -> str:
    """One view where the image processor is called itself, tiles where LLaVA's own preparation is."""
    if any(_is_call(node, "process_images", "process_anyres_image") for node in ast.walk(function)):
        return "anyres"
    if not list(_calls(function, "preprocess")):
        raise program.lacks("how an image is prepared in `eval_model`")
    return "single"


def _calls(node: ast.AST, method: str) -> Iterator[ast.Call]:
    """The calls of a method, in the order of the source."""
    found = [
        inner
        for inner in ast.walk(node)
        if isinstance(inner, ast.Call) and isinstance(inner.func, ast.Attribute) and inner.func.attr == method
    ]
    yield from sorted(found, key=lambda call: (call.end_lineno or 0, call.end_col_offset or 0))


def _is_call(node: ast.AST, *names: str) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in names


def _terms(node: ast.expr) -> list[ast.expr]:
    """The terms of a sum, from left to right."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return [*_terms(node.left), *_terms(node.right)]
    return [node]


def _constant(program: _Source, node: ast.expr, what: str) -> Any:
    try:
        return program.constant(node)
    except _NotConstant:
        raise program.lacks(f"{what} as a constant") from None


def _sum(left: Any, right: Any) -> Any:
    if type(left) is not type(right):
        raise _NotConstant
    return left + right


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise _NotConstant
    return value
