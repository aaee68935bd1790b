"""The progress of a stage, for tests that look at what it says."""


class Said:
    """Remembers the lines; counts nothing."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def total(self, n: int) -> None: ...

    def advance(self, k: int = 1) -> None: ...

    def say(self, text: str) -> None:
        self.lines.append(text)
