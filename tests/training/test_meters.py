import pytest
import torch

from training.collate import Collator
from training.meters import Counts, Meters, count


class Clock:
    """A clock that the test moves."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def test_padding_and_fillers_are_places_but_no_tokens(renderer, samples):
    examples = [renderer.encode(s) for s in samples[:5]]
    image_id, pad = renderer.image_id, renderer.pad_id
    tokens = sum(map(len, examples))
    images = sum(int((e.input_ids == image_id).sum()) for e in examples)
    labels = sum(int((e.labels[1:] >= 0).sum()) for e in examples)
    padded = count(Collator(pad, renderer.loader)(examples), 5, image_id, pad, flops=3.0)
    assert padded.places == 5 * max(map(len, examples)) > tokens == padded.tokens
    assert (padded.image, padded.text, padded.supervised) == (images, tokens - images, labels)
    packed = count(Collator(pad, renderer.loader, packed=True)(examples), 5, image_id, pad, flops=3.0)
    assert packed.places == packed.tokens == tokens and packed.supervised == labels
    rounded = Collator(pad, renderer.loader, packed=True, multiple=64)(examples)
    rounded = count(rounded, 5, image_id, pad)
    assert rounded.places % 64 == 0 and rounded.tokens == tokens
    filler = count(Collator(pad, renderer.loader, packed=True)([examples[0].muted()]), 0, image_id, pad, 9.0)
    assert filler == Counts(places=len(examples[0]))


def test_rates_of_a_step_by_hand(clock):
    meters = Meters(ranks=1, peak=1000.0, clock=clock)
    with meters.waiting():
        clock.now += 1
    meters.add(Counts(places=100, samples=2, text=40, image=40, supervised=10, flops=2000))
    clock.now += 3
    meters.step()
    assert meters.record() == {
        "tokens_per_second": 20.0,
        "samples_per_second": 0.5,
        "supervised_per_second": 2.5,
        "image_share": 0.5,
        "mfu": 0.5,
        "padding": 0.2,
        "balance": 1.0,
        "data_wait": 0.25,
        "peak_memory_gb": None if not torch.cuda.is_available() else meters.record()["peak_memory_gb"],
    }
    assert meters.line() == "20 tok/s, 50 % MFU, 25 % wait"


def test_steps_add_up_and_each_is_measured_alone(clock):
    meters = Meters(clock=clock)
    for tokens, seconds in ((100, 1), (50, 4)):
        meters.add(Counts(places=tokens, samples=1, text=tokens))
        clock.now += seconds
        meters.step()
    assert meters.record()["tokens_per_second"] == 12.5
    whole = meters.summary()
    assert whole["tokens_per_second"] == 30 and whole["text_tokens"] == 150 and whole["samples"] == 2
    assert whole["mfu"] is None and meters.line() == "12 tok/s, 0 % wait" and meters.steps == 2


def test_balance_is_over_ranks_in_each_micro_step(clock):
    meters = Meters(ranks=2, peak=100.0, clock=clock)
    other = Counts(places=10, text=10, samples=1, flops=30, wait=1)
    for flops in (10, 10):
        meters.add(Counts(places=10, text=5, samples=1, flops=flops))
    clock.now += 2
    meters.step([meters.own(), (other.list(), [20, 10])])
    # Micro-steps take 20 and 10 on 2 ranks = 60; 50 of it is useful.
    record = meters.record()
    assert record["balance"] == pytest.approx(50 / 60, abs=1e-4)
    assert record["mfu"] == pytest.approx(50 / (2 * 2 * 100))
    assert record["data_wait"] == 0.25 and record["tokens_per_second"] == 10
    meters.add(Counts(places=1, text=1, flops=10))
    clock.now += 1
    meters.step([meters.own(), (Counts(flops=10).list(), [10])])
    assert meters.summary()["balance"] == pytest.approx(70 / 80, abs=1e-4)
