"""Benchmark data are read as a download leaves them, without a network, and refused unless whole."""

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from benchmark_mirror import TABLES, gold, write_mirror, wrong
from benchmark_rows import Draw
from processes import environment

from evaluation import arrow_cache, mirror
from evaluation.held_out import check_disjoint
from evaluation.mirror import Mirror, MirrorError, splits_of
from evaluation.repository import Record, configs_of, patterns_of, sha256, write_record
from evaluation.suite import Benchmark, Data, Images, load_suite

MMSTAR = Data(repo="Lin-Chen/MMStar", split="val", columns=("index", "question"), id="index")
POPE = Data(repo="lmms-lab-encoder/POPE", config="Full", split="popular")
MME = Data(repo="lmms-lab-encoder/MME")
GQA = Data(
    repo="lmms-lab-encoder/GQA",
    config="testdev_balanced_instructions",
    split="testdev",
    images=Images(config="testdev_balanced_images", split="testdev", key="imageId"),
)
SUITES = ("mm14", "mmssr10", "llava10", "rules")


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """The mirror with all repositories; tests do not change it."""
    return write_mirror(tmp_path_factory.mktemp("mirror"))


@pytest.fixture
def small(whole, tmp_path) -> Path:
    """A copy of some repositories, which a test may damage."""
    for repo in ("Lin-Chen/MMStar", "lmms-lab-encoder/POPE", "lmms-lab-encoder/MME", "lmms-lab-encoder/GQA"):
        shutil.copytree(whole / repo, tmp_path / "mirror" / repo)
    return tmp_path / "mirror"


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*_):
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def benchmark(data: Data, n: int | None = None, **more) -> Benchmark:
    task = {"task": "toy", "n": n}
    return Benchmark(name="toy", label="Toy", tasks=[task], data=data, extractor={"kind": "short"}, **more)


def data_of(table) -> Data:
    if not table.repo:
        return Data(file=table.files, split=table.split)
    return Data(repo=table.repo, config=table.config, split=table.split)


@pytest.mark.parametrize("table", TABLES, ids=lambda t: f"{t.repo.split('/')[-1]}-{t.config}-{t.split}")
def test_every_split_is_read_with_its_types_and_without_a_network(whole, no_network, table):
    rows = Mirror(whole).rows(data_of(table))
    draw = Draw(f"{table.repo} {table.config} {table.split}")
    assert rows.features == table.features
    assert len(rows) == len(list(table.rows(draw, 6)))
    for name, value in rows[len(rows) - 1].items():
        assert not hasattr(value, "size") or value.convert("RGB").size[0] > 0, name


def test_the_mirror_of_the_tests_is_the_same_each_time(whole, tmp_path):
    again = write_mirror(tmp_path, repositories=["lmms-lab-encoder/MME", "AI4Math/MathVista"])
    files = sorted(file.relative_to(again) for file in again.rglob("*.*") if file.is_file())
    assert len(files) == 7
    assert [(again / file).read_bytes() for file in files] == [(whole / file).read_bytes() for file in files]


@pytest.mark.parametrize("name", SUITES)
def test_every_benchmark_of_the_suites_is_in_the_mirror_of_the_tests(whole, name):
    for entry in load_suite(name):
        Mirror(whole).check(entry)
        for task in entry.tasks:
            for doc in Mirror(whole).rows(entry.data_of(task)).to_list():
                assert gold(task.task, doc) != wrong(task.task, doc)


def test_identity_is_that_of_the_content(small):
    before = Mirror(small).digest(POPE)
    assert Mirror(small).digest(POPE.model_copy(update={"split": "random"})) != before
    moved = small.rename(small.with_name("elsewhere"))
    file = moved / POPE.repo / "Full" / "popular-00000-of-00001.parquet"
    os.utime(file, (1, 1))
    file = file.rename(file.with_name("popular-0.parquet"))
    assert Mirror(moved).digest(POPE) == before
    table = pq.read_table(file)
    pq.write_table(table.slice(1), file)
    assert Mirror(moved).digest(POPE) != before
    assert len(Mirror(moved).rows(POPE)) == len(table) - 1


