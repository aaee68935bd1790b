"""The mini world: deterministic, complete, disjoint from its benchmarks, with the requested defects."""

import hashlib
import io
import json
from collections import Counter
from pathlib import Path
from random import Random

import pyarrow.parquet as pq
import pytest
from PIL import Image

from curation.mini import art
from curation.mini.atom import Split, ask
from curation.mini.bench import build_bench
from curation.mini.blind import blind_majority, pattern
from curation.mini.captions import CaptionStream, gate_sample
from curation.mini.draft import Defects, draft, sources
from curation.mini.makers import MAKERS, WORDS
from curation.mini.pool import build_source
from curation.mini.scene import SIZE, draw
from curation.mini.tokenizer import build_tokenizer, words
from curation.mini.vocabulary import VOCABULARY
from curation.pool.ingest import build_pool
from curation.pool.read import Pool
from curation.taxonomy import CAPABILITY_KEYS, STYLES


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    build_bench(folder / "bench", items=40)
    build_source(folder / "source", 1500, bench=folder / "bench", defects=Defects(leaks=0.02))
    return folder


def truth(world: Path) -> list[dict]:
    return pq.read_table(world / "source" / "truth.parquet").to_pylist()


def tree_hash(folder: Path) -> str:
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    return hashlib.sha256(
        b"".join(str(p.relative_to(folder)).encode() + p.read_bytes() for p in files)
    ).hexdigest()


def test_pool_and_benchmarks_are_the_same_for_the_same_seed(tmp_path):
    for name in ("a", "b"):
        build_bench(tmp_path / name / "bench", items=5)
        build_source(tmp_path / name / "source", 150, seed=3, bench=tmp_path / name / "bench")
    assert tree_hash(tmp_path / "a") == tree_hash(tmp_path / "b")
    build_source(tmp_path / "c", 150, seed=4)
    assert (tmp_path / "c" / "pool.json").read_bytes() != (
        tmp_path / "a" / "source" / "pool.json"
    ).read_bytes()


@pytest.mark.slow
def test_every_capability_style_and_source_occurs(world):
    rows = truth(world)
    assert {r["capability"] for r in rows} == set(CAPABILITY_KEYS)
    assert {s for r in rows for s in r["styles"]} == set(STYLES)
    shares = Counter(r["id"].rsplit("-", 1)[0] for r in rows)
    assert set(shares) == {s.name for s in sources()} | {"web"}
    assert shares["shapeqa"] > 10 * shares["physics"] > 0


def test_the_pool_passes_the_ordinary_ingest(world, tmp_path):
    info = build_pool(world / "source" / "pool.json", world / "source", tmp_path / "pool")
    assert info["n"] == 1500 and not info["quarantined"]
    pool = Pool.open(tmp_path / "pool")
    assert [s.id for s in pool.samples()] == [r["id"] for r in truth(world)]
    counts = Counter(len(s.images) for s in pool.samples())
    assert counts[0] > 30 and counts[1] > 1000
    assert max(len(s.turns) for s in pool.samples()) == 3


def test_near_duplicates_repeat_the_text_of_their_root_and_not_its_pixels(world):
    rows = truth(world)
    records = json.loads((world / "source" / "pool.json").read_text())
    copies = [(i, r["root"]) for i, r in enumerate(rows) if r["root"] != i and not rows[r["root"]]["leak"]]
    assert 0.22 < len(copies) / len(rows) < 0.34
    assert all(records[i]["conversations"] == records[root]["conversations"] for i, root in copies)
    pictures = [(records[i], records[root]) for i, root in copies if "image" in records[i]]
    same = sum(
        (world / "source" / a["image"]).read_bytes() == (world / "source" / b["image"]).read_bytes()
        for a, b in pictures
    )
    assert same < 0.05 * len(pictures)


def test_wrong_answers_differ_from_the_right_ones():
    rng = Random(0)
    for capability, make in MAKERS.items():
        if capability == "generation":
            continue
        for _ in range(20):
            atom = make(rng, Split())[1][0]
            assert atom.corrupted(rng).answer != atom.answer


def test_only_planted_leaks_are_in_pool_and_benchmarks(world):
    items = set()
    for file in (world / "bench").glob("*.parquet"):
        items |= {
            (hashlib.sha256(r["image"]["bytes"]).digest(), r["question"])
            for r in pq.read_table(file).to_pylist()
        }
    for row, record in zip(
        truth(world), json.loads((world / "source" / "pool.json").read_text()), strict=True
    ):
        if "image" not in record:
            continue
        pixels = hashlib.sha256((world / "source" / record["image"]).read_bytes()).digest()
        shown = (pixels, record["conversations"][0]["value"].removeprefix("<image>\n"))
        assert (shown in items) == row["leak"]


