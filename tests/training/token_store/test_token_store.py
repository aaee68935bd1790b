"""What a token store gives back is what the renderer gives, and nothing is left out silently."""

import json
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny_models
from PIL import Image

from curation.pool.read import Pool
from curation.pool.sample import Sample, Turn
from training.images import decode
from training.render import IGNORE, Encoded, Renderer, RenderError, RenderRules, truncated
from training.spec import FitSpec
from training.token_store import ListSource, PoolSource, RendererOf, StoreMismatch, TokenStore, read, write
from training.token_store.build import compact, expand, token_type


def same(stored: Encoded, expected: Encoded) -> None:
    for name in ("input_ids", "labels"):
        got, wanted = getattr(stored, name), getattr(expected, name)
        assert got.dtype == wanted.dtype and got.tolist() == wanted.tolist()
    assert [str(p) for p in stored.images] == [str(p) for p in expected.images]
    for name in ("branches", "prefix", "name", "image_spans"):
        assert getattr(stored, name) == getattr(expected, name)


def test_a_pool_comes_back_as_rendered(pool_of, stored, renderer):
    pool = pool_of(30)
    store = stored(pool)
    rows = [29, 0, 6, 4, 13, 13]
    examples = store.examples(rows)
    assert len(store) == 30 and len(examples) == len(rows) and not examples.rejected
    for index, row in enumerate(rows):
        expected = renderer.encode(pool[row])
        same(examples[index], expected)
        assert examples.lengths[index] == len(expected)
        assert examples.labels_count[index] == (expected.labels[1:] != IGNORE).sum()
        assert examples.n_images[index] == len(expected.images)
        assert examples.image_tokens[index] == (expected.input_ids == renderer.image_id).sum()
    assert [image["height"] for image in store.images(0)] == [64]
    assert [e.name for e in examples[1:3]] == [pool[0].id, pool[6].id]


def test_pages_and_files_are_given_back(pool_of, stored, renderer, monkeypatch):
    """Which changes nothing in what is read; here with one open file."""
    monkeypatch.setattr(read, "_OPEN_SHARDS", 1)
    pool = pool_of(30)
    store = stored(pool)
    first = store.encoded(0)
    for row in (29, 3, 12, 0):
        same(store.encoded(row), renderer.encode(pool[row]))
    same(first, renderer.encode(pool[0]))
    assert len(store._opened) == 1


@pytest.mark.parametrize("kind", tiny_models.KINDS)
@pytest.mark.parametrize("rules", [RenderRules(), RenderRules(image_first=True, loss_turns="last")])
def test_every_kind_of_image_token_comes_back(tmp_path, draw, kind, rules):
    """Sizes that give other numbers of tokens, side by side images, text alone."""
    base = tiny_models.build(kind, tmp_path / "model")
    paths = []
    for seed, size in enumerate([(64, 64), (300, 90), (50, 200)]):
        paths.append(tmp_path / f"{seed}.png")
        draw(seed, size).save(paths[-1])
    turn = Turn("and then ?", "no")
    samples = [
        Sample(0, "a", "s", (paths[1],), (Turn("<image>\nwhat ?", "a red cat"), turn)),
        Sample(1, "b", "s", (paths[0], paths[2]), (Turn("<image><image> which ?", "this"),)),
        Sample(2, "c", "s", (), (Turn("why ?", "so"), turn)),
    ]
    factory = RendererOf(base, rules)
    store = write(ListSource(samples), factory, tmp_path / "store", workers=1)
    renderer = factory()
    for sample, example in zip(samples, store.examples(range(3)), strict=True):
        same(example, renderer.encode(sample))


def test_runs_are_not_images():
    ids = np.array([9, 9, 9, 1, 9, 2, 9, 9], np.int32)
    stored, runs = compact(ids, 9)
    assert ids[stored].tolist() == [9, 1, 9, 2, 9] and runs.tolist() == [3, 1, 2]
    labelled = np.array([False, True, False, True, False])
    back, labels = expand(ids[stored], labelled, runs, 9)
    assert back.tolist() == ids.tolist()
    assert labels.tolist() == [IGNORE, IGNORE, IGNORE, 1, IGNORE, 2, IGNORE, IGNORE]
    assert (token_type(65_536), token_type(65_537)) == ("uint16", "uint32")


