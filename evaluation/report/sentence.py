"""A sentence of the report in plain text: its subject, which a page may stress, and what is said of it."""

from dataclasses import dataclass

from curation.printable import inert


@dataclass(frozen=True)
class Sentence:
    """`bold`: whether the subject is stressed, which an arm without a verdict is not."""

    subject: str
    text: str
    bold: bool = True

    def __str__(self) -> str:
        return f"{self.subject}{self.text}"

    @property
    def markdown(self) -> str:
        """The sentence in Markdown; names of others in it are text alone."""
        stars = "**" if self.bold else ""
        return f"{stars}{inert(self.subject)}{stars}{inert(self.text)}"
