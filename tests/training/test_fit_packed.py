"""One way to train: token store, packs, loader workers, images that break late, meters."""

import json
import multiprocessing
import os
import pickle
import signal
from dataclasses import replace

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from curation.pool.sample import Sample, Turn
from training.collate import Collator, TokenMismatch
from training.fit import FitSpec, fit
from training.launch import launch
from training.loader import Waiting, WorkerDied
from training.meters import Meters
from training.plan import TooManyBad
from training.render import Renderer, RenderRules
from training.step_log import StepLog, read_log
from training.token_store import ListSource, RendererOf, StoreMismatch, write

pytestmark = pytest.mark.slow
SPEC = FitSpec(epochs=2, batch_size=8, lr=3e-3, warmup=0.1)
PACKED = SPEC.model_copy(update={"pack_tokens": 160})


def weights(out):
    return load_file(out / "model.safetensors")


def largest_difference(a, b):
    a, b = weights(a), weights(b)
    assert a.keys() == b.keys()
    return max((a[k] - b[k]).abs().max().item() for k in a)


@pytest.fixture
def stored(base, samples, tmp_path):
    """The examples of `samples` in a store."""
    return write(ListSource(samples), RendererOf(base), tmp_path / "store", workers=1).examples(
        range(len(samples))
    )


def test_a_store_trains_as_the_list_does_and_packs_train_as_padded_batches_do(
    base, samples, stored, tmp_path
):
    listed = fit(SPEC, base, samples, tmp_path / "list")
    result = fit(SPEC, base, stored, tmp_path / "store")
    assert result["losses"] == listed["losses"] and result["tokens"] == listed["tokens"] > 0
    assert largest_difference(tmp_path / "store", tmp_path / "list") == 0
    # The names of images are those below their common folder, so that both are the same training.
    assert fit(SPEC, base, samples, tmp_path / "store")["losses"] == listed["losses"]
    packed = fit(PACKED, base, stored, tmp_path / "packed")
    assert packed["losses"] == pytest.approx(listed["losses"], rel=1e-4)
    assert largest_difference(tmp_path / "packed", tmp_path / "list") < 1e-3
    assert packed["meters"]["padding"] == 0 < listed["meters"]["padding"]
    assert packed["meters"]["samples"] == packed["samples_seen"] == 48
    # `pack_tokens` is operational: the finished training is the same one.
    assert fit(SPEC, base, stored, tmp_path / "packed")["losses"] == packed["losses"]


def test_the_number_of_workers_does_not_change_a_bit(base, samples, tmp_path):
    for workers in (0, 2):
        spec = PACKED.model_copy(update={"workers": workers, "grouping": "modality_length"})
        fit(spec, base, samples, tmp_path / str(workers))
    assert largest_difference(tmp_path / "0", tmp_path / "2") == 0
    log = read_log(tmp_path / "2/fit.log.jsonl")
    assert all(line["tokens_per_second"] > 0 <= line["data_wait"] <= 1 for line in log)


def test_every_way_to_compute_gives_the_same_training(base, samples, tmp_path):
    wanted = fit(SPEC, base, samples, tmp_path / "plain")["losses"]
    ways = {
        "chunks": {"loss_chunk": 3},
        "every second block": {"gradient_checkpointing": 2},
        "padded": {"micro_batch": 4, "pack_tokens": None},
        "sdpa": {"attention": "sdpa"},
    }
    for name, way in ways.items():
        result = fit(PACKED.model_copy(update=way), base, samples, tmp_path / name)
        assert result["losses"] == pytest.approx(wanted, rel=1e-4), name
    few = fit(PACKED.model_copy(update={"batch_size": 7, "drop_last": True}), base, samples, tmp_path / "few")
    assert few["steps"] == 6 and few["samples_seen"] == 42
    with pytest.raises(ValueError, match=r"attention: varlen needs a GPU"):
        fit(PACKED.model_copy(update={"attention": "varlen"}), base, samples, tmp_path / "none")


def test_a_store_of_other_rules_or_lengths_is_refused(base, samples, stored, tmp_path):
    with pytest.raises(StoreMismatch, match="tokenised by another tokenizer, template, rules"):
        fit(SPEC.model_copy(update={"image_first": True}), base, stored, tmp_path / "out")
    with pytest.raises(ValueError, match=r"but max_length is 5: take them with"):
        fit(SPEC.model_copy(update={"max_length": 5}), base, stored, tmp_path / "out")
    renderer = RendererOf(base, RenderRules(image_first=True))
    first = write(ListSource(samples), renderer, tmp_path / "first", workers=1).examples(range(8))
    fit(SPEC.model_copy(update={"image_first": True, "max_steps": 1}), base, first, tmp_path / "out")


