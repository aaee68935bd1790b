"""Evaluate any Hugging Face image-text-to-text checkpoint on a suite of benchmarks, without a recipe.

    python -m evaluation.run builtin:mini --suite mini --data bench --out eval/mini
    python -m evaluation.run organisation/model --suite mm14 --data benchmarks --out eval/model --workers 8 \\
        --judge-server vllm --judge-model Qwen/Qwen2.5-32B-Instruct

Writes answers/, judgements/, scores.parquet and summary.json (`evaluation.harness`). Answers are kept as they
are made: the same command continues after a stop, and asks no model if every answer is there. Exit status: 0,
or 1 if a benchmark has no value since its judge failed, 2 for wrong usage, data or checkpoint, 128 + n if
signal n stopped it.
"""

import argparse
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from curation.command import CommandError, CommandParser, fail, path, whole_number

if TYPE_CHECKING:
    from evaluation.answering import Part, Settings
    from evaluation.judge import JudgeServer
    from evaluation.kept import Identity
    from evaluation.opened import Opened

JUDGE = ("server", "model", "version", "key_env", "max_cost", "prices")
DTYPES = ("auto", "float32", "bfloat16", "float16")


class _Stopped(KeyboardInterrupt):
    """A signal asked this process to stop."""

    number = int(signal.SIGINT)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    return run_command(parser().parse_args(arguments), _run)


def run_command(options: argparse.Namespace, run: Callable[[argparse.Namespace], int]) -> int:
    """The exit status of `run(options)`: 2 for what it refuses, 128 + n for signal n."""
    with stoppable():
        try:
            return run(options)
        except refusals() as error:
            return fail(error, 2)
        except KeyboardInterrupt as stop:
            return stopped(stop, options.out)


def _run(options: argparse.Namespace) -> int:
    from evaluation.harness import answer_suite
    from evaluation.printed import print_result
    from evaluation.respondent import Checkpoint

    server = judge_of(options)
    opened = open_for(options, server)
    checkpoint, settings = checkpoint_of(options.checkpoint), settings_of(options)
    respondent = Checkpoint(checkpoint, settings)
    about = respondent.identity
    out = prepared(options.out)
    _announce(options, about, opened)
    with _bar("answers") as progress:
        answer_suite(
            opened,
            respondent,
            out / "answers",
            data=options.data,
            shuffled=options.shuffled,
            on_progress=progress,
        )
    summary, judged = judged_and_scored(opened, server, settings, about, out)
    print_result(opened.suite, summary, judged)
    return status_of(opened, summary)


def judged_and_scored(
    opened: "Opened", server: "JudgeServer | None", settings: "Settings | None", about: "Identity", out: Path
) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """The last two stages on the answers in `out`: the summary, and what the judge said and cost."""
    from evaluation.harness import score_suite
    from evaluation.judging import judge_suite

    with _bar("judgements") as progress:
        judged = judge_suite(
            opened, [out / "answers"], server, out / "judgements", about=about, on_progress=progress
        )
    return score_suite(opened, [out / "answers"], judged, out, settings, about), judged


def status_of(opened: "Opened", summary: Mapping[str, Any]) -> int:
    """1 if a benchmark of the suite has no value, else 0."""
    return int(any("missing" in summary["benchmarks"][benchmark.name] for benchmark in opened.suite))


def prepared(out: Path) -> Path:
    """The folder of the results, made, without the summary that would mark it as finished."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "summary.json").unlink(missing_ok=True)
    return out


def _announce(options: argparse.Namespace, about: "Identity", opened: "Opened") -> None:
    """Say what is asked, how, and how much of it is known already."""
    from evaluation.harness import all_parts

    parts = all_parts(opened, options.shuffled)
    total = sum(len(part.indices) for part in parts)
    known = sum(_known(options.out / "answers", part, about) for part in parts)
    print(
        f"{options.checkpoint}: template {about['template']}, {about['dtype']}, engine {about['engine']}; "
        f"{len(opened.suite)} benchmarks of {opened.suite.name}, {total:,} questions"
        + (f", {known:,} of them answered before" if known else ""),
        flush=True,
    )


def _known(folder: Path, part: "Part", about: "Identity") -> int:
    """How many of the part's answers are in the folder."""
    from evaluation.journal import path_of, read

    file = path_of(folder, part.name, part.identity(about))
    return len(read(file)[1].keys() & set(part.indices)) if file.is_file() and file.stat().st_size else 0


