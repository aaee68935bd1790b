"""The data of a suite's benchmarks: what they are, fetching them into a local mirror, and checking a mirror.

    python -m evaluation.data list mm14
    python -m evaluation.data fetch mm14 rules --mirror benchmarks
    python -m evaluation.data verify mm14 --mirror benchmarks

A mirror is a folder with `organisation/name/` for each repository. `fetch` is the only command that uses the
network, and continues where it was stopped. `verify` reads every file; its status is 1 if a benchmark is not
as the suite expects it.
"""

import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from curation.command import CommandError, CommandParser, fail, path
from evaluation.mirror import Mirror, splits_of
from evaluation.repository import (
    Hashes,
    MirrorError,
    Record,
    Repository,
    configs_of,
    default_config,
    patterns_of,
    write_record,
)
from evaluation.suite import Benchmark, Data, Suite, load_suite

if TYPE_CHECKING:
    import argparse

MEGABYTE = 1e6


class HubError(MirrorError):
    """The hub cannot be reached at all, so that no other repository can be fetched either."""


@dataclass
class Need:
    """What the suites need of one repository: splits as (configuration, split), and a revision."""

    repo: str
    revision: str | None = None
    splits: dict[tuple[str | None, str], None] = field(default_factory=dict)


def needs(suites: Iterable[Suite]) -> list[Need]:
    """The repositories of all suites, each once. Raises CommandError if they ask for different revisions."""
    found: dict[str, Need] = {}
    for suite in suites:
        for data in (data for benchmark in suite for data in splits_of(benchmark) if data.repo):
            need = found.setdefault(str(data.repo), Need(str(data.repo), data.revision))
            if data.revision and need.revision and data.revision != need.revision:
                raise CommandError(
                    f"{data.repo}: revisions {need.revision} and {data.revision} are asked for; "
                    "fetch the suites into different mirrors"
                )
            need.revision = need.revision or data.revision
            need.splits[data.config, data.split] = None
    return list(found.values())


def fetch(need: Need, mirror: Path) -> str:
    """Download the Parquet files of a repository's splits into the mirror; returns what was done.

    Without a revision, a repository stays at the one that it has. The record of the download is written last.
    Raises HubError if the hub cannot be reached, MirrorError for everything else that can go wrong.
    """
    folder = mirror / need.repo
    repository = Repository(folder, need.repo)
    before = repository.record()
    if before and need.revision not in (None, before.revision):
        raise MirrorError(
            f"{folder} is at revision {before.revision}, and {need.revision} is asked for: "
            "remove the folder or fetch into another mirror"
        )
    with _explained(need.repo):
        revision, published = _published(need.repo, before.revision if before else need.revision)
        _download(need.repo, revision, folder, ["README.md"])
        _download(need.repo, revision, folder, ["README.md", *_patterns(folder, need)])
    files = [file for config, split in need.splits for file in repository.files(config, split)]
    hashes = Hashes(mirror / ".arrow" / "hashes.json", mirror)
    sizes = {file.relative_to(folder).as_posix(): (file.stat().st_size, hashes.of(file)) for file in files}
    for name, (_, digest) in sizes.items():
        if published.get(name, digest) != digest:
            raise MirrorError(f"{folder / name} has arrived damaged: delete it and fetch again")
    write_record(folder, Record(need.repo, revision, {**(before.files if before else {}), **sizes}))
    megabytes = sum(size for size, _ in sizes.values()) / MEGABYTE
    return f"{len(sizes)} files, {megabytes:,.1f} MB, revision {revision[:12]}"


def _published(repo: str, revision: str | None) -> tuple[str, dict[str, str]]:
    """The commit of a revision (default: the newest), and the sha256 of its large files by name."""
    from huggingface_hub import HfApi

    info = HfApi().dataset_info(repo, revision=revision, files_metadata=True)
    large = {file.rfilename: file.lfs.sha256 for file in info.siblings or () if file.lfs}
    return str(info.sha), large


