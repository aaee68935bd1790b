"""The registry of producers, producers of the user's own, and the command line."""

import importlib
import io
import json
import re
import resource
import subprocess
import sys
from functools import partial

import pytest

from curation.catalogue import COMMANDS
from curation.command import CommandError, yaml_params
from curation.progress import duration, plain_lines, shown
from curation.signals.__main__ import find_model, main
from curation.signals.core.table import SignalError, read_metadata, read_signal
from curation.signals.custom import ProducerError, check_params, get_producer, produce_custom

OWN = """
import pyarrow as pa

CALLS = []

def words(pool, rows, *, power=1, model="none"):
    CALLS.append(rows)
    counts = [sum(len(t.answer.split()) for t in s.turns) ** power for s in pool.samples(rows)]
    return pa.table({"row": pa.array(rows, pa.int32()), "words": [c if c < 20 else None for c in counts]})

def dies(pool, rows):
    if rows.start == 20:
        raise RuntimeError("killed")
    return words(pool, rows)

def no_table(pool, rows): return list(rows)
def no_row(pool, rows): return pa.table({"words": [1] * len(rows)})
def wrong_rows(pool, rows): return pa.table({"row": [0] * len(rows), "words": [1] * len(rows)})
def swapped(rows, pool): return None
def fickle(pool, rows): return pa.table({"row": rows, "words": ["a" if rows.start else 1] * len(rows)})
def forgetful(pool, rows): return pa.table({"row": rows, "b" if rows.start else "a": [1] * len(rows)})
anything = 3
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A module of the user's own, importable as `own_signal`."""
    (tmp_path / "own_signal.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "own_signal", raising=False)
    importlib.invalidate_caches()
    yield importlib.import_module("own_signal")
    del sys.modules["own_signal"]


def test_every_built_in_producer_can_be_imported_and_writes_to_out():
    for name in COMMANDS:
        function = get_producer(name)
        parameters = function.__code__.co_varnames[
            : function.__code__.co_argcount + function.__code__.co_kwonlyargcount
        ]
        assert parameters[0] == "pool" and {"out", "on_progress"} <= set(parameters), name


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("losse", "did you mean 'losses'"),
        ("something", "must be one of capability, style"),
        ("no_such_module:f", "cannot be imported"),
        ("own_signal:wordz", "cannot be imported"),
        ("own_signal:swapped", "must be a function compute"),
        ("own_signal:anything", "must be a function compute"),
    ],
)
def test_a_producer_that_cannot_be_used_is_refused_with_what_to_do(own, name, message):
    with pytest.raises(ProducerError, match=message):
        get_producer(name)


def test_parameters_are_checked_by_signature(own):
    with pytest.raises(
        ProducerError, match=r"no parameter 'powr' .did you mean 'power'..; it takes power, model"
    ):
        check_params("own_signal:words", {"powr": 2})
    with pytest.raises(ProducerError, match="needs the parameter 'out'"):
        check_params("losses", {}, given=("pool", "model_dir"))
    with pytest.raises(ProducerError, match="no parameter 'x'; it takes none"):
        check_params("own_signal:no_table", {"x": 1})


def test_a_producer_of_ones_own_runs_shard_by_shard_and_is_kept(own, small_pool, tmp_path):
    seen = []
    summary = produce_custom(
        "own_signal:words",
        small_pool,
        tmp_path / "s",
        {"power": 2},
        shard_rows=16,
        on_progress=lambda *counts: seen.append(counts),
    )
    table = read_signal(tmp_path / "s", small_pool.hash)
    expected = [sum(len(t.answer.split()) for t in s.turns) ** 2 for s in small_pool.samples()]
    assert table["words"].to_pylist() == [c if c < 20 else None for c in expected]
    assert own.CALLS == [range(16), range(16, 32), range(32, 40)] and seen == [
        (0, 40),
        (16, 40),
        (32, 40),
        (40, 40),
    ]
    assert summary["nulls"] == {"words": sum(c >= 20 for c in expected)} and summary["samples_per_second"] > 0
    again = produce_custom("own_signal:words", small_pool, tmp_path / "s", {"power": 2}, shard_rows=16)
    assert (again["rows_kept"], again["rows_computed"], again["samples_per_second"]) == (40, 0, None)


