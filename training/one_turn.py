"""How a conversation and a query about it are written as one user turn.

form = OneTurn(question="Question: ", answer="Answer: ", between=" ")
messages = with_query(messages_of(sample), "How hard is it?", form)
"""

from collections.abc import Iterable
from dataclasses import dataclass

from curation.pool.sample import IMAGE_PLACEHOLDER

BREAK = "\ufdd1"
"""A code point that Unicode keeps out of texts; the texts on both sides of it are tokenised one by one."""


@dataclass(frozen=True, slots=True)
class OneTurn:
    """A round is `question`, the question, `between`, `answer`, the answer; rounds and query are joined.

    `question`, `answer`: labels. `joiner`: between rounds, and before the query. `unlabelled`: beginnings of
    questions that get no label. `strip`: characters that a labelled question loses at both ends.
    `after_image`: text after each image, in tokens of its own. `system`: the system prompt of conversations
    that bring none; None: the template's own. The defaults write lines: question, answer, ..., query.
    """

    question: str = ""
    answer: str = ""
    between: str = "\n"
    joiner: str = "\n"
    unlabelled: tuple[str, ...] = ()
    strip: str = ""
    after_image: str = ""
    system: str | None = None

    def text(self, rounds: Iterable[tuple[str, str]]) -> str:
        """The rounds, (question, answer) each, joined; a BREAK follows each `after_image`."""
        return self.joiner.join(
            f"{self._asked(question)}{self.between}{self.answer}{answer}" for question, answer in rounds
        )

    def _asked(self, question: str) -> str:
        if not (self.unlabelled and question.startswith(self.unlabelled)):
            # The default of str.strip would be white space.
            question = self.question + (question.strip(self.strip) if self.strip else question)
        if not self.after_image:
            return question
        return question.replace(IMAGE_PLACEHOLDER, IMAGE_PLACEHOLDER + self.after_image + BREAK)


LINES = OneTurn()


def with_query(messages: list[dict[str, str]], query: str, flat: OneTurn | bool) -> list[dict[str, str]]:
    """The conversation with a query: as one more user turn, or at the end of its only turn.

    `flat`: how that one turn is written; True: LINES; False: turns.
    """
    if not flat:
        return [*messages, {"role": "user", "content": query}]
    form = LINES if flat is True else flat
    system = [message for message in messages if message["role"] == "system"]
    if not system and form.system is not None:
        system = [{"role": "system", "content": form.system}]
    texts = [message["content"] for message in messages if message["role"] != "system"]
    rounds = form.text(zip(texts[::2], texts[1::2], strict=True))
    return [*system, {"role": "user", "content": form.joiner.join([rounds, query])}]