def test_rejected_rows_are_listed_with_their_reason(tmp_path, samples, factory):
    bad = [
        replace(samples[0], id="no turn", turns=()),
        replace(samples[1], id="gone", images=(tmp_path / "gone.png",)),
        replace(samples[2], id="one image too many", images=(*samples[2].images, samples[0].images[0])),
        replace(samples[3], id="broken", images=(tmp_path / "broken.png",)),
    ]
    (tmp_path / "broken.png").write_bytes(b"not an image")
    store = write(ListSource([*samples[:4], *bad]), factory, tmp_path / "store", workers=1)
    examples = store.examples([7, 0, 6, 5, 4, 1])
    assert examples.rows.tolist() == [0, 1] and len(examples) == 2
    assert [(r.index, r.name, r.reason) for r in examples.rejected] == [
        (0, "broken", "broken_image"),
        (2, "one image too many", "image_count"),
        (3, "gone", "missing_image"),
        (4, "no turn", "no_assistant_turn"),
    ]
    assert "gone.png" in examples.rejected[2].detail and examples.counts["missing_image"] == 1
    with pytest.raises(ValueError, match=r"row 7 .* was rejected: broken_image"):
        store.encoded(7)
    with pytest.raises(IndexError, match="rows must be from 0 to 7"):
        store.examples([8])


def test_an_image_that_comes_back_is_read(tmp_path, draw, samples, factory):
    late = tmp_path / "late.png"
    source = [*samples[:3], replace(samples[0], id="late", images=(late,))]
    store = write(ListSource(source), factory, tmp_path / "store", workers=1)
    assert [r.reason for r in store.examples(range(4)).rejected] == ["missing_image"]
    shard = tmp_path / "store" / "00000.shard"
    stamp = shard.stat().st_mtime_ns
    write(ListSource(source), factory, tmp_path / "store", workers=1)
    assert shard.stat().st_mtime_ns == stamp
    draw(0).save(late)
    store = write(ListSource(source), factory, tmp_path / "store", workers=1)
    assert len(store.examples(range(4))) == 4


def test_too_long_examples(pool_of, stored):
    store = stored(pool_of(24))
    limit = int(np.median(store.lengths))
    long = np.flatnonzero(store.lengths > limit)
    assert 0 < len(long) < 24
    examples = store.examples(range(24), max_length=limit)
    assert [r.index for r in examples.rejected] == long.tolist()
    assert set(examples.counts) == {"too_long"} and examples.lengths.max() <= limit
    with pytest.raises(RenderError, match=f"too_long: .* tokens, at most {limit} are allowed"):
        store.examples(range(24), max_length=limit, too_long="error")


def test_long_examples_are_truncated_as_the_renderer_does(tmp_path, draw):
    """By the lengths of what is read then; one of which no answer is left is listed."""
    picture = tmp_path / "a.png"
    draw(0).save(picture)
    talk = [Turn("what is at a1 ? " * 3, "the dog " * 5)]
    samples = [
        Sample(0, "text", "s", (), (Turn("where ?", "a1 " * 40),)),
        Sample(1, "question", "s", (), (Turn("where ? " * 40, "a1"),)),
        Sample(2, "late image", "s", (picture, picture), (*talk, Turn("<image> and <image>", "red"))),
    ]
    factory = RendererOf(tiny_models.build("base", tmp_path / "model"))
    renderer, store = factory(), write(ListSource(samples), factory, tmp_path / "store", workers=1)
    limit = len(renderer.encode(samples[2])) - 4
    examples = store.examples(range(3), max_length=limit, too_long="truncate")
    assert [(r.index, r.reason) for r in examples.rejected] == [(1, "too_long")]
    for index, row in enumerate(examples.rows):
        expected = truncated(renderer.encode(samples[row]), limit)
        same(examples[index], expected)
        assert examples.lengths[index] == len(expected) <= limit
        assert examples.labels_count[index] == (expected.labels[1:] != IGNORE).sum()
        assert examples.n_images[index] == len(expected.images) == 0
        assert examples.image_tokens[index] == 0
    assert examples.fingerprint() != store.examples([0, 2]).fingerprint()