def test_what_was_finished_before_a_crash_is_kept(own, small_pool, tmp_path):
    with pytest.raises(RuntimeError, match="killed"):
        produce_custom("own_signal:dies", small_pool, tmp_path / "s", shard_rows=10)
    own.dies = lambda pool, rows: own.words(pool, rows)
    own.dies.__code__ = own.dies.__code__.replace(co_filename=own.__file__)
    own.CALLS.clear()
    produce_custom("own_signal:dies", small_pool, tmp_path / "s", shard_rows=10)
    assert own.CALLS == [range(20, 30), range(30, 40)]


def test_other_parameters_or_another_source_are_another_signal(own, small_pool, tmp_path):
    out = tmp_path / "s"
    produce_custom("own_signal:words", small_pool, out, {"power": 2})
    first = read_metadata(out)["identity"]
    assert produce_custom("own_signal:words", small_pool, out, {"power": 1})["rows_computed"] == 40
    produce_custom("own_signal:words", small_pool, out, {"power": 2})
    assert read_metadata(out)["identity"] == first
    (tmp_path / "own_signal.py").write_text(OWN + "\n# changed\n")
    assert produce_custom("own_signal:words", small_pool, out, {"power": 2})["rows_computed"] == 40
    assert read_metadata(out)["identity"] != first


@pytest.mark.parametrize(
    ("function", "message"),
    [("no_table", "returned list"), ("no_row", "at least one more"), ("wrong_rows", "other rows")],
)
def test_a_result_that_does_not_fit_is_refused(own, small_pool, tmp_path, function, message):
    with pytest.raises(ValueError, match=message):
        produce_custom(f"own_signal:{function}", small_pool, tmp_path / "s")
    assert not (tmp_path / "s" / "signal.json").exists()


@pytest.mark.parametrize(
    ("function", "message"), [("fickle", "one type in one part"), ("forgetful", "different columns")]
)
def test_parts_that_do_not_fit_together_are_refused(own, small_pool, tmp_path, function, message):
    with pytest.raises(SignalError, match=message):
        produce_custom(f"own_signal:{function}", small_pool, tmp_path / "s", shard_rows=20)


def test_parameters_on_the_command_line_are_yaml():
    assert yaml_params(["terms=[full, a]", "dim=512", "name=text", "device=null"]) == {
        "terms": ["full", "a"], "dim": 512, "name": "text", "device": None,
    }  # fmt: skip
    for bad, message in (
        (["dim"], "expected key=value"),
        (["a=1", "a=2"], "given twice"),
        (["a=[1"], "not valid YAML"),
    ):
        with pytest.raises(CommandError, match=message):
            yaml_params(bad)


def test_the_command_computes_a_signal_with_a_model(small_pool, tiny_vlm_dir, tmp_path, capsys):
    arguments = [
        "losses",
        "--pool",
        str(small_pool.folder),
        "--model",
        str(tiny_vlm_dir),
        "--out",
        str(tmp_path / "s"),
    ]
    assert (
        main([*arguments, "--param", "terms=noimg", "--param", "prefix=base_", "--param", "device=cpu"]) == 0
    )
    printed = capsys.readouterr()
    assert (
        json.loads(printed.out)["rows"] == 40
        and "losses: 40 of 40 (100%)" in printed.err
        and "samples/s" in printed.err
    )
    assert read_signal(tmp_path / "s", small_pool.hash).column_names == ["row", "base_nll_noimg"]


