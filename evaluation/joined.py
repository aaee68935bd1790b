"""Whether the rows of another tool's file are the questions of the local data, and which is which.

    records = join_samples(file, read_samples(file), wanted)
    check(file, records, parts)

Nothing is left out silently: missing, double, unknown and differing rows are errors with their number.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any, NoReturn

from curation.printable import printable
from evaluation.foreign import ForeignError, Record
from evaluation.questions import Questions

NEAR = 0.5
"""A recorded prompt without the whole question must share this much of the shorter text in one piece."""
Place = tuple[str, int]
"""A question: the name of its part, and its index there."""


def join_samples(
    file: Path, records: Sequence[Record], wanted: Sequence[tuple[Questions, int]]
) -> dict[Place, Record]:
    """The samples of lmms-eval by question: `doc_id` is the question's place. Raises ForeignError."""
    ids = {(part.name, i): i for part, i in wanted}
    return _matched(file, ids, [(record.columns["doc_id"], record) for record in records])


def join_sheet(
    file: Path, records: Sequence[Record], wanted: Sequence[tuple[Questions, int]]
) -> dict[Place, Record]:
    """The sheet's rows by question: by the data's own ids if the sheet has them, else in the data's order.

    Rows of other splits are left out, which is said. Raises ForeignError.
    """
    data = wanted[0][0].benchmark.data
    name = data.id or ""
    records = _of_split(file, records, data.split)
    double = [key for key, n in Counter(_key(record.columns["index"]) for record in records).items() if n > 1]
    if double:
        _refuse(file, "rows with the index of another", len(records), double)
    ids = {(part.name, i): _key(part.docs[i].get(name)) for part, i in wanted}
    for column in dict.fromkeys((name, "id", "index") if name else ()):
        if column in records[0].columns:
            keyed = [(_key(record.columns[column]), record) for record in records]
            if 2 * len({key for key, _ in keyed} & set(ids.values())) >= len(ids):
                return _matched(file, ids, keyed)
    places = {key: str(place) for place, key in enumerate(ids)}
    return _matched(file, places, [(str(place), record) for place, record in enumerate(records)])


def _of_split(file: Path, records: Sequence[Record], split: str) -> list[Record]:
    """The rows of a split, where a sheet holds several (MMMU: dev and validation)."""
    splits = {str(record.columns.get("split") or "").lower() for record in records} - {""}
    own = [name for name in splits if split.lower().startswith(name)]
    if len(splits) < 2 or len(own) != 1:
        return list(records)
    kept = [record for record in records if str(record.columns["split"]).lower() == own[0]]
    print(f"{file}: {len(records) - len(kept):,} rows of other splits than {own[0]} are left out")
    return kept


def _key(value: Any) -> str:
    """An id as text; tables turn whole numbers into 7.0."""
    text = str(value)
    return text.removesuffix(".0")


def _matched(
    file: Path, ids: Mapping[Place, Any], keyed: Iterable[tuple[Any, Record]]
) -> dict[Place, Record]:
    """Records by question: each question must have exactly one. `ids`: the questions' keys."""
    keyed = list(keyed)
    counts, known = Counter(key for key, _ in keyed), set(ids.values())
    if double := [key for key, n in counts.items() if n > 1]:
        _refuse(file, "questions with several rows", len(ids), double)
    if unknown := [key for key in counts if key not in known]:
        _refuse(file, "rows that are no question of the data", len(keyed), unknown)
    if missing := [key for key in ids.values() if key not in counts]:
        _refuse(file, "questions without a row", len(ids), missing)
    by_key = dict(keyed)
    return {place: by_key[key] for place, key in ids.items()}


def _refuse(file: Path, what: str, n: int, keys: Sequence[Any]) -> NoReturn:
    raise ForeignError(f"{file}: {what}: {len(keys):,} of {n:,} (first: {keys[0]}); nothing is imported")


# ------------------------------------------------------------------------- are they the same questions?


def check(file: Path, records: Mapping[Place, Record], parts: Sequence[Questions]) -> None:
    """Raises ForeignError unless the records' questions and reference answers are those of the data."""
    for part in parts:
        own = {index: record for (name, index), record in records.items() if name == part.name}
        texts = {index: texts_of(part, index) for index in own}
        wrong = dict.fromkeys(other_references(part, own), "reference answer")
        wrong |= {i: "question" for i, r in own.items() if not same_question(r.question, i, texts)}
        for index in sorted(wrong):
            record, what = own[index], wrong[index]
            said = record.question if what == "question" else ", ".join(record.references)
            ours = part.text(index) if what == "question" else str(part.answer_key(index))
            raise ForeignError(
                f"{file}, row {record.row}: its {what} '{printable(said)}' is not that of {part.name}, "
                f"question {part.id(index)}: '{printable(ours)}'; {len(wrong):,} of {len(own):,} rows "
                "differ: are these the same data, in the same edition?"
            )


def texts_of(part: Questions, index: int) -> list[str]:
    """The texts by which a question of the data may be recorded: its prompt, and its columns of text."""
    doc = part.docs[index]
    texts = [part.text(index), *(doc.get(name) for name in ("question", "Question", "prompt", "query"))]
    return [_plain(text) for text in texts if isinstance(text, str) and text.strip()]


def same_question(recorded: str, index: int, texts: Mapping[int, Sequence[str]]) -> bool:
    """Whether a recorded question or prompt is that of a question, whose `texts` are given by index.

    Prompts differ between tools and models: one text may hold the other, or share a large piece with it if
    it is not another question's. A file without questions cannot disagree.
    """
    asked = _plain(recorded)
    if not asked or _holds(asked, texts[index]):
        return True
    near = any(_is_near(text, asked) for text in texts[index])
    return near and not any(_holds(asked, other) for other in texts.values())


def _holds(asked: str, texts: Sequence[str]) -> bool:
    return any(text in asked or asked in text for text in texts)


def _is_near(text: str, other: str) -> bool:
    match = SequenceMatcher(None, text, other, autojunk=False).find_longest_match()
    return match.size >= NEAR * min(len(text), len(other))


def other_references(part: Questions, records: Mapping[int, Record]) -> list[int]:
    """The questions whose recorded reference answer is neither our text of it nor right by the scorer."""
    judge = part.benchmark.judge
    column = judge.fields.get("reference", "answer") if judge else "answer"
    unequal = []
    for index, record in records.items():
        ours = {_plain(str(part.answer_key(index))), _plain(str(part.docs[index].get(column)))}
        if record.references and not ours & {_plain(text) for text in record.references}:
            unequal.append(index)
    if judge and judge.kind == "score":
        return unequal
    tried = [(index, text) for index in unequal for text in records[index].references]
    results = part.results([text for _, text in tried], [part.docs[index] for index, _ in tried])
    right = {index for (index, _), score in zip(tried, part.scores(results), strict=True) if score > 0}
    return [index for index in unequal if index not in right]


def _plain(text: str) -> str:
    """A text without case, white space and image marks."""
    return re.sub(r"<image(?:[ _]?\d+)?>|\s+", " ", text.casefold()).strip().strip("()")