def test_images_of_another_configuration_count_for_the_identity(small):
    before = Mirror(small).digest(GQA)
    file = next((small / GQA.repo / "testdev_balanced_images").glob("*"))
    pq.write_table(pq.read_table(file).slice(0, 2), file)
    assert Mirror(small).digest(GQA) != before


def test_a_known_hash_is_not_computed_again_unless_asked(small, monkeypatch):
    before = Mirror(small).digest(POPE)
    read = []
    monkeypatch.setattr("evaluation.repository.sha256", lambda file: read.append(file) or sha256(file))
    assert Mirror(small).digest(POPE) == before and not read
    assert Mirror(small, fresh=True).digest(POPE) == before and len(read) == 1


def test_rows_are_mapped_from_one_arrow_file(small):
    first = Mirror(small).rows(MME)
    (name,) = [file["filename"] for file in first.cache_files]
    assert Path(name).is_relative_to(small / ".arrow" / "lmms-lab-encoder--MME" / Mirror(small).digest(MME))
    written = os.stat(name).st_mtime_ns
    assert Mirror(small).rows(MME).cache_files == first.cache_files
    assert os.stat(name).st_mtime_ns == written
    assert first["question_id"][0] == "existence/0000.png" and len(first) == 56  # four files, in order


@pytest.mark.slow
def test_two_processes_may_be_first(small):
    code = (
        "from evaluation.mirror import Mirror; from evaluation.suite import Data; from pathlib import Path\n"
        f"m, d = Mirror(Path({str(small)!r})), Data(repo={MME.repo!r})\n"
        "print(len(m.rows(d)), m.digest(d), sum(r['image'].size[0] for r in m.rows(d)))"
    )
    command = [sys.executable, "-c", code]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, env=environment()) for _ in range(2)]
    outputs = [process.communicate(timeout=60)[0] for process in both]
    assert outputs[0] == outputs[1] and outputs[0].startswith(b"56 ")
    assert len(list((small / ".arrow").rglob("*.arrow"))) == 1
    assert not list((small / ".arrow").rglob("*.tmp"))


def test_a_read_only_mirror_has_its_copies_in_the_users_cache(small, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (small / ".arrow").write_text("")  # root may write everywhere, but not make a folder of this
    held = Mirror(small)
    with pytest.warns(
        UserWarning, match=r"read-only: Arrow copies are kept in .*cache/winnow/arrow"
    ) as noted:
        assert len(held.rows(MME)) == len(held.rows(MME)) == 56
    assert len(noted) == 1
    assert len(list((tmp_path / "cache" / "winnow" / "arrow").rglob("*.arrow"))) == 1


def test_images_of_another_configuration_are_joined(whole):
    rows = Mirror(whole).rows(GQA)
    plain = Mirror(whole).rows(GQA.model_copy(update={"images": None}))
    pictures = {row["id"]: row["image"].tobytes() for row in Mirror(whole).rows(splits_of(benchmark(GQA))[1])}
    assert "image" not in plain.features and len(rows) == len(plain)
    assert [row["image"].tobytes() for row in rows] == [pictures[row["imageId"]] for row in plain]


@pytest.mark.parametrize("above", [True, False], ids=["in memory", "mapped"])
def test_a_data_file_is_read(whole, tmp_path, monkeypatch, above):
    """A small one as it is: nothing is written into its folder, which may be an artefact."""
    name = "MMBench_DEV_EN_V11.parquet"
    shutil.copy(whole / name, tmp_path)
    monkeypatch.setattr(mirror, "IN_MEMORY", 2**30 if above else 0)
    held, data = Mirror(tmp_path), Data(file=name, split="dev")
    rows = held.rows(data)
    assert rows["index"][:2] == [0, 1_000_000] and bool(rows.cache_files) != above
    assert held.digest(data) == Mirror(whole).digest(data)
    assert [path.name for path in tmp_path.iterdir() if path.name != name] == ([] if above else [".arrow"])


def test_columns_of_bytes_and_paths_are_images_even_if_the_file_does_not_say_so(tmp_path):
    image = Draw("x").picture()
    cell = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    table = pa.table(
        {"one": pa.array([image, None], cell), "all": pa.array([[image] * 2, []], pa.list_(cell))}
    )
    folder = tmp_path / "a" / "b" / "data"
    folder.mkdir(parents=True)
    pq.write_table(table, folder / "test-00000-of-00001.parquet")
    rows = Mirror(tmp_path).rows(Data(repo="a/b"))
    assert rows[0]["one"].size == rows[0]["all"][1].size
    assert rows[1] == {"one": None, "all": []}


@pytest.mark.parametrize(
    ("files", "config", "split"),
    [
        (["data/test-00000-of-00001.parquet"], None, "test"),
        (["test.parquet"], None, "test"),
        (["en/dev-00000-of-00001-0a1b2c.parquet", "cn/dev-00000-of-00001-3d4e5f.parquet"], "cn", "dev"),
    ],
)
def test_without_a_readme_the_names_of_the_files_tell(tmp_path, files, config, split):
    for k, name in enumerate(files):
        (tmp_path / "a" / "b" / name).parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table({"k": [k]}), tmp_path / "a" / "b" / name)
    data = Data(repo="a/b", config=config, split=split)
    assert Mirror(tmp_path).rows(data)["k"][:] == [len(files) - 1]


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ({"data_files": "x.parquet"}, {"train": ["x.parquet"]}),
        ({"data_files": ["x.parquet", "y/*"]}, {"train": ["x.parquet", "y/*"]}),
        ({"data_files": [{"split": "val", "path": "v/*"}]}, {"val": ["v/*"]}),
        ({"data_files": [{"split": "val", "path": ["v", "w"]}], "data_dir": "d"}, {"val": ["d/v", "d/w"]}),
        ({"data_files": {"split": "val", "path": "v"}}, {"val": ["v"]}),
        ({}, {}),
    ],
)
def test_forms_of_data_files(entry, expected):
    assert patterns_of(entry) == expected


