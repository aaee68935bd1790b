"""The shipped base model passes its gates: re-measured on a sample of the held-out captions."""

import json

import pytest

from curation.mini.captions import GATES, gate_sample
from evaluation.gates import measure_gates
from training.builtin import BUILTIN

BASE = BUILTIN["builtin:mini"]


@pytest.fixture(scope="module")
def gates():
    return measure_gates(BASE, items=60, seed=1)


@pytest.mark.parametrize("gate", GATES)
def test_gate_is_passed_again_on_other_items(gates, gate):
    said = json.loads((BASE / "gates.json").read_text())[gate]
    assert said["passed"] == (said["value"] >= said["wanted"])
    error = (
        said["value"] * (1 - said["value"]) / 60 + 1 / 60
    ) ** 0.5  # one binomial standard error of 60 items, and a floor
    assert abs(gates[gate]["value"] - said["value"]) < 3 * error


def test_gate_items_depend_on_seed_and_index_only():
    for gate in GATES:
        first, again, other = gate_sample(gate, 4, 1), gate_sample(gate, 4, 1), gate_sample(gate, 5, 1)
        assert first.turns == again.turns and first.images[0].tobytes() == again.images[0].tobytes()
        assert first.images[0].tobytes() != other.images[0].tobytes()