def test_drawn_images_are_files_of_the_store(tmp_path, draw, factory, renderer):
    pictures = [draw(0), draw(1).convert("L"), draw(2).convert("P"), draw(3)]
    samples = [
        Sample(n, f"s{n}", "drawn", (image,), (Turn("<image> what colour ?", "red"),))
        for n, image in enumerate([*pictures, pictures[0]])
    ]
    store = write(ListSource(samples), factory, tmp_path / "store", workers=1)
    examples = store.examples(range(5))
    assert len({e.images for e in examples}) == 4 == len(list((tmp_path / "store" / "drawn").iterdir()))
    for sample, example in zip(samples, examples, strict=True):
        assert decode(example.images[0]).tolist() == decode(sample.images[0]).tolist()
        assert example.input_ids.tolist() == renderer.encode(sample).input_ids.tolist()


def test_encoded_examples_with_branches(tmp_path, samples, factory, renderer):
    encoded = [renderer.branches(s, [("score ?", "5"), ("where ?", "a1")]) for s in samples[:6]]
    store = write(ListSource(encoded), factory, tmp_path / "store", workers=1)
    for index, example in enumerate(store.examples(range(6))):
        same(example, encoded[index])
    wrong = replace(encoded[0], labels=np.where(encoded[0].labels == IGNORE, IGNORE, 7))
    with pytest.raises(ValueError, match="a label must be the token at its own place"):
        write(ListSource([wrong]), factory, tmp_path / "wrong", workers=1)


def test_the_fingerprint_follows_what_is_trained(tmp_path, pool_of, stored, factory):
    pool = pool_of(24)
    store = stored(pool)
    prints = [
        store.examples(rows, max_length=limit).fingerprint()
        for rows, limit in (([0, 1, 2], None), ([0, 1], None), ([1, 0, 2], None), ([0, 1, 2], 10**6))
    ]
    assert prints[0] == prints[3] and len(set(prints)) == 3
    other = write(PoolSource(pool), factory, tmp_path / "other", workers=1, shard_rows=5)
    assert other.examples([0, 1, 2]).fingerprint() == prints[0]
    rows = [23, 0, 9, 1, 17, 23]
    single = [store.hashes(np.array([row])) for row in rows]
    assert store.hashes(np.array(rows)).tolist() == np.concatenate(single).tolist()
    contents = {(sample.turns, sample.images) for sample in pool.samples()}
    assert len({tuple(row) for row in store.hashes(np.arange(24)).tolist()}) == len(contents) > 1
    last = RendererOf(factory.base, RenderRules(loss_turns="last"))
    other = write(PoolSource(pool), last, tmp_path / "last", workers=1)
    assert other.examples([0, 1, 2]).fingerprint() != prints[0]


def test_examples_travel_as_a_reference(pool_of, stored):
    examples = stored(pool_of(24)).examples(range(20, 2, -1), max_length=60)
    sent = pickle.dumps(examples)
    back = pickle.loads(sent)
    assert len(sent) < 3000 and back.fingerprint() == examples.fingerprint()
    assert back.rejected == examples.rejected and back.lengths.tolist() == examples.lengths.tolist()
    same(back[3], examples[3])


def test_a_store_moves_with_its_pool(tmp_path, pool_of, stored):
    """The images' place is not part of what a store is."""
    pool = pool_of(16)
    before = stored(pool).examples([0, 1])
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for image in tmp_path.glob("*.png"):
        image.rename(elsewhere / image.name)
    moved = Pool(pool.folder, pool.table, pool.info, pool.files, elsewhere)
    after = stored(moved).examples([0, 1])
    assert after.fingerprint() == before.fingerprint()
    assert after[0].images[0].parent == elsewhere and after[0].images[0].is_file()