def test_the_default_configuration_is_the_marked_one(small):
    folder = small / POPE.repo
    front = {"configs": [{"config_name": "default", "data_files": "none.parquet"}]}
    marked = {
        "config_name": "Full",
        "default": True,
        "data_files": [{"split": "test", "path": "Full/random-*"}],
    }
    front["configs"].append(marked)
    (folder / "README.md").write_text(f"---\n{json.dumps(front)}\n---\n")
    assert list(configs_of(folder / "README.md")) == ["default", "Full"]
    assert set(Mirror(small).rows(Data(repo=POPE.repo))["category"]) == {"random"}


def test_parts_of_downloads_are_no_data(small):
    folder = small / POPE.repo
    (folder / "README.md").write_text(
        "---\nconfigs: [{data_files: [{split: test, path: '**/*.parquet'}]}]\n---\n"
    )
    (folder / ".cache").mkdir()
    shutil.copy(small / POPULAR, folder / ".cache" / "part.parquet")
    assert len(Mirror(small).files(Data(repo=POPE.repo))) == 4


def _truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-200])


def _scribble(file: Path) -> None:
    """The first page of data becomes zeros; the footer stays."""
    content = bytearray(file.read_bytes())
    content[4 : len(content) // 2] = bytes(len(content) // 2 - 4)
    file.write_bytes(content)


def _rename_column(file: Path) -> None:
    table = pq.read_table(file)
    pq.write_table(table.rename_columns(["other", *table.column_names[1:]]), file)


def _paths_only(file: Path) -> None:
    table = pq.read_table(file).to_pylist()
    rows = [row | {"image": {"bytes": None, "path": "pictures/1.jpg"}} for row in table]
    pq.write_table(pa.Table.from_pylist(rows, schema=pq.read_schema(file)), file)


def _readme(text: str):
    return lambda file: (file.parents[1] / "README.md").write_text(text)


POPULAR = "lmms-lab-encoder/POPE/Full/popular-00000-of-00001.parquet"
SECOND = "lmms-lab-encoder/MME/data/test-00001-of-00004.parquet"
NONE = POPULAR


@pytest.mark.parametrize(
    ("data", "file", "damage", "message"),
    [
        (Data(repo="a/b"), NONE, None, r"lacks repository a/b; it has Lin-Chen/MMStar, .*fetch"),
        (POPE.model_copy(update={"config": "x"}), NONE, None, r"no configuration 'x'; it has default, Full"),
        (MME.model_copy(update={"split": "val"}), NONE, None, r"no split 'val'; it has test"),
        (POPE, POPULAR, Path.unlink, r"split 'popular' has no files \(Full/popular-\*\)"),
        (POPE, POPULAR, _truncate, r"popular-00000-of-00001.parquet is not a readable Parquet file"),
        (POPE, POPULAR, _scribble, r"popular-00000-of-00001.parquet is damaged"),
        (POPE, POPULAR, _paths_only, r"column 'image' holds paths of images"),
        (POPE, POPULAR, _readme("---\nconfigs: [1]\n---\n"), r"README.md: the front matter has no valid"),
        (POPE, POPULAR, _readme("---\na: {\n---\n"), r"README.md: the front matter has no valid"),
        (MME, SECOND, Path.unlink, r"1 of 4 files are missing, the first is test-00001-of-00004"),
        (MME, SECOND, _rename_column, r"test-00001-of-00004.parquet has columns other, .*00000-of-00004"),
        (
            MME,
            SECOND,
            _readme("---\nconfigs: [{data_files: [{split: test, path: ../../*/*/x}]}]\n---\n"),
            r"data file '\.\./\.\./.*' is outside the repository",
        ),
        (
            MME,
            SECOND,
            _readme("---\nconfigs: [{data_files: [{split: test, path: READ*}]}]\n---\n"),
            r"README.md is not a Parquet file",
        ),
        (Data(file="x.parquet"), NONE, None, r"lacks the data file x.parquet"),
    ],
)
def test_data_that_are_not_whole_are_refused(small, data, file, damage, message):
    if damage:
        damage(small / file)
    with pytest.raises(MirrorError, match=message):
        Mirror(small).rows(data)


def test_a_missing_mirror_is_refused(tmp_path):
    with pytest.raises(MirrorError, match="x does not exist, or is no folder"):
        Mirror(tmp_path / "x")


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (
            benchmark(MMSTAR.model_copy(update={"columns": ("index", "hint")})),
            r"lacks column hint; it has index,",
        ),
        (benchmark(MMSTAR.model_copy(update={"id": "key"})), r"lacks column key"),
        (benchmark(MMSTAR, n=1500), r"task toy: 24 questions instead of 1500"),
        (
            benchmark(GQA.model_copy(update={"images": GQA.images.model_copy(update={"id": "x"})})),
            r"lacks column x",
        ),
    ],
)
def test_a_check_says_what_is_missing(small, entry, message):
    with pytest.raises(MirrorError, match=message):
        Mirror(small).check(entry, strict=True)