class Lazy:
    """Lazy data of a list."""

    def __init__(self, examples):
        self.examples = examples

    def __len__(self):
        return len(self.examples)

    def __getitem__(self, index):
        return self.examples[index]


class Deadly(Lazy):
    """Its reader is killed, but never the training itself."""

    def __init__(self, examples):
        super().__init__(examples)
        self.training = os.getpid()

    def __getitem__(self, index):
        if index == 9 and os.getpid() != self.training:
            os.kill(os.getpid(), signal.SIGKILL)
        return self.examples[index]


def test_a_dead_worker_is_an_error_and_no_hang(base, samples, renderer, tmp_path):
    encoded = [renderer.encode(sample) for sample in samples]
    with pytest.raises(WorkerDied, match=r"killed by signal|exited unexpectedly"):
        fit(SPEC.model_copy(update={"workers": 1}), base, Deadly(encoded), tmp_path / "out")
    with pytest.raises(ValueError, match="pack_tokens needs a list of examples, those of a token store"):
        fit(PACKED, base, Lazy(encoded), tmp_path / "out")


@pytest.mark.parametrize("error", [ConnectionResetError("reset by peer"), EOFError()])
def test_a_worker_that_dies_while_it_sends_a_batch_is_named_too(error):
    class Torn:
        def __next__(self):
            raise error

    with pytest.raises(WorkerDied, match="exited unexpectedly while sending a batch"):
        next(Waiting(Torn(), Meters()))


def test_a_worker_whose_death_is_told_only_while_the_workers_are_ended_is_named_too(
    base, samples, tmp_path, monkeypatch
):
    def end(batches):
        raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed.")

    monkeypatch.setattr("training.trainer.end_workers", end)
    with pytest.raises(WorkerDied, match="killed by signal: Killed"):
        fit(SPEC, base, samples, tmp_path / "out")


# ------------------------------------------------------------------------------- images that break late


@pytest.fixture
def breaking(samples, tmp_path):
    """Samples, two of which have an image whose header can be read and whose pixels cannot."""
    own = list(samples)
    for row in (2, 10):
        path = tmp_path / f"late-{row}.png"
        draw = torch.arange(3 * 90 * 90, dtype=torch.uint8).reshape(90, 90, 3)
        Image.fromarray(draw.numpy()).save(path)
        path.write_bytes(path.read_bytes()[:-200])
        own[row] = Sample(row, f"late{row}", "t", (path,), (Turn("<image> what colour ?", "red"),))
    return own


LENIENT = PACKED.model_copy(update={"max_bad_fraction": 0.1})


@pytest.mark.parametrize("workers", [0, 1])
def test_broken_images_are_counted_and_without_loss(base, breaking, tmp_path, workers):
    silent = Sample(99, "silent", "t", (), ())  # rejected before: rows and places in the input differ
    data = [silent, *breaking]
    spec = LENIENT.model_copy(update={"workers": workers, "max_bad_fraction": 0.2})
    result = fit(spec, base, data, tmp_path / "out")
    assert result["dropped"] == {"no_assistant_turn": 1, "broken_image_late": 2}
    lines = [json.loads(line) for line in (tmp_path / "out/fit.rejected.jsonl").read_text().splitlines()]
    late = {(line["index"], line["name"]) for line in lines if line["reason"] == "broken_image_late"}
    assert late == {(3, "late2"), (11, "late10")}
    assert all("late-" in line["detail"] for line in lines[1:])
    assert sum(len(line.get("late", ())) for line in read_log(tmp_path / "out/fit.log.jsonl")) == 4
    with pytest.raises(TooManyBad, match="broken_image_late"):
        fit(spec.model_copy(update={"max_bad_fraction": 0.05}), base, data, tmp_path / "strict")


def test_late_ones_and_meters_survive_a_resume(base, breaking, tmp_path, monkeypatch):
    spec = LENIENT.model_copy(update={"save_steps": 1, "epochs": 1})
    whole = fit(spec, base, breaking, tmp_path / "whole")
    plain, stop = StepLog.on_log, {"at": 3}

    def on_log(self, args, state, *rest, **options):
        if state.global_step == stop["at"]:
            raise RuntimeError("stopped")
        return plain(self, args, state, *rest, **options)

    monkeypatch.setattr(StepLog, "on_log", on_log)
    with pytest.raises(RuntimeError, match="stopped"):
        fit(spec, base, breaking, tmp_path / "cut")
    stop["at"] = 0
    again = fit(spec, base, breaking, tmp_path / "cut")
    assert again["dropped"] == whole["dropped"] == {"broken_image_late": 2}
    assert again["losses"] == whole["losses"]
    assert (tmp_path / "cut/fit.rejected.jsonl").read_text() == (
        tmp_path / "whole/fit.rejected.jsonl"
    ).read_text()
    assert all("tokens_per_second" in line for line in read_log(tmp_path / "cut/fit.log.jsonl"))


