"""What is a copy and what is not, which one stays, and that the order of the pool does not matter."""

import random
import shutil

import numpy as np
import pyarrow.compute as pc
import pytest
from copies_pool import CopiesPool
from picture_kinds import cropped, jpeg, picture, smaller
from PIL import Image

from curation.dedup import clusters, find, text
from curation.dedup.clusters import Rule
from curation.dedup.find import find_duplicates
from curation.pool.errors import PoolArgumentError, PoolError

LONG = "a man in a red coat walks a small dog along the river while two boats pass under the old stone bridge"


@pytest.fixture
def world(tmp_path):
    return CopiesPool(tmp_path)


def groups(pool, rule=None, **options):
    """{id of the first: {id of a copy: kind}} of the groups of more than one."""
    found = find_duplicates(pool, rule, **options).table
    ids = pool.table["id"].to_pylist()
    result = {}
    for row, group, kind, first in zip(
        *(found[name].to_pylist() for name in found.column_names), strict=True
    ):
        assert first == (row == group)
        if not first:
            result.setdefault(ids[group], {})[ids[row]] = kind
        alone = found["dup_group"].to_pylist().count(group) == 1
        assert (kind is None) == alone
    return result


def test_several_questions_about_one_picture_are_no_copies(world):
    photo = world.image("a.png", picture("photo", 1))
    for number, thing in enumerate(("dog", "cat", "river", "bridge", "boat")):
        world.add(f"q{number}", f"Where is the {thing} in this picture?", "On the left.", photo)
    assert groups(world.build()) == {}
    assert set(groups(world.build(), Rule(text="any")).popitem()[1].values()) == {"image_exact"}


def test_each_kind_of_copy(world):
    photo = picture("photo", 1)
    world.image("a.png", photo)
    shutil.copy(world.folder / "images" / "a.png", world.folder / "images" / "b.png")
    world.image("c.jpg", jpeg(smaller(photo, 2), 60))
    world.add("exact1", "What is this?", LONG, "a.png")
    world.add("exact2", "What is this?", LONG, "a.png")
    world.add("same", "what is  THIS?", LONG, "b.png")
    world.add("near_image", "What is this?", LONG, "c.jpg")
    world.add("near_text", "What is this?", LONG + " today", "b.png")
    world.add("near_both", "What is this?", LONG + " today", "c.jpg")
    world.add("other", "What is this?", "A page.", "a.png")
    kinds = {id: kind for copies in groups(world.build()).values() for id, kind in copies.items()}
    first = next(iter({"exact1", "exact2", "near_text", "same"} - kinds.keys()))
    assert first == "near_text"  # as large as any, and the longest text
    assert kinds == {
        "exact1": "exact",
        "exact2": "exact",
        "same": "same",
        "near_image": "near_both",
        "near_both": "near_image",
    }


def test_words_and_pictures_must_both_be_near(world):
    world.image("a.png", picture("photo", 1))
    world.image("b.png", picture("photo", 2))
    world.add("a", "Describe it.", LONG, "a.png")
    world.add("b", "Describe it.", LONG, "b.png")  # the same words about another picture
    world.add("c", "Describe it.", "Two apples lie on a plate.", "a.png")  # other words about the same
    assert groups(world.build()) == {}


def test_the_answer_is_part_of_the_words(world):
    world.image("a.png", picture("photo", 1))
    world.add("a", "Is there a dog?", "Yes", "a.png")
    world.add("b", "Is there a dog?", "No", "a.png")
    assert groups(world.build()) == {}


@pytest.mark.parametrize("kind", ["form", "page", "screen", "bars", "flat", "icon"])
def test_look_alikes_with_the_same_words_are_no_copies(world, kind):
    """Their perceptual hashes are near or equal; what they show is not."""
    for number in range(12):
        world.image(f"{number}.png", picture(kind, number))
        world.add(f"s{number}", "What is shown here?", "Something that has this layout.", f"{number}.png")
    pool = world.build()
    hashes = pool.image_table["phash"].to_numpy()
    near = np.bitwise_count(hashes[:, None] ^ hashes[None, :])[np.triu_indices(12, 1)].min()
    assert kind not in ("form", "flat") or near <= 8  # the hash alone would take some for copies
    assert groups(pool) == {}


@pytest.mark.parametrize("kind", ["photo", "form", "page", "screen", "bars"])
def test_pictures_stored_again_are_copies(world, kind):
    original = picture(kind, 3)
    world.image("a.png", original)
    world.image("b.jpg", jpeg(original, 50))
    world.image("c.png", smaller(original, 2))
    world.image("d.png", cropped(original, 0.01))
    for name in ("a.png", "b.jpg", "c.png", "d.png"):
        world.add(name[0], "What is shown here?", LONG, name)
    assert groups(world.build()) == {"a": dict.fromkeys(("b", "c", "d"), "near_image")}


def test_flat_pictures_are_copies_if_their_bytes_are(world):
    for name, colour in (("a.png", "white"), ("b.png", "white"), ("c.png", "black"), ("d.png", (250,) * 3)):
        world.image(name, Image.new("RGB", (320, 240), colour))
        world.add(name[0], "What do you see?", "Nothing at all.", name)
    assert set(groups(world.build()).popitem()[1].values()) == {"same"}
    assert len(groups(world.build())) == 1


