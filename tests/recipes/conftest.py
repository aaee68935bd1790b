"""A project directory with a small recipe, and dummy stages to run it with."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # dummy_stages

SCALE = """\
pool: {kind: mini, size: 600, seed: 0, defects: {}}
bench: {kind: mini, items: 30, seed: 1000}
base: {path: base}
teacher: {share: 0.05, noise: 0.2}
seed_model: {share: 0.1, train: {epochs: 1, lr: 1e-3, batch_size: 16, lora: {r: 4, alpha: 8}}}
scorer: {train: {epochs: 1, lr: 1e-3, batch_size: 16}}
styler: {train: {epochs: 1, lr: 1e-3, batch_size: 16}}
train: {epochs: 1, lr: 1e-3, batch_size: 16}
controls: off
"""
RECIPE = """\
name: demo
description: three arms
scale: tiny
arms:
  mmssr:
    selector: mmssr
    budget: 30%
    seeds: 2
  random: {selector: random, budget: 30%, seeds: 2}
  full: {selector: all}
baseline: random
reference: full
track: {mode: disabled}
"""


@pytest.fixture
def project(tmp_path, monkeypatch):
    """The current directory, with demo.yaml, scales/tiny.yaml and the files of a base checkpoint."""
    (tmp_path / "scales").mkdir()
    (tmp_path / "scales" / "tiny.yaml").write_text(SCALE)
    (tmp_path / "demo.yaml").write_text(RECIPE)
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "config.json").write_text("{}")
    (tmp_path / "base" / "tokenizer.json").write_text("{}")
    (tmp_path / "base" / "model.safetensors").write_bytes(b"weights")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DUMMY_LOG", str(tmp_path / "log.txt"))
    return tmp_path


@pytest.fixture
def executed(project):
    """The stages (kind/hash) executed so far, one entry for each execution."""
    log = project / "log.txt"
    return lambda: log.read_text().split() if log.exists() else []