def test_an_image_of_another_size_than_was_tokenised_names_its_row(loaded, tmp_path, draw):
    renderer = Renderer(loaded[1], "anyres", cache_mb=0)
    path = tmp_path / "grown.png"
    draw(0, (64, 64)).save(path)
    example = renderer.encode(Sample(0, "row7", "t", (path,), (Turn("<image> what ?", "red"),)))
    Collator(0, renderer.loader)([example])
    draw(0, (300, 64)).save(path)
    with pytest.raises(TokenMismatch, match=r"row7: .*grown\.png \(300 x 64 pixels\) takes \d+ tokens"):
        Collator(0, renderer.loader)([example])
    path.unlink()  # not even its size is known: the example goes on without images
    muting = Collator(0, renderer.loader, mute_broken=True)
    text = renderer.encode(Sample(1, "text", "t", (), (Turn("what ?", "red"),)))
    batch = muting([example, text])
    assert "pixel_values" not in batch and not (batch["input_ids"] == renderer.image_id).any()
    assert (batch["labels"][0] == -100).all() and list(muting.broken) == ["row7"]


def test_the_first_token_never_has_a_label(renderer, samples):
    example = renderer.encode(samples[0])
    labels = example.labels.copy()
    labels[0] = example.input_ids[0]
    for packed in (False, True):
        batch = Collator(0, renderer.loader, packed=packed)([replace(example, labels=labels)])
        assert int(batch["labels"][0, 0]) == -100


def test_no_worker_is_left(base, samples, tmp_path):
    fit(PACKED.model_copy(update={"workers": 2, "max_steps": 1}), base, samples, tmp_path / "out")
    assert not multiprocessing.active_children()


def test_no_worker_is_left_when_a_training_or_a_resumed_one_fails(base, samples, tmp_path, monkeypatch):
    plain, failing = StepLog.on_log, {"at": 0}

    def on_log(self, args, state, *rest, **options):
        if state.global_step == failing["at"]:
            raise RuntimeError("stopped")
        return plain(self, args, state, *rest, **options)

    monkeypatch.setattr(StepLog, "on_log", on_log)
    spec = SPEC.model_copy(update={"epochs": 1, "workers": 1, "save_steps": 1})
    for failing["at"] in (2, 3):
        with pytest.raises(RuntimeError, match="stopped") as error:
            fit(spec, base, samples, tmp_path / "out")
        assert not multiprocessing.active_children(), error  # while `error` keeps the training's objects


def test_what_reads_images_travels_to_a_spawned_worker(renderer, samples):
    collator = pickle.loads(pickle.dumps(Collator(renderer.pad_id, renderer.loader, packed=True)))
    examples = [renderer.encode(sample) for sample in samples[:3]]
    ours, theirs = Collator(renderer.pad_id, renderer.loader, packed=True)(examples), collator(examples)
    assert ours.keys() == theirs.keys() and torch.equal(ours["pixel_values"], theirs["pixel_values"])


# ------------------------------------------------------------------------------------------ two ranks


@pytest.mark.parametrize("engine", [{}, {"deepspeed": "zero3"}])
def test_two_ranks_map_one_store_stay_in_step_and_train_as_one_process(base, breaking, tmp_path, engine):
    if engine:
        pytest.importorskip("deepspeed")
    one = fit(LENIENT, base, breaking, tmp_path / "one")
    messages = []
    spec = LENIENT.model_copy(update={"processes": 2, "workers": 1, **engine})
    two = launch(spec, base, breaking, tmp_path / "two", lambda *call: messages.append(call[2]))
    assert two["losses"] == pytest.approx(one["losses"], abs=2e-5)
    assert largest_difference(tmp_path / "one", tmp_path / "two") < 1e-3
    assert two["dropped"] == one["dropped"] == {"broken_image_late": 2}
    assert two["meters"]["samples"] == one["meters"]["samples"] == 48
    assert 0 < two["meters"]["balance"] <= 1 and "tok/s" in messages[-1]
    assert not (tmp_path / "two.job/tokens").exists()