def test_a_finished_store_is_read_with_images_at_another_place(tmp_path, pool_of, stored):
    store = stored(pool_of(16))
    there = TokenStore.open(store.folder, images=tmp_path / "elsewhere").examples([0, 1])
    for examples in (there, pickle.loads(pickle.dumps(there))):
        assert examples[0].images[0].parent == tmp_path / "elsewhere"
        assert examples.fingerprint() == store.examples([0, 1]).fingerprint()


def test_progress_and_what_is_kept(tmp_path, pool_of, factory):
    calls: list[tuple[int, int]] = []
    source = PoolSource(pool_of(20))
    store = tmp_path / "store"
    write(source, factory, store, workers=1, shard_rows=8, on_progress=lambda *call: calls.append(call))
    assert calls[0] == (0, 20) and calls[-1] == (20, 20) and len({done for done, _ in calls}) == 4
    stamps = [path.stat().st_mtime_ns for path in sorted(store.glob("*.shard"))]
    calls.clear()
    write(source, factory, store, workers=1, on_progress=lambda *call: calls.append(call))
    assert calls == [(20, 20), (20, 20)]
    assert stamps == [path.stat().st_mtime_ns for path in sorted(store.glob("*.shard"))]


def test_another_pool_or_renderer_is_refused(tmp_path, pool_of, stored, factory):
    stored(pool_of(24))
    with pytest.raises(StoreMismatch, match="different set of samples"):
        stored(pool_of(24, "changed", seed=1))
    with pytest.raises(StoreMismatch, match="a different tokenizer, template, rules or image mode"):
        rules = RendererOf(factory.base, RenderRules(image_first=True))
        write(PoolSource(pool_of(24)), rules, tmp_path / "store", workers=1)
    info = json.loads((tmp_path / "store" / "store.json").read_text())
    TokenStore.open(tmp_path / "store", source=info["source"], renderer=info["renderer"])
    with pytest.raises(StoreMismatch, match="different set of samples"):
        TokenStore.open(tmp_path / "store", source="0" * 64)


def test_relative_paths_are_found_from_elsewhere(tmp_path, samples, factory, monkeypatch):
    monkeypatch.chdir(tmp_path)
    image = samples[0].images[0]
    mixed = [samples[0], replace(samples[0], images=(Path(image.name),))]
    store = write(ListSource(mixed), factory, tmp_path / "store", workers=1)
    monkeypatch.chdir("/")
    assert [example.images for example in store.examples([0, 1])] == [(image,), (image,)]


def test_an_empty_source(tmp_path, factory):
    store = write(ListSource([]), factory, tmp_path / "store", workers=1)
    assert len(store) == 0 and len(store.examples([])) == 0


def test_pictures_with_the_same_pixels_in_another_mode_are_others(tmp_path):
    image = Image.new("L", (4, 4), 7)
    source = [Sample(0, "a", "s", (p,), ()) for p in (image, image.convert("RGB"))]
    assert ListSource(source[:1]).hash != ListSource(source[1:]).hash


def test_the_renderer_of_a_checkpoint(base):
    assert (
        isinstance(RendererOf(base)(), Renderer)
        and RendererOf(base, image_mode="base")().image_mode == "base"
    )


def test_the_renderer_of_a_training_has_its_rules_and_tiles(base):
    side = RendererOf(base)().processor.image_processor.size["height"]
    plain = FitSpec()
    spec = FitSpec(
        system="Be kind.", image_first=True, image_aspect="anyres_max_4", image_grids=[(side, side)]
    )
    made = RendererOf.for_training(spec, base)()
    assert made.rules == spec.render_rules() and made.image_mode == "anyres"
    assert made.processor.image_processor.image_grid_pinpoints == [[side, side]]
    prints = {RendererOf.for_training(one, base)().fingerprint() for one in (plain, spec, FitSpec(lr=1))}
    assert len(prints) == 2