def test_copies_of_a_question_count_once(whole):
    data = Data(repo="lmms-lab-encoder/MMBench", config="cn", split="dev")
    unit = {"by": ["index"], "modulo": 1_000_000, "score": "all"}
    Mirror(whole).check(benchmark(data, n=3, unit=unit), strict=True)
    with pytest.raises(MirrorError, match="3 questions instead of 6"):
        Mirror(whole).check(benchmark(data, n=6, unit=unit), strict=True)
    Mirror(whole).check(benchmark(data, n=6), strict=True)
    Mirror(whole).check(benchmark(data, n=7))  # not strict


def test_a_file_without_rows_is_refused(small):
    file = small / POPULAR
    pq.write_table(pq.read_table(file).slice(0, 0), file)
    with pytest.raises(MirrorError, match="task toy: 0 questions"):
        Mirror(small).check(benchmark(POPE))


def test_an_image_that_is_not_there_is_named(small):
    file = next((small / GQA.repo / "testdev_balanced_images").glob("*"))
    table = pq.read_table(file)
    pq.write_table(table.slice(1), file)
    with pytest.raises(MirrorError, match="lacks 1 images of questions"):
        Mirror(small).check(benchmark(GQA))
    with pytest.raises(MirrorError, match="no row with id 'n2'"):
        Mirror(small).rows(GQA)
    pq.write_table(pa.concat_tables([table, table.slice(1)]), file)
    with pytest.raises(MirrorError, match="2 values of id are not unique"):
        Mirror(small).rows(GQA)