def _download(repo: str, revision: str, folder: Path, patterns: Sequence[str]) -> None:
    from huggingface_hub import snapshot_download

    snapshot_download(
        repo,
        repo_type="dataset",
        revision=revision,
        local_dir=folder,
        allow_patterns=list(patterns),
    )


def _patterns(folder: Path, need: Need) -> Iterator[str]:
    """Patterns of the files of the needed splits: those of README.md, else the usual names."""
    configs = configs_of(folder / "README.md")
    for config, split in need.splits:
        entry = configs.get(config or default_config(configs) or "", {})
        if named := patterns_of(entry).get(split):
            yield from named
        else:
            place = f"{entry.get('data_dir') or config or 'data'}/"
            yield from (f"{place}{split}-*.parquet", f"{place}{split}.parquet")
            if not config:
                yield from (f"{split}-*.parquet", f"{split}.parquet")


@contextmanager
def _explained(repo: str) -> Iterator[None]:
    """Errors of the hub's client as MirrorError with what to do."""
    from huggingface_hub import errors

    try:
        yield
    except errors.GatedRepoError as error:
        raise MirrorError(
            f"{repo} asks for its terms to be accepted: accept them on its page, and give a token (HF_TOKEN)"
        ) from error
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError) as error:
        raise MirrorError(
            f"{repo} or the revision that is asked for does not exist, or is private"
        ) from error
    except (
        errors.HTTPError,  # of the client's own HTTP library, which differs between its versions
        errors.LocalEntryNotFoundError,
        errors.OfflineModeIsEnabled,
        ConnectionError,
    ) as error:
        raise HubError(
            f"{repo}: the hub cannot be reached ({type(error).__name__}): fetch on a machine with a network, "
            "and copy the mirror"
        ) from error


def fetch_all(suites: Sequence[Suite], mirror: Path) -> int:
    """Fetch every repository of the suites, a line for each. Returns 1 if anything is missing in the end."""
    mirror.mkdir(parents=True, exist_ok=True)
    wanted, failed = needs(suites), 0
    for need in wanted:
        try:
            print(f"{need.repo}: {fetch(need, mirror)}", flush=True)
        except HubError:
            raise
        except MirrorError as error:
            failed += 1
            print(f"{need.repo}: FAILED: {error}", flush=True)
    placed = {data.file for suite in suites for b in suite for data in splits_of(b) if data.file}
    missing = sorted(file for file in placed if not (mirror / file).is_file())
    for file in missing:
        print(f"{file}: NOT FETCHED: it is in no repository; place it in {mirror}")
    print(f"fetched {len(wanted) - failed} of {len(wanted)} repositories into {mirror}")
    return int(bool(failed or missing))


def verify_all(suites: Sequence[Suite], folder: Path) -> int:
    """Check columns, counts and hashes of every benchmark, a line for each. Returns 1 if any is wrong."""
    mirror = Mirror(folder, fresh=True)
    benchmarks = {b.model_dump_json(): b for suite in suites for b in suite}.values()
    wrong = 0
    for benchmark in benchmarks:
        try:
            print(f"ok     {benchmark.name}: {_verified(mirror, benchmark)}", flush=True)
        except MirrorError as error:
            wrong += 1
            print(f"WRONG  {benchmark.name}: {error}", flush=True)
    print(f"{len(benchmarks) - wrong} of {len(benchmarks)} benchmarks in {folder} are as the suite expects")
    return int(bool(wrong))


def _verified(mirror: Mirror, benchmark: Benchmark) -> str:
    """What was found for one benchmark. Raises MirrorError."""
    mirror.check(benchmark, strict=True)
    data = splits_of(benchmark)
    record = mirror.repository(data[0]).record() if data[0].repo else None
    for split in data if record is None else ():  # nothing to compare a hash with: are all pages readable?
        mirror.read(split)
    questions = sum(mirror.questions(benchmark, task) for task in benchmark.tasks)
    origin = f"revision {record.revision[:12]}" if record else "no record of a download"
    return f"{questions:,} questions, {origin}"