def checkpoint_of(name: str) -> Path:
    """The directory of a checkpoint: a shipped one, a folder, or the local copy of a Hub id.

    Raises CheckpointError, HubError.
    """
    from evaluation.model import check_checkpoint
    from training.builtin import BUILTIN
    from training.hub import local_copy

    own = Path(name).expanduser()
    folder = local_copy(BUILTIN.get(name, own if own.exists() else name))
    check_checkpoint(folder)
    return folder


def settings_of(options: argparse.Namespace) -> "Settings":
    """How the checkpoint is asked."""
    from evaluation.answering import Settings

    names = ("batch_size", "max_batch_tokens", "dtype", "template", "engine", "loaders", "device", "workers")
    return Settings(**{name: getattr(options, name) for name in names})


def open_for(options: argparse.Namespace, server: "JudgeServer | None") -> "Opened":
    """The suite that the options name, on its data.

    Raises CommandError, EvaluationError, MirrorError; before the data are read if a judge is needed and none
    is given.
    """
    from evaluation.opened import open_suite
    from evaluation.suite import load_suite

    only = tuple(options.tasks.split(",")) if options.tasks else None
    try:
        suite = load_suite(options.suite)
        judged = [b.name for b in (suite.only(only) if only else suite) if b.judge]
        if judged and server is None and not options.not_judged:
            raise CommandError(
                f"{', '.join(judged)} of suite {suite.name!r} need a judge: give --judge-server and "
                "--judge-model, or --not-judged to leave them out"
            )
        return open_suite(suite, options.data, only=only, limit=options.limit, not_judged=options.not_judged)
    except ValueError as error:  # of the suite, or a limit that splits a unit
        raise CommandError(str(error)) from error


def judge_of(options: argparse.Namespace) -> "JudgeServer | None":
    """The judge that the options name, None without one. Raises CommandError."""
    from evaluation.judge import PRESETS, JudgeServer

    given = [name for name in JUDGE if getattr(options, f"judge_{name}") is not None]
    if options.not_judged or not given:
        if given:
            raise CommandError("--not-judged and a judge exclude each other")
        return None
    if options.judge_server is None or options.judge_model is None:
        raise CommandError("a judge needs --judge-server and --judge-model")
    prices = options.judge_prices or (0.0, 0.0)
    if options.judge_max_cost is not None and not any(prices):
        raise CommandError("--judge-max-cost needs --judge-prices IN,OUT, in US dollars per million tokens")
    name = options.judge_server
    if name not in PRESETS and "://" not in name:
        raise CommandError(f"--judge-server {name!r}: must be one of {', '.join(PRESETS)}, or a URL")
    return JudgeServer(
        options.judge_model,
        options.judge_version or "",
        PRESETS.get(name, name),
        options.judge_key_env,
        max_cost_usd=options.judge_max_cost,
        input_price=prices[0],
        output_price=prices[1],
    )


@contextmanager
def _bar(name: str) -> Iterator[Any]:
    """A bar on stderr for each count from 1 up; what is all there shows none."""
    from curation.progress import shown

    with ExitStack() as stack:
        report: Any = None
        last = 0

        def progress(done: int, total: int) -> None:
            nonlocal report, last
            if report is None or done <= last:  # the next benchmark's judgements
                stack.close()
                report = stack.enter_context(shown(name))
            report(done, total)
            last = done

        yield progress


# ---------------------------------------------------------------------------------- stops and refusals


@contextmanager
def stoppable() -> Iterator[None]:
    """SIGTERM and SIGHUP inside the block stop it as Ctrl-C does."""

    def stop(number: int, frame: FrameType | None) -> None:
        stopped = _Stopped()
        stopped.number = number
        raise stopped

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def stopped(stop: KeyboardInterrupt, out: Path) -> int:
    """Say what is kept; returns the exit status."""
    folder = out / "answers"
    kept = sum(file.read_bytes().count(b"\n") - 1 for file in folder.glob("*.jsonl") if file.stat().st_size)
    print(f"stopped; {kept:,} answers are kept in {folder}, the same command continues", file=sys.stderr)
    return 128 + getattr(stop, "number", int(signal.SIGINT))