def test_held_out_words_digits_and_facts_are_disjoint():
    pool, bench = Split(), Split(held_out=True)
    assert all(pool.owns(w) != bench.owns(w) for w in WORDS)
    assert 15 < sum(bench.owns(w) for w in WORDS) < 60
    shown = {w: set() for w in (False, True)}
    for side in (False, True):
        for i in range(200):
            scene, _ = MAKERS["stem"](Random(i), Split(held_out=side))
            shown[side] |= {t.variant for t in scene.things if t.kind == "digit"}
    assert shown[True] and not shown[True] & shown[False]
    for i in range(100):
        scene, _ = MAKERS["spatial"](Random(i), bench)
        assert not pool.owns(scene.things[0].name, scene.things[0].cell)


def test_benchmarks_are_balanced_and_a_blind_guess_is_poor(world, tmp_path):
    from evaluation.extract import score

    summary = json.loads((world / "bench" / "bench.json").read_text())
    assert set(summary) == set(CAPABILITY_KEYS) and all(b["n"] == 40 for b in summary.values())
    build_pool(world / "source" / "pool.json", world / "source", tmp_path / "pool")
    clean = [
        s for s, r in zip(Pool.open(tmp_path / "pool").samples(), truth(world), strict=True) if not r["leak"]
    ]
    blind = blind_majority(clean, world / "bench", lambda *a: score(*a).value)
    assert sum(blind.values()) / len(CAPABILITY_KEYS) < 0.16, blind
    assert all(blind[name] < summary[name]["chance"] + 0.1 for name in blind), blind
    for file in (world / "bench").glob("*.parquet"):
        rows = pq.read_table(file).to_pylist()
        letters = Counter(r["answer"] for r in rows if r["kind"] == "choice")
        assert not letters or max(letters.values()) <= 0.6 * sum(letters.values()) + 1
        assert all(Image.open(io.BytesIO(r["image"]["bytes"])).size == (SIZE, SIZE) for r in rows)
        assert all(r["options"][ord(r["answer"]) - ord("a")] for r in rows if r["kind"] == "choice")


def test_pattern_joins_questions_that_differ_in_names_only():
    assert pattern("<image>\nwhere is the dog ?") == pattern("where is the bell ?") == "where is the _ ?"
    assert pattern("what is at b3 ? ( a ) dog ( b ) cat") == "what is at _ ? ( a )"


def test_every_word_of_the_world_is_one_token(world):
    tokenizer = build_tokenizer()
    unknown = tokenizer.unk_token_id
    for record in json.loads((world / "source" / "pool.json").read_text()):
        for turn in record["conversations"]:
            ids = tokenizer(turn["value"], add_special_tokens=False)["input_ids"]
            tokens = tokenizer.convert_ids_to_tokens(ids)
            assert unknown not in ids and not any(t.startswith("##") for t in tokens), turn["value"]
    assert tokenizer.decode(tokenizer("zebra")["input_ids"]) == "zebra"


@pytest.mark.slow
def test_the_vocabulary_file_holds_the_makers_words():
    assert VOCABULARY.read_text().split() == words()


def test_base_captions_never_show_what_instruction_data_has_to_teach():
    taught = (
        {n for g in art.names().fine.values() for n in g}
        | set(art.names().activity)
        | {e[2] for e in art.names().effects}
    )
    stream = CaptionStream(600, seed=5)
    for sample in (stream[i] for i in range(600)):
        written = {w for t in sample.turns for w in f"{t.question} {t.answer}".split()}
        assert not (
            written & taught and sample.images
        )  # without a picture, words are only copied in random order
        assert not any("?" in t.question for t in sample.turns)
    assert gate_sample("four_objects", 3).turns[-1].answer.count(" ") >= 7


def test_all_styles_give_the_same_fact():
    rng = Random(1)
    atom = MAKERS["activity"](rng, Split())[1][0]
    for style in (
        "word",
        "short_description",
        "chain_of_thought",
        "specified",
        "comparison",
        "detailed_description",
    ):
        assert atom.answer in ask(atom, style, rng).answer
    choice = ask(atom, "multi_choice", rng)
    assert choice.options["abc".index(choice.answer)] == atom.answer


def test_rendering_depends_on_the_random_generator_only():
    scene, _ = MAKERS["comparison"](Random(2), Split())
    assert (
        draw(scene, Random(7)).tobytes()
        == draw(scene, Random(7)).tobytes()
        != draw(scene, Random(8)).tobytes()
    )


def test_a_sample_does_not_depend_on_the_pool_around_it():
    drawn = draft(700, 0, Defects())
    again = draft(700, 0, Defects())
    assert (drawn.asked, drawn.source, drawn.scene) == (again.asked, again.source, again.scene)
