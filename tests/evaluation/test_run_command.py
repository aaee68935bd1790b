"""The command that evaluates a checkpoint without a recipe: what it prints, keeps, refuses and returns."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from benchmark_mirror import write_mirror
from chat_server import serve
from evaluation_data import QUESTIONS, bench, toy_suite
from processes import environment, wait_for

from evaluation.printed import mean_line, print_result
from evaluation.run import main, parser
from evaluation.suite import Unit

N = 2 * len(QUESTIONS)
HEAVY = {"torch", "transformers", "pydantic", "numpy", "rich", "yaml", "pyarrow", "lmms_eval"}


@pytest.fixture
def command(bench_dir, tmp_path):
    """command(*options) -> exit status of an evaluation of two mini benchmarks into tmp_path/out."""

    def run(*options: str, checkpoint: str = "builtin:mini", tasks: str = "mini_ocr,mini_data") -> int:
        place = ["--suite", "mini", "--data", str(bench_dir), "--out", str(tmp_path / "out")]
        return main([checkpoint, *place, *(["--tasks", tasks] if tasks else []), *options])

    return run


# --- words and refusals ---------------------------------------------------------------------------------


@pytest.mark.parametrize("module", ["evaluation.run", "evaluation.imported"])
def test_help_needs_no_heavy_import(module):
    code = f"import sys, {module} as m; m.parser().format_help(); print({HEAVY!r} & set(sys.modules) or 0)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment())
    assert (done.returncode, done.stdout) == (0, "0\n"), done.stderr[-500:]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--judge-model", "m"], "a judge needs --judge-server and --judge-model"),
        (["--judge-server", "vllm"], "a judge needs --judge-server and --judge-model"),
        (["--judge-server", "x", "--judge-model", "m"], "must be one of vllm, sglang, openai, or a URL"),
        (["--judge-server", "vllm", "--judge-model", "m", "--not-judged"], "exclude each other"),
        (
            ["--judge-server", "vllm", "--judge-model", "m", "--judge-max-cost", "1"],
            "--judge-max-cost needs --judge-prices",
        ),
    ],
)
def test_half_a_judge_is_refused(command, capsys, options, message):
    assert command(*options) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error and error.count("\n") == 1


@pytest.mark.parametrize(
    "option", [["--judge-prices", "1"], ["--batch-size", "0"], ["--judge-max-cost", "x"]]
)
def test_wrong_values_are_a_line_of_usage(command, capsys, option):
    with pytest.raises(SystemExit) as stop:
        command(*option)
    assert stop.value.code == 2 and capsys.readouterr().err.startswith("error: argument")


def test_an_unknown_suite_benchmark_or_folder_is_refused(command, bench_dir, tmp_path, capsys):
    assert command(tasks="mini_smell") == 2
    assert "has no benchmark mini_smell" in capsys.readouterr().err
    place = ["--data", str(bench_dir), "--out", str(tmp_path / "out")]
    assert main(["x", "--suite", "none", *place]) == 2
    assert "suite 'none' does not exist" in capsys.readouterr().err
    assert main(["x", "--suite", "mini", "--data", "gone", "--out", str(tmp_path)]) == 2
    assert capsys.readouterr().err == "error: mirror gone does not exist, or is no folder\n"
    assert not (tmp_path / "out").exists()


def test_a_judge_that_is_needed_is_asked_for_before_the_data_are_read(tmp_path, capsys):
    place = ["--data", "gone", "--out", str(tmp_path)]
    assert main(["x", "--suite", "mm14", *place]) == 2
    error = capsys.readouterr().err
    assert "mmvet, mathvista of suite 'mm14' need a judge" in error and "--not-judged" in error


def test_prices_are_dollars_per_million_tokens():
    place = ["x", "--suite", "s", "--data", "d", "--out", "o"]
    assert parser().parse_args([*place, "--judge-prices", "2.5,10"]).judge_prices == (2.5, 10.0)


# --- the printed result ------------------------------------------------------------------------------------


def entry(**values) -> dict:
    counts = {"n": 10, "units": 10, "unparsed": 1, "truncated": 0}
    return {"value": 0.5, "stderr": 0.1, "chance": 0.25, "lenient": 0.6, "shuffled": None} | counts | values


def test_data_that_are_incomplete_are_said_aloud_in_the_units_of_the_suite(capsys):
    turned = Unit(by=("index",), modulo=100)
    suite = toy_suite(
        bench("whole", "W", tasks=[{"task": "w", "n": 10}]),
        bench("part", "P", tasks=[{"task": "p", "n": 1000}]),
        bench("turned", "T", tasks=[{"task": "t", "n": 5}], unit=turned),
    )
    entries = {"whole": entry(), "part": entry(), "turned": entry(units=5)}
    print_result(suite, {"benchmarks": entries, "protocol": {"limit": None}})
    said = capsys.readouterr().out
    assert "incomplete data: part has 10 questions instead of 1,000" in said
    assert said.count("incomplete") == 1 and "limit" not in said
    print_result(suite, {"benchmarks": entries, "protocol": {"limit": 10}})
    said = capsys.readouterr().out
    assert "limit: only the first 10 questions of each task" in said and "incomplete" not in said


def test_a_missing_benchmark_leaves_no_mean():
    suite = toy_suite(bench("a", "A"), bench("b", "B", scale=100))
    entries = {"a": entry(), "b": entry(value=70)}
    assert mean_line(suite, entries).endswith(": 60.00")
    assert mean_line(suite, entries | {"b": {"missing": "why"}}) == "no mean: a benchmark is missing"


# --- with a model ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def lmms():
    return pytest.importorskip("lmms_eval", reason="evaluation needs the [eval] extra")


@pytest.mark.slow
def test_a_second_call_loads_no_model_and_both_are_what_the_harness_writes(
    lmms, command, bench_dir, tmp_path, capsys, monkeypatch
):
    from evaluation import respondent
    from evaluation.answering import Settings
    from evaluation.harness import evaluate
    from training.builtin import BUILTIN

    assert command("--batch-size", "5", "--shuffled", "--dtype", "float32") == 0
    said = capsys.readouterr().out
    assert f"template training, float32, engine hf; 2 benchmarks of mini, {4 * N} questions\n" in said
    assert "OCR" in said and "mean over 2 benchmarks" in said and "shuffled" in said
    evaluate(
        BUILTIN["builtin:mini"],
        "mini",
        data=bench_dir,
        out=tmp_path / "same",
        only=["mini_ocr", "mini_data"],
        shuffled=True,
        settings=Settings(batch_size=5, dtype="float32"),
    )
    names = ("scores.parquet", "summary.json")
    first = {name: (tmp_path / "out" / name).read_bytes() for name in names}
    assert first == {name: (tmp_path / "same" / name).read_bytes() for name in names}

    def load(*arguments):
        raise AssertionError("a model is loaded")

    monkeypatch.setattr(respondent, "open_engine", load)
    assert command("--batch-size", "5", "--shuffled", "--dtype", "float32") == 0
    assert f"{4 * N} questions, {4 * N} of them answered before" in capsys.readouterr().out
    assert first == {name: (tmp_path / "out" / name).read_bytes() for name in names}
    assert command("--batch-size", "5", "--dtype", "float32", "--limit", "3") == 0
    assert "limit: only the first 3" in capsys.readouterr().out


@pytest.mark.slow
def test_what_is_no_image_text_to_text_checkpoint_is_refused_before_anything_is_asked(
    lmms, command, tmp_path, capsys
):
    from tiny_models import build_text_models

    (tmp_path / "empty").mkdir()
    _, text = build_text_models(tmp_path / "models")
    for checkpoint, message in (
        (str(tmp_path / "empty"), "has no config.json"),
        (str(text), "does not turn images and text into text"),
        ("gone/model", "is not a directory and was not found on the Hub"),
        ("builtin:none", "is not a directory and was not found on the Hub"),
    ):
        assert command(checkpoint=checkpoint) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_ctrl_c_keeps_the_answers(lmms, bench_dir, tmp_path):
    out = tmp_path / "out"
    place = ["--suite", "mini", "--data", str(bench_dir), "--out", str(out), "--batch-size", "1"]
    process = subprocess.Popen(
        [sys.executable, "-m", "evaluation.run", "builtin:mini", *place],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    )
    try:
        wait_for(lambda: any(f.read_bytes().count(b"\n") > 2 for f in out.glob("answers/*")), 200)
        os.kill(process.pid, signal.SIGINT)
        _, said = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    last = said.splitlines()[-1]
    assert last.startswith("stopped; ") and "the same command continues" in last
    kept = sum(file.read_bytes().count(b"\n") - 1 for file in out.glob("answers/*"))
    assert f"{kept:,} answers are kept" in last and not (out / "summary.json").exists()


@pytest.mark.slow
def test_a_judge_that_fails_leaves_its_benchmark_out_with_status_1(lmms, tmp_path, capsys, monkeypatch):
    from evaluation import respondent
    from evaluation.journal import Answer

    mirror = write_mirror(tmp_path / "mirror", repositories=["lmms-lab-encoder/MMVet", "Lin-Chen/MMStar"])
    place = ["--suite", "mm14", "--tasks", "mmvet,mmstar", "--data", str(mirror)]

    def answers(self, questions):
        yield [(question, "hash", Answer("A", False, 1)) for question in questions]

    monkeypatch.setattr(respondent.Checkpoint, "answers", answers)

    def run(out: str, *judge: str) -> tuple[int, str, dict]:
        status = main(["builtin:mini", *place, "--out", str(tmp_path / out), *judge])
        return status, capsys.readouterr().out, json.loads((tmp_path / out / "summary.json").read_text())

    with serve(answer=lambda body: "0.5") as server:
        judge = ["--judge-server", server.url, "--judge-model", "m", "--judge-version", "v"]
        status, said, summary = run("judged", *judge, "--judge-prices", "2,10")
    assert status == 0 and summary["benchmarks"]["mmvet"]["value"] == 50
    assert "judge of mmvet: " in said and ", $0.0" in said and "incomplete data: mmvet" in said
    assert summary["protocol"]["judges"]["mmvet"]["judge_version"] == "v"

    with serve(answer=lambda body: "7") as server:
        judge = ["--judge-server", server.url, "--judge-model", "m"]
        status, said, summary = run("failed", *judge)
    assert status == 1 and "value" not in summary["benchmarks"]["mmvet"]
    assert "missing: mmvet: " in said and "no mean: a benchmark is missing" in said
    assert summary["benchmarks"]["mmstar"]["n"] == 24

    status, said, summary = run("left", "--not-judged")
    assert status == 0 and summary["benchmarks"]["mmvet"] == {"missing": "not judged"}
    assert summary["protocol"]["not_judged"] == ["mmvet"] and "mean over 1 benchmark, in" in said


def test_a_file_where_the_results_should_be_is_refused(tmp_path):
    from evaluation import run

    (tmp_path / "out").write_text("a file")
    with pytest.raises(FileExistsError):
        run.prepared(tmp_path / "out")
    assert issubclass(FileExistsError, run.refusals())


def test_each_benchmark_that_is_judged_is_counted_from_the_start(capsys):
    from evaluation.run import _bar

    with _bar("judgements") as progress:
        for done, total in ((1, 2), (2, 2), (1, 1), (1, 3), (3, 3)):
            progress(done, total)
    said = capsys.readouterr().err.splitlines()
    assert [line.split(",")[0] for line in said] == [
        *("judgements: 2 of 2 (100%)", "judgements: 1 of 1 (100%)", "judgements: 3 of 3 (100%)")
    ]
    assert not any("-" in line for line in said)


def test_stopping_restores_the_handlers():
    from evaluation.run import stoppable, stopped

    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt) as stop, stoppable():
        signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is before
    assert stopped(stop.value, Path("gone")) == 128 + signal.SIGTERM
