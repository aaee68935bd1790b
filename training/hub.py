"""Checkpoints by name: those that ship with the project, and those on the Hugging Face Hub."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

HUB_ID = r"[A-Za-z0-9][\w.-]*/[\w.-]+"
FILES = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja"]


class HubError(ValueError):
    """A checkpoint that is neither a directory nor found on the Hub."""


@dataclass(frozen=True)
class HubModel:
    """`name` (organisation/name) at `revision`, a commit or tag; None is the newest."""

    name: str
    revision: str | None = None

    def __str__(self) -> str:
        return f"{self.name}@{self.revision}" if self.revision else self.name


def local_copy(source: str | Path, revision: str | None = None, files: Sequence[str] = FILES) -> Path:
    """The directory of a checkpoint: `source` itself, or its snapshot from the Hub, downloaded if needed.

    `files`: patterns of what is downloaded; of weights only safetensors, if not given. Raises HubError when
    `source` is neither.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    if Path(source).is_dir():
        return Path(source)
    try:
        return Path(snapshot_download(str(source), revision=revision, allow_patterns=list(files)))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        at = f" at {revision}" if revision else ""
        raise HubError(f"{source}{at} is not a directory and was not found on the Hub ({error})") from error