def test_the_command_runs_a_producer_of_ones_own(own, small_pool, tmp_path, capsys):
    arguments = ["own_signal:words", "--pool", str(small_pool.folder), "--out", str(tmp_path / "s")]
    assert main([*arguments, "--param", "power=3", "--param", "shard_rows=30", "--model", str(tmp_path)]) == 0
    assert json.loads(capsys.readouterr().out)["parts"] == 2
    assert read_metadata(tmp_path / "s")["params"] == {"power": 3, "model": str(tmp_path)}


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["losses"], 2, "needs a model: give --model"),
        (["losses", "--model", "MODEL", "--param", "term=full"], 2, "did you mean 'terms'"),
        (["losses", "--model", "no/such/thing"], 2, "no such directory"),
        (["oracle", "--model", "MODEL", "--param", "truth=x"], 2, "takes no model"),
        (["oracle"], 2, "needs the parameter 'truth'"),
        (["own_signal:words", "--param", "powr=1"], 2, "did you mean 'power'"),
        (["own_signal:wrong_rows"], 1, "other rows"),
        (["own_signal:words", "--pool", "nowhere"], 1, "holds no finished pool"),
        (["losses", "--model", "MODEL", "--param", "terms=noimage"], 1, "unknown loss term 'noimage'"),
        (["embeddings", "--model", "MODEL", "--param", "layers=[7]"], 1, "the model has 2"),
        (["style", "--model", "MODEL", "--param", "prompts=compct"], 1, "shipped are compact"),
        (["clip", "--model", "MODEL"], 1, "not a dual encoder"),
    ],
)
def test_wrong_commands_end_with_one_line(
    own, small_pool, tiny_vlm_dir, tmp_path, capsys, arguments, status, message
):
    arguments = [str(tiny_vlm_dir) if a == "MODEL" else a for a in arguments]
    assert (
        main([arguments[0], "--pool", str(small_pool.folder), "--out", str(tmp_path / "s"), *arguments[1:]])
        == status
    )
    error = capsys.readouterr().err
    assert (
        error.splitlines()[-1].startswith("error: ")
        and message in error.splitlines()[-1]
        and "Traceback" not in error
    )


def test_a_hub_model_that_is_not_there_says_so(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ProducerError, match="was not found on the Hub"):
        find_model("some-organisation/some-model-that-is-not-here")


def test_help_loads_nothing_heavy():
    code = (
        "import sys\nfrom curation.signals.__main__ import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\n"
        "print([m for m in ('torch', 'transformers', 'pyarrow', 'numpy') if m in sys.modules])"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("[]\n") and "losses" in done.stdout
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1, "CPU seconds"


def test_plain_progress_tells_speed_and_time_left():
    now, lines = [0.0], []
    report = plain_lines("losses", 10, lines.append, lambda: now[0])
    for at, done in ((20, 0), (25, 10), (30, 100), (32, 120), (50, 300), (51, 1000)):
        now[0] = at
        report(done, 1000)
    assert lines == [
        "losses: 100 of 1,000 (10%), 10.0 samples/s, 90 s left",
        "losses: 300 of 1,000 (30%), 10.0 samples/s, 70 s left",
        "losses: 1,000 of 1,000 (100%), 700.0 samples/s",
    ]
    assert (duration(45), duration(720), duration(12_000)) == ("45 s", "12 min", "3 h 20 min")


def test_what_an_earlier_run_has_done_is_no_speed_of_this_one():
    now, lines = [0.0], []
    report = plain_lines("losses", 10, lines.append, lambda: now[0])
    for at, done in ((60, 900), (65, 910), (71, 922), (80, 1000)):
        now[0] = at
        report(done, 1000)
    assert lines == [
        "losses: 922 of 1,000 (92%), 2.0 samples/s, 39 s left",
        "losses: 1,000 of 1,000 (100%), 8.7 samples/s",
    ]
    plain_lines("losses", 10, lines.append, lambda: 5.0)(40, 40)
    assert lines[-1] == "losses: 40 of 40 (100%)"


def test_a_terminal_gets_a_bar_with_speed_and_time_left(monkeypatch):
    from rich import console, progress

    now, screen = [0.0], io.StringIO()
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setattr(
        console, "Console", partial(console.Console, file=screen, force_terminal=True, width=160)
    )
    monkeypatch.setattr(
        progress, "Progress", partial(progress.Progress, get_time=lambda: now[0], auto_refresh=False)
    )
    with shown("losses") as report:
        for at, done in ((60, 900), (61, 904), (70, 940)):
            now[0] = at
            report(done, 1000)
    shown_last = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", screen.getvalue()).splitlines()[-1]
    assert "losses" in shown_last and "940/1000" in shown_last
    assert "left 0:00:15" in shown_last and "4.0 samples/s" in shown_last, shown_last