def test_pictures_in_another_order_are_no_copies(world):
    world.image("a.png", picture("photo", 1))
    world.image("b.png", picture("photo", 2))
    world.add("ab", "What changed from the first to the second?", LONG, "a.png", "b.png")
    world.add("ba", "What changed from the first to the second?", LONG, "b.png", "a.png")
    world.add("a", "What changed from the first to the second?", LONG, "a.png")
    assert groups(world.build()) == {}


def test_every_copy_is_a_copy_of_the_one_that_stays(world):
    """A chain of texts, each near the next: its ends are not copies of each other."""
    words = [f"word{number}" for number in range(60)]
    for step in range(12):
        changed = [f"other{n}" for n in range(4 * step)] + words[4 * step :]
        world.add(f"step{step}", "Repeat this.", " ".join(changed))
    found = find_duplicates(world.build())
    sets = [text.shingles(text.conversation(sample)) for sample in world.build().samples()]
    assert not found.first.all() and found.first.sum() > 2
    assert text.jaccard(sets[0], sets[-1]) < 0.2
    for row, first in enumerate(found.group):
        assert text.jaccard(sets[row], sets[first]) >= 0.8


def test_the_larger_picture_stays_then_the_longer_text(world):
    photo = picture("photo", 1)
    world.image("small.png", smaller(photo, 2))
    world.image("large.png", photo)
    world.add("a", "What is it?", LONG + " now and then", "small.png")
    world.add("b", "What is it?", LONG, "large.png")
    world.add("c", "What is it?", LONG + " today", "large.png")
    assert list(groups(world.build())) == ["c"]


def test_the_order_of_the_pool_does_not_matter(world):
    rng = random.Random(0)
    for number in range(8):
        photo = picture("photo", number)
        world.image(f"{number}.png", photo)
        world.image(f"{number}.jpg", jpeg(photo, 60))
        for name in (f"{number}.png", f"{number}.png", f"{number}.jpg"):
            said = " ".join(rng.sample(LONG.split(), 20)) if rng.random() < 0.3 else LONG
            world.add(f"r{len(world.records)}", "What is it?", said, name)
    expected = groups(world.build())
    assert len(expected) > 4
    for seed in range(3):
        shuffled = random.Random(seed).sample(world.records, len(world.records))
        assert groups(world.build(f"shuffled{seed}", records=shuffled)) == expected


def test_alike_pictures_need_equal_words(world):
    """The mini world draws a scene anew for a near copy; such pictures are alike, not the same."""
    rule = Rule(images="alike", alike=31)
    for number in range(2):
        world.image(f"{number}.png", picture("form", number))
    world.add("a", "What is the title?", "Request form.", "0.png")
    world.add("b", "What is the title?", "Request form.", "1.png")
    world.add("c", "What is the title?", "A request form.", "1.png")
    assert [set(copies.values()) for copies in groups(world.build(), rule).values()] == [{"near_image"}]


def test_worker_processes_find_the_same(world, monkeypatch):
    monkeypatch.setattr(text, "_CHUNK", 4)
    photo = picture("photo", 1)
    world.image("a.png", photo)
    world.image("b.jpg", jpeg(photo, 60))
    for number in range(6):
        name = ("a.png", "b.jpg")[number % 2]
        world.add(f"p{number}", "What is it?", LONG + " again" * (number % 2), name)
        world.add(f"t{number}", "Say it.", LONG + " twice" * (number % 3))
    pool = world.build()
    assert groups(pool, workers=2) == groups(pool) != {}


def test_headers_alone_are_not_enough(world):
    world.image("a.png", picture("photo", 1))
    world.add("a", "What is it?", LONG, "a.png")
    pool = world.build(audit="header")
    with pytest.raises(PoolArgumentError, match=r"1 images .* run python -m curation\.pool audit"):
        find_duplicates(pool)


def test_an_image_that_is_gone_is_an_error(world):
    photo = picture("photo", 1)
    world.image("a.png", photo)
    world.image("b.jpg", jpeg(photo, 60))
    world.add("a", "What is it?", LONG, "a.png")
    world.add("b", "What is it?", LONG, "b.jpg")
    pool = world.build()
    (world.folder / "images" / "b.jpg").unlink()
    clusters.pictures.thumbnail.cache_clear()
    with pytest.raises(PoolError, match=r"b\.jpg can no longer be decoded"):
        find_duplicates(pool)


def test_a_pool_of_texts_alone(world):
    world.add("a", "Say it.", LONG)
    world.add("b", "Say it.", LONG)
    world.add("c", "Say it.", LONG + " again")
    world.add("d", "Say it.", "something else entirely")
    assert groups(world.build()) == {"c": {"a": "exact", "b": "exact"}}
    assert groups(world.build(), Rule(text="exact")) in ({"a": {"b": "exact"}}, {"b": {"a": "exact"}})
    assert groups(world.build(), Rule(text="any")) == {}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"images": "all"}, "images must be one of exact, near, alike"),
        ({"text": "none"}, "text must be one of exact, near, any"),
        ({"radius": 40}, "radius must be from 0 to 31 bits"),
        ({"threshold": 0.0}, "threshold must be above 0"),
        ({"images": "alike", "text": "any"}, "not with text any"),
    ],
)
def test_rules_that_make_no_sense(fields, message):
    with pytest.raises(ValueError, match=message):
        Rule(**fields)


def test_kinds_are_in_the_order_of_the_table(world):
    assert next(iter(find.KINDS)) == "exact"
    world.add("a", "Say it.", LONG)
    assert pc.all(pc.is_null(find_duplicates(world.build()).table["dup_kind"])).as_py()