def test_files_must_be_those_that_were_fetched(small):
    file, folder = small / POPULAR, small / POPE.repo
    name = file.relative_to(folder).as_posix()
    pinned = benchmark(POPE.model_copy(update={"revision": "b" * 40}))
    Mirror(small).check(benchmark(POPE))
    with pytest.raises(MirrorError, match="does not say its revision, not bbbb"):
        Mirror(small).check(pinned)
    write_record(folder, Record(POPE.repo, "a" * 40, {name: (file.stat().st_size, sha256(file))}))
    Mirror(small).check(benchmark(POPE))
    with pytest.raises(MirrorError, match=r"is at revision aaaa.*, not bbbb"):
        Mirror(small).check(pinned)
    with pytest.raises(MirrorError, match="is not among the files that were fetched"):
        Mirror(small).check(benchmark(POPE.model_copy(update={"split": "random"})))
    pq.write_table(pq.read_table(file).slice(1), file)
    with pytest.raises(MirrorError, match=r"popular-.* has changed since it was fetched"):
        Mirror(small).check(benchmark(POPE))
    (folder / ".winnow.json").write_text('{"files": 3}')
    with pytest.raises(MirrorError, match="is not a record of a download"):
        Mirror(small).check(benchmark(POPE))


def test_a_half_written_arrow_file_is_never_seen(small, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(arrow_cache, "_check_bytes", stop)
    with pytest.raises(KeyboardInterrupt):
        Mirror(small).rows(MME)
    assert not list((small / ".arrow").rglob("*.arrow*"))
    monkeypatch.undo()
    assert len(Mirror(small).rows(MME)) == 56


def test_validation_items_must_not_be_reported(whole):
    held = Mirror(whole)
    reported = {"popular": held.rows(POPE)}
    other = held.rows(POPE.model_copy(update={"split": "random"}))
    check_disjoint(reported, other)  # the same questions about other images
    again = other.select([0, 1]).to_list() + held.rows(POPE).select([3, 5]).to_list()
    items = type(other).from_list(
        [row | {"question": row["question"].upper()} for row in again], other.features
    )
    with pytest.raises(
        MirrorError, match=r"2 of 6 questions of popular are .* row 3 of popular and row 2 of"
    ):
        check_disjoint(reported, items)
    with pytest.raises(MirrorError, match="no column text"):
        check_disjoint(reported, items, "text")


def test_rows_that_count_are_named_by_a_column(whole):
    (perception,) = [b for b in load_suite("llava10") if b.name == "mme_perception"]
    (everything_of,) = [b for b in load_suite("mm14") if b.name == "mme"]
    opened, (task,) = Mirror(whole), perception.tasks
    rows, everything = (opened.rows(b.data_of(b.tasks[0])) for b in (perception, everything_of))
    categories = set(perception.data.where[1])
    assert set(rows["category"]) == categories < set(everything["category"])
    assert len(rows) == sum(c in categories for c in everything["category"])
    assert opened.questions(perception, task) == len(rows)
    assert opened.digest(perception.data_of(task)) != opened.digest(everything_of.data)


def test_images_whose_paths_are_all_missing_are_images(tmp_path, small):
    from datasets import Image

    encoded = pq.read_table(next(small.rglob("*.parquet")))
    (name, picture), *_ = [
        (name, value)
        for name, value in encoded.slice(0, 1).to_pylist()[0].items()
        if isinstance(value, dict) and "bytes" in value
    ]
    rows = [{"question": "?", name: {"bytes": picture["bytes"], "path": None}}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "own.parquet")
    assert pa.types.is_null(pq.read_schema(tmp_path / "own.parquet").field(name).type.field("path").type)
    features = Mirror(tmp_path).rows(Data(file="own.parquet")).features
    assert isinstance(features[name], Image)