def refusals() -> tuple[type[Exception], ...]:
    """The errors that say in one sentence what is wrong with a command, its files or its checkpoint."""
    from curation.teacher.chat import ChatSetupError
    from evaluation.answer import AnswerError
    from evaluation.engines import EngineError
    from evaluation.foreign import ForeignError
    from evaluation.journal import AnswersError
    from evaluation.judge_prompt import PromptError
    from evaluation.mirror import MirrorError
    from evaluation.model import CheckpointError
    from evaluation.prompts import TemplateError
    from evaluation.questions import EvaluationError
    from training.hub import HubError

    return (
        *(CommandError, EvaluationError, MirrorError, CheckpointError, TemplateError, HubError),
        *(
            AnswerError,
            AnswersError,
            EngineError,
            ForeignError,
            ChatSetupError,
            PromptError,
            ImportError,
            OSError,
        ),
    )


# ------------------------------------------------------------------------------------------ arguments


def parser() -> CommandParser:
    """The parser of the command line."""
    own = CommandParser(
        prog="python -m evaluation.run",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    own.add_argument(
        "checkpoint", metavar="CHECKPOINT", help="a folder, a Hub id or a shipped one (builtin:mini)"
    )
    add_suite(own)
    add_judge(own)
    asked = own.add_argument_group("how the checkpoint is asked")
    asked.add_argument("--shuffled", action="store_true", help="also with the images of other questions")
    asked.add_argument("--batch-size", type=whole_number(1), default=64, metavar="N")
    asked.add_argument(
        "--max-batch-tokens",
        type=whole_number(1),
        metavar="N",
        help="limit of rows x longest prompt of a batch, image tokens counted",
    )
    asked.add_argument("--dtype", choices=DTYPES, default="auto")
    asked.add_argument("--template", choices=("auto", "training", "checkpoint"), default="auto")
    asked.add_argument("--engine", default="hf", metavar="hf|vllm|URL")
    asked.add_argument("--workers", type=whole_number(1), default=1, metavar="N", help="one for each GPU")
    asked.add_argument(
        "--loaders", type=whole_number(0), default=0, metavar="N", help="decode images ahead of the model"
    )
    asked.add_argument("--device", help="such as cuda:1 or cpu; default: the first GPU if there is one")
    return own


def add_suite(own: CommandParser) -> None:
    """The options that say what is evaluated, and where data and results are."""
    own.add_argument("--suite", required=True, help="name of a suite, or path of its YAML file")
    own.add_argument("--data", required=True, type=path, metavar="DIR", help="folder of the benchmarks' data")
    own.add_argument("--out", required=True, type=path, metavar="DIR", help="folder of the results")
    own.add_argument("--limit", type=whole_number(1), metavar="N", help="only the first N of each task")
    own.add_argument("--tasks", metavar="A,B", help="only these benchmarks of the suite")


def add_judge(own: CommandParser) -> None:
    """The options of the judge."""
    judge = own.add_argument_group("the judge of benchmarks that need one")
    judge.add_argument("--judge-server", metavar="vllm|sglang|openai|URL")
    judge.add_argument("--judge-model", metavar="M", help="its name on the server")
    judge.add_argument("--judge-version", metavar="V", help="what the name does not say of the weights")
    judge.add_argument("--judge-key-env", metavar="NAME", help="environment variable with the key")
    judge.add_argument("--judge-max-cost", type=_dollars, metavar="USD")
    judge.add_argument("--judge-prices", type=_prices, metavar="IN,OUT", help="US dollars per million tokens")
    judge.add_argument("--not-judged", action="store_true", help="leave out what needs a judge")


def _dollars(text: str) -> float:
    """Type of an argument that must be a number of at least 0."""
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text[:80]!r} must be a number of at least 0")
    return number


def _prices(text: str) -> tuple[float, float]:
    """Type of two prices, input and output."""
    parts = text.split(",")
    if len(parts) != 2:
        raise argparse.ArgumentTypeError(f"{text[:80]!r} must be two prices, such as 2.5,10")
    return _dollars(parts[0]), _dollars(parts[1])


if __name__ == "__main__":
    sys.exit(main())
