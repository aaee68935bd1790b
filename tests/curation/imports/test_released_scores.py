"""A folder as the released mmSSR code writes it, `idx` unlike `id`, gives the subset of that code's rules."""

import json
import random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from curation.imports.load import main as load
from curation.imports.official_folder import OfficialFolderError, read_official_folder
from curation.imports.score_text import ScoreError
from curation.pool.ingest import build_pool
from curation.pool.read import Pool
from curation.select import main as select
from curation.signals.core.table import DuplicateRowsError, OtherPoolError, read_signal
from curation.subset import read_subset

FILES = (
    "spatial attribute logical scene fine-grained language in-context comparative activity causal humanities "
    "stem data optical"
).split()
"""Names of files, in the order of the taxonomy: words of the phrases, as the released scripts use them."""
STYLES = ("multi-choice", "yes/no", "word/short-phrase", "short description", "comparison", "coordinate")
SOURCES = ("geo170k(qa)", "ai2d(gpt4v)", "tqa")


class Release:
    """`n` records in the released layout below `folder`, and the outputs of scorer and styler on them."""

    def __init__(self, folder, n=90, seed=0):
        draw = random.Random(seed)
        self.folder = folder
        (folder / "images").mkdir()
        Image.new("RGB", (4, 4), "red").save(folder / "images" / "a.png")
        names = draw.sample(range(1_700_000, 1_800_000), n)
        self.records = [
            {
                "id": f"{9000 + i // 2}_{i % 7}",  # as in the release, other than idx; some of them repeat
                "image": "a.png",
                "conversations": [
                    {"from": "human", "value": f"<image>\nwhat is {i} ?"},
                    {"from": "gpt", "value": f"number {i}"},
                ],
                "image_source": draw.choice(SOURCES),
                "idx": name,
            }
            for i, name in enumerate(names)
        ]
        self.scores = {file: {name: draw.randint(0, 5) for name in names} for file in FILES}
        self.styles = {name: ", ".join(draw.sample(STYLES, draw.choice((1, 1, 2)))) for name in names}
        self.draw = draw

    def pool(self):
        (self.folder / "qas.json").write_text(json.dumps(self.records))
        out = self.folder / "pool"
        build_pool(self.folder / "qas.json", self.folder / "images", out)
        return out

    def scored(self, name="result"):
        """One file for each capability and style.jsonl, each in the order of the records."""
        folder = self.folder / name
        folder.mkdir()
        for file, said in {**self.scores, "style": self.styles}.items():
            lines = [{"idx": name, "pred_response": str(text)} for name, text in said.items()]
            (folder / f"{file}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        return folder

    def picked(self, ratio, threshold=0):
        """The idx that the released rules take: sorts stable, capabilities in order, debts carried over."""
        wanted, taken, capabilities = int(len(self.records) * ratio), [], list(FILES)
        order = [record["idx"] for record in self.records]
        source = {record["idx"]: record["image_source"] for record in self.records}
        while len(taken) < wanted:
            share = max((wanted - len(taken)) // len(capabilities), 1)
            empty = []
            for capability in capabilities:
                share = min(share, wanted - len(taken))
                score = self.scores[capability]
                left = [name for name in order if name not in taken and score[name] > threshold]
                left.sort(key=lambda name: -score[name])
                new = self._shared(left, source, share)
                taken += new
                empty += [] if new else [capability]
                if len(taken) >= wanted:
                    break
            capabilities = [capability for capability in capabilities if capability not in empty]
        return taken

    def _shared(self, left, source, share):
        bins = {}
        for depth in range(2):
            for name in left:
                styles = self.styles[name].split(", ")
                if depth < len(styles):
                    bins.setdefault(f"{styles[depth]}+{source[name]}", []).append(name)
        each, debt, new = max(share // max(len(bins), 1), 1), 0, []
        for _, names in sorted(bins.items(), key=lambda entry: (len(entry[1]), entry[0])):
            if len(new) >= share:
                break
            free = [name for name in names if name not in new]
            new += free[: each + debt]
            debt = max(each + debt - len(free), 0)
        return new


@pytest.fixture
def release(tmp_path):
    return Release(tmp_path)


@pytest.mark.parametrize("seed, percent", [(0, 10), (1, 30), (2, 30), (3, 60)])
def test_a_released_folder_gives_the_released_subset(tmp_path, seed, percent, capsys):
    release = Release(tmp_path, seed=seed)
    pool, folder, out = release.pool(), release.scored(), tmp_path / "subset"
    arguments = ["mmssr_official", "--pool", pool, "--signals", folder, "--mode", "official"]
    arguments += ["--budget", f"{percent}%", "--param", "overshoot=official", "--out", out]
    assert select([str(argument) for argument in arguments]) == 0, capsys.readouterr().err
    table = Pool.open(pool).table
    rows = read_subset(out)["row"].to_pylist()
    expected = release.picked(percent / 100)
    assert [int(table["idx"][row].as_py()) for row in rows] == expected
    assert len(set(expected)) == len(expected) >= 90 * percent // 100
    assert "joined by the pool's idx" in capsys.readouterr().out


def test_the_idx_of_a_record_is_kept_and_the_pools_hash_is_not_changed(release, tmp_path):
    pool = Pool.open(release.pool())
    assert pool.table["idx"].to_pylist() == [str(record["idx"]) for record in release.records]
    assert not set(pool.table["idx"].to_pylist()) & set(pool.table["id"].to_pylist())
    for record in release.records:
        del record["idx"]
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain" / "a.json").write_text(json.dumps(release.records))
    build_pool(tmp_path / "plain" / "a.json", tmp_path / "images", tmp_path / "plain" / "pool")
    plain = Pool.open(tmp_path / "plain" / "pool")
    assert plain.hash == pool.hash and plain.table["idx"].null_count == len(plain)


def test_the_idx_of_an_unpacked_input_is_its_own_not_its_place(release, tmp_path):
    release.records[3]["idx"] = 3  # its place too
    del release.records[4]["idx"]
    table = pa.Table.from_pylist(release.records)
    pq.write_table(table, tmp_path / "qas.parquet")
    build_pool(tmp_path / "qas.parquet", tmp_path / "images", tmp_path / "pool")
    idx = Pool.open(tmp_path / "pool").table["idx"].to_pylist()
    assert idx[2:5] == [str(release.records[2]["idx"]), "3", None]
    unpacked = tmp_path / "pool" / "unpacked"
    again = next(file for file in unpacked.rglob("*.jsonl"))
    build_pool(again, tmp_path / "images", tmp_path / "second")
    assert Pool.open(tmp_path / "second").table["idx"].to_pylist()[2:4] == idx[2:4]


def test_lines_of_unknown_and_of_repeated_idx_are_counted(release, tmp_path, capsys):
    pool, folder = release.pool(), release.scored()
    first = release.records[0]["idx"]
    again = {"idx": first, "pred_response": str(release.scores["stem"][first])}
    with (folder / "stem.jsonl").open("a") as file:
        file.write(json.dumps({"idx": 5, "pred_response": "3"}) + "\n" + json.dumps(again) + "\n")
    assert load([str(folder), "--pool", str(pool), "--out", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    assert "result/stem.jsonl (cap_stem): not_in_pool 1; repeated 1" in said
    signal = read_signal(tmp_path / "out")
    assert signal["cap_logic"].to_pylist() == list(release.scores["logical"].values())
    assert json.loads((tmp_path / "out" / "import.json").read_text())["key"] == "idx"


@pytest.mark.parametrize("file", ["stem", "style"])
@pytest.mark.parametrize("line", [{"pred_response": None}, {"response": "3"}])
def test_a_file_without_any_value_is_an_error(release, file, line):
    pool, folder = Pool.open(release.pool()), release.scored()
    lines = [json.dumps({"idx": record["idx"], **line}) for record in release.records]
    (folder / f"{file}.jsonl").write_text("\n".join(lines))
    with pytest.raises(ScoreError, match=rf"{file}.jsonl: none of its 90 lines .*no_value 90.*pred_response"):
        read_official_folder(folder, pool.table, release.folder / "out")


def test_which_key_joins_can_be_said(tmp_path):
    pool = pa.table({"row": pa.array([0, 1, 2], pa.int32()), "id": ["1", "2", "3"], "source": ["a"] * 3})
    pool = pool.append_column("idx", pa.array(["2", "3", None]))
    (tmp_path / "ocr.jsonl").write_text('{"idx": 2, "pred_response": "4"}\n{"idx": 9, "pred_response": "1"}')
    for key, scores in ((None, [4, None, None]), ("idx", [4, None, None]), ("id", [None, 4, None])):
        counts = read_official_folder(tmp_path, pool, tmp_path / f"out-{key}", key=key)
        assert read_signal(tmp_path / f"out-{key}")["cap_ocr"].to_pylist() == scores
        assert counts["key"] == (key or "idx")
    with pytest.raises(OfficialFolderError, match="no sample of the pool has an `idx`"):
        read_official_folder(tmp_path, pool.drop_columns(["idx"]), tmp_path / "out", key="idx")
    repeated = pool.set_column(3, "idx", pa.array(["2", "2", None]))
    with pytest.raises(
        DuplicateRowsError, match=r"1 samples of the pool repeat an idx, the first is '2'.*--key id"
    ):
        read_official_folder(tmp_path, repeated, tmp_path / "out")
    (tmp_path / "ocr.jsonl").write_text('{"idx": 1, "pred_response": "4"}')
    with pytest.raises(OtherPoolError, match=r"whose first idx is '2'; .* \(--key id\)"):
        read_official_folder(tmp_path, pool, tmp_path / "out")


def test_the_json_of_the_release_can_be_the_pool(release, capsys):
    """Without images: the records as a plain table of id, source and idx."""
    for at, record in enumerate(release.records):
        record["id"] = f"s{at}"
    (release.folder / "qas.json").write_text(json.dumps(release.records))
    out = release.folder / "out"
    arguments = [str(release.scored()), "--pool", str(release.folder / "qas.json"), "--out", str(out)]
    assert load(arguments) == 0, capsys.readouterr().err
    assert read_signal(out)["cap_ocr"].to_pylist() == list(release.scores["optical"].values())