def print_list(suites: Sequence[Suite], mirror: Path | None) -> None:
    """A table of the suites' benchmarks, each once. Sizes are the suite's, else measured in the mirror."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(title="Benchmarks", title_justify="left")
    for heading in ("benchmark", "repository", "configuration", "split", "revision", "licence", "judge"):
        table.add_column(heading, overflow="fold")
    for heading in ("MB", "questions"):
        table.add_column(heading, justify="right")
    benchmarks = {(b.name, b.data): b for suite in suites for b in suite}.values()
    held = Mirror(mirror) if mirror else None
    for benchmark in benchmarks:
        table.add_row(*(escape(cell) for cell in _cells(benchmark, held)))
    Console(width=None if sys.stdout.isatty() else 160).print(table)
    print(f"{len(benchmarks)} benchmarks in {len(needs(suites))} repositories")


def _cells(benchmark: Benchmark, mirror: Mirror | None) -> list[str]:
    data, expected = benchmark.data, benchmark.expected
    configs = list(dict.fromkeys(split.config or "-" for split in splits_of(benchmark)))
    megabytes = data.megabytes if data.megabytes is not None else _megabytes(benchmark, mirror)
    return [
        benchmark.name,
        data.repo or f"file {data.file}",
        configs[0] if len(configs) == 1 else f"{len(configs)} configurations",
        data.split,
        _revision(data, mirror),
        data.licence or "not stated",
        benchmark.judge.kind if benchmark.judge else "no",
        "-" if megabytes is None else f"{megabytes:,.1f}",
        "-" if expected is None else f"{expected:,}",
    ]


def _megabytes(benchmark: Benchmark, mirror: Mirror | None) -> float | None:
    """Size of the benchmark's files in the mirror; None if they are not there."""
    if mirror is None:
        return None
    try:
        files = {file for data in splits_of(benchmark) for file in mirror.files(data)}
    except MirrorError:
        return None
    return sum(file.stat().st_size for file in files) / MEGABYTE


def _revision(data: Data, mirror: Mirror | None) -> str:
    """The revision that the suite asks for, else the one that the mirror has."""
    held = Repository(mirror.folder / data.repo, data.repo).record() if mirror and data.repo else None
    return (data.revision or (held.revision if held else "-"))[:12]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    options = _parser().parse_args(arguments)
    try:
        suites = [load_suite(name) for name in options.suites]
        if options.only:
            suites = [suite.only(tuple(options.only.split(","))) for suite in suites]
        return int(_run(options, suites) or 0)
    except (CommandError, ValueError) as error:
        return fail(error, 2)
    except (MirrorError, OSError) as error:
        return fail(error, 1)
    except KeyboardInterrupt:
        print("stopped; the same command continues", file=sys.stderr)
        return 130


def _run(options: "argparse.Namespace", suites: Sequence[Suite]) -> Any:
    if options.command == "list":
        return print_list(suites, options.mirror)
    if options.mirror is None:
        raise CommandError(f"{options.command} needs --mirror DIR")
    return (fetch_all if options.command == "fetch" else verify_all)(suites, options.mirror)


def _parser() -> CommandParser:
    import argparse

    parser = CommandParser(
        prog="python -m evaluation.data",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("command", choices=("list", "fetch", "verify"))
    parser.add_argument(
        "suites", nargs="+", metavar="SUITE", help="name of a suite, or path of its YAML file"
    )
    parser.add_argument("--mirror", type=path, metavar="DIR", help="folder of the benchmarks' data")
    parser.add_argument("--only", metavar="A,B", help="these benchmarks of the suites only")
    return parser


if __name__ == "__main__":
    sys.exit(main())
