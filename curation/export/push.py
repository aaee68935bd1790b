"""Upload of an export to the Hub, with the account that `huggingface_hub` is logged in with."""

import re
from collections.abc import Sequence
from pathlib import Path

from curation.export.errors import ExportError

_NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")
_TOKEN = re.compile(r"\bhf_\w+")


def check_name(repository: str) -> None:
    """Raise ExportError if `repository` is not of the form ORG/NAME."""
    if not _NAME.fullmatch(repository) or ".." in repository or "--" in repository:
        raise ExportError(f"--push {repository[:100]!r} is not of the form ORG/NAME")


def listed(out: Path, companions: Sequence[Path]) -> list[tuple[str, Path]]:
    """(name in the repository, file) of everything that belongs to an export, sorted by name."""
    if out.is_dir():
        files = [(str(file.relative_to(out)), file) for file in out.rglob("*") if file.is_file()]
    else:
        files = [(out.name, out), *((name_of(out, file), file) for file in companions)]
    return sorted(files)


def name_of(out: Path, companion: Path) -> str:
    """The name of a file beside `out` in the repository: the card is its README.md."""
    own = companion.name.removeprefix(f"{out.name}.")
    return "README.md" if own == "card.md" else own


def push(repository: str, files: Sequence[tuple[str, Path]], *, private: bool, samples: int) -> str:
    """Upload `files` in one commit to the data set `repository`, made if need be; returns its address.

    Raises ExportError, without any token, if the Hub or the network refuses.
    """
    from huggingface_hub import CommitOperationAdd, HfApi
    from huggingface_hub.errors import HTTPError

    api = HfApi()
    try:
        url = api.create_repo(repository, repo_type="dataset", private=private, exist_ok=True)
        api.create_commit(
            repository,
            [CommitOperationAdd(path_in_repo=name, path_or_fileobj=str(file)) for name, file in files],
            commit_message=f"{samples:,} samples",
            repo_type="dataset",
        )
    except (OSError, ValueError, HTTPError) as error:
        text = _TOKEN.sub("hf_***", " ".join(str(error).split()))[:500]
        raise ExportError(
            f"{repository} could not be pushed, the export itself is complete: {text}"
        ) from error
    return str(url)
