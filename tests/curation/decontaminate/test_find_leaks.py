"""What was planted is found, by its kind; what is no leak is not."""

import json
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from planted_leaks import IMAGES, LAYOUTS, PHOTOS, QUESTIONS, full_pool

from curation.decontaminate.find import KINDS, LEAKS, Rules, find_leaks
from curation.decontaminate.pictures import ImageRule
from curation.decontaminate.questions import QuestionRule
from curation.decontaminate.targets import read_targets
from curation.decontaminate.write import drop_leaks, to_drop, write_leaks
from curation.pool.read import Pool
from evaluation.items import open_items

SURE = ("JPEG quality 75", "JPEG quality 30", "half the size")


def planted(world, how, benchmarks, **wanted):
    found = [
        plant
        for plant in world.plants
        if plant.how == how
        and plant.benchmark in benchmarks
        and all(getattr(plant, name) == value for name, value in wanted.items())
    ]
    assert found
    return found


@pytest.mark.parametrize("how", [how for how, (kind, _) in IMAGES.items() if kind == "image_exact"])
@pytest.mark.parametrize("benchmarks", [PHOTOS, LAYOUTS], ids=["photos", "layouts"])
def test_same_files_and_same_pixels_are_exact(world, how, benchmarks):
    for plant in planted(world, how, benchmarks):
        flat = how != "same file" and not world.pairs(plant)
        if flat:  # one colour: only the file says which image it is
            assert is_flat(world, plant)
            continue
        [pair] = world.pairs(plant)
        assert pair["kind"] == "image_exact" and pair["score"] == 1


def is_flat(world, plant):
    [item] = [
        k
        for k, own in enumerate(world.targets.ids)
        if own == plant.item and world.targets.names[world.targets.benchmark[k]] == plant.benchmark
    ]
    of_item = world.targets.pictures.of_item
    return world.targets.pictures.flat[of_item[of_item[:, 0] == item, 1]].all()


@pytest.mark.parametrize("how", SURE)
def test_changed_photographs_are_near(world, how):
    for plant in planted(world, how, PHOTOS, kind="image_near"):
        [pair] = world.pairs(plant)
        assert pair["kind"] in ("image_near", "image_exact") and pair["score"] >= 1 - 10 / 64


@pytest.mark.parametrize("asks", [True, False])
def test_an_image_with_its_question_differs_from_one_with_another(world, asks):
    pairs = [
        pair
        for plant in world.plants
        if plant.kind == "image_exact" and plant.asks == asks
        for pair in world.pairs(plant)
    ]
    assert pairs and all((pair["question_score"] == 1) == asks for pair in pairs)
    summary = world.leaks.summary["by_kind"]
    assert summary["image_exact"] and summary["image_exact+question"]


@pytest.mark.parametrize("how", [how for how in QUESTIONS if how != "paraphrased"])
def test_copied_questions_are_found_by_their_words(world, how):
    for plant in planted(world, how, PHOTOS, kind="question"):
        [pair] = world.pairs(plant)
        assert pair["kind"] == "question" and pair["score"] > 0.5


def test_the_same_words_about_another_image_are_no_leak_but_kept(world):
    alike = {(row["id"], row["benchmark"], row["item"]) for row in world.leaks.alike.to_pylist()}
    plants = [plant for plant in world.plants if plant.kind == "alike" and plant.how != "paraphrased"]
    assert plants and not [plant for plant in plants if world.pairs(plant)]
    assert {(plant.id, plant.benchmark, plant.item) for plant in plants} <= alike
    assert world.leaks.summary["questions"]["other_image"] == len(alike)


def test_paraphrases_are_not_found(world):
    """What n-grams cannot do: the documentation says so."""
    assert not [pair for plant in planted(world, "paraphrased", PHOTOS) for pair in world.pairs(plant)]


def test_no_photograph_and_no_question_of_the_clean_samples_is_a_leak(world):
    found = [row for row in world.rows if row["source"] == "clean" and row["benchmark"] in PHOTOS]
    assert found == []


def test_a_template_alone_is_no_leak(world):
    """Hundreds of samples and items ask for what is shown in the image."""
    asked = {plant.id for plant in world.plants if not plant.asks}
    assert not [row for row in world.rows if row["id"] in asked and row["kind"] == "question"]


def test_keys_are_those_of_the_evaluation(world):
    held = world.targets.opened.benchmarks
    for row in world.rows:
        items = held[row["benchmark"]]
        at = items.ids.index(row["item"])
        assert row["unit"] == items.units[at]
    assert world.leaks.table.schema == LEAKS


