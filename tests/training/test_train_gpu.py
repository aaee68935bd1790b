"""The GPU benchmark runs on a CPU, with the code that runs on a GPU, and its rungs train on the same
numbers."""

import importlib.util
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    source = Path(__file__).parents[1] / "benchmarks" / "train_gpu.py"
    spec = importlib.util.spec_from_file_location("train_gpu", source)
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "train_gpu", module)  # dataclasses look their module up
        spec.loader.exec_module(module)
        return module.main(["--tiny", "--out", str(tmp_path_factory.mktemp("gpu") / "tiny.json")])


def test_all_rungs_train_on_the_same_numbers(result):
    rungs = {row["rung"]: row for row in result["ladder"]}
    assert list(rungs) == ["padded", "grouped", "packed", "varlen", "chunked", "compile"]
    for name in ("packed", "varlen", "chunked", "compile"):
        assert rungs[name]["losses"] == pytest.approx(rungs["padded"]["losses"], abs=2e-4)
        assert rungs[name]["padding"] == 0 < rungs["padded"]["padding"]
        assert rungs[name]["text_tokens"] == rungs["padded"]["text_tokens"]
    assert rungs["grouped"]["padding"] < rungs["padded"]["padding"]


def test_loader_head_and_checkpoint_are_measured(result):
    assert [row["workers"] for row in result["loader"]] == [0, 1]
    assert all(row["images_per_second"] > 0 for row in result["loader"])
    plain, chunks = result["head"][:2]
    assert chunks["loss"] == pytest.approx(plain["loss"], rel=1e-6)
    assert result["save"]["gb"] > 0
