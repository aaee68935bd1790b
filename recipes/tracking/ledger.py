"""What a backend was told already, so that a run that is resumed, or started again, tells nothing twice."""

import json
from pathlib import Path
from typing import Any

from curation import atomic


class Ledger:
    """For each run id, the last step that was logged and the state in which it was completed; a JSON file."""

    def __init__(self, path: Path) -> None:
        self.path, self._changed = path, False
        self.runs: dict[str, dict[str, Any]] = {}
        if path.is_file():
            self.runs = json.loads(path.read_text(encoding="utf-8"))

    def begun(self, run: str) -> bool:
        """Whether anything of the run, or of a part of it, was logged."""
        return run in self.runs or any(known.startswith(f"{run}-") for known in self.runs)

    def step(self, run: str) -> int:
        """The last step that was logged; -1 before the first."""
        return self.runs.get(run, {}).get("step", -1)

    def complete(self, run: str) -> str | None:
        """The state that the run was completed in; None if it was not."""
        return self.runs.get(run, {}).get("complete")

    def note(self, run: str, **values: Any) -> None:
        """Remember a run and its `step` or `complete`, on disk after the next `save`."""
        self.runs.setdefault(run, {}).update(values)
        self._changed = True

    def save(self) -> None:
        """Write the file, if anything has changed."""
        if self._changed:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            atomic.write_json(self.path, self.runs)
            self._changed = False