def test_summary_counts_what_the_table_holds(world):
    rows, summary = world.rows, world.leaks.summary
    assert summary["leaks"] == len(rows) == sum(summary["by_kind"].values())
    assert summary["leaked_samples"] == len({row["row"] for row in rows}) == len(world.leaks.rows())
    assert summary["leaked_items"] == len({(row["benchmark"], row["item"]) for row in rows})
    assert set(summary["by_source"]) <= {"leaked", "clean"}
    assert list(summary["by_benchmark"])[:5] == world.targets.names
    assert summary["pool_hash"] == world.pool.hash and set(summary["data"]) == set(world.targets.names)


def test_one_row_for_each_sample_and_item(world):
    keys = [(row["row"], row["benchmark"], row["item"]) for row in world.rows]
    assert len(set(keys)) == len(keys)


def test_a_wider_radius_finds_more_photographs(world):
    def found(leaks):
        return {
            (row["row"], row["place"])
            for row in leaks.table.to_pylist()
            if row["benchmark"] in PHOTOS and row["kind"] != "question"
        }

    few = find_leaks(world.pool, world.targets, Rules(ImageRule(radius=0), None))
    assert found(few) and found(few) < found(world.leaks)


def test_longer_n_grams_find_no_more(world):
    def found(n):
        table = find_leaks(world.pool, world.targets, Rules(None, QuestionRule(n=n))).table
        return set(zip(table["benchmark"].to_pylist(), table["item"].to_pylist(), strict=True))

    assert found(13) < found(8)


def test_questions_alone_need_no_image_hashes(world, tmp_path):
    from curation.pool.ingest import build_pool

    source = world.pool.files[0]
    build_pool(source, source.parent, tmp_path / "pool", workers=0)
    targets = read_targets(world.targets.opened, images=False)
    leaks = find_leaks(Pool.open(tmp_path / "pool"), targets, Rules(None))
    assert set(leaks.table["kind"].to_pylist()) == {"question"}


def test_dropped_samples_are_gone_and_say_why(world, tmp_path):
    left = drop_leaks(world.pool, world.leaks, tmp_path / "clean", ("image_exact",))
    rows = world.leaks.rows(("image_exact",))
    pool = Pool.open(tmp_path / "clean")
    assert left["n"] == len(pool) == len(world.pool) - len(rows)
    ids = world.pool.table["id"].take(pa.array(rows)).to_pylist()
    assert not set(ids) & set(pool.table["id"].to_pylist())
    quarantine = pq.read_table(tmp_path / "clean" / "quarantine.parquet").to_pylist()
    assert {row["id"] for row in quarantine if row["reason"] == "leak"} == set(ids)
    assert find_leaks(pool, world.targets).rows(("image_exact",)).size == 0


def test_drop_names_each_sample_once(world):
    table = to_drop(world.leaks)
    rows = table["row"].to_pylist()
    assert rows == sorted(set(rows)) == world.leaks.rows(KINDS).tolist()


def test_same_result_with_threads_and_twice(world):
    again = find_leaks(world.pool, world.targets, workers=3)
    assert again.table.equals(world.leaks.table) and again.summary == world.leaks.summary


def test_an_image_that_has_gone_since_the_audit_is_counted(world, tmp_path):
    source, images = world.pool.files[0], tmp_path / "images"
    [gone] = [plant.id for plant in world.plants if plant.how == "JPEG quality 75"][:1]
    shutil.copytree(source.parent / "images", images)
    shutil.copy(source, tmp_path / "pool.json")
    pool = full_pool(tmp_path, tmp_path / "pool")
    (images / f"{gone}.img").unlink()
    leaks = find_leaks(pool, world.targets)
    assert leaks.summary["images"]["unreadable_of_pool"] == 1


def test_files_are_whole_or_absent(world, tmp_path):
    write_leaks(world.pool, world.targets, world.leaks, tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "alike.parquet",
        "leaks.html",
        "leaks.json",
        "leaks.parquet",
    ]
    assert pq.read_table(tmp_path / "leaks.parquet").num_rows == len(world.leaks.table)
    assert json.loads((tmp_path / "leaks.json").read_text()) == json.loads(json.dumps(world.leaks.summary))


def test_missing_benchmarks_are_told(world, tmp_path):
    opened = open_items("mm14", world.mirror, only=["chartqa", "mmvet"], allow_missing=True)
    assert list(opened.benchmarks) == ["chartqa"] and "MMVet" in opened.missing["mmvet"]
    leaks = find_leaks(world.pool, read_targets(opened))
    assert list(leaks.summary["missing"]) == ["mmvet"]
