"""The whole way of a pool, as a user goes it: build, audit, dedup, decontaminate, select, export.

    OMP_NUM_THREADS=1 python tests/benchmarks/pool_chain.py --records 2600000 --dir /tmp/chain

Generates a LLaVA list with the texts and the picture names of ingest.py, in which everything that a step has
to find is planted: repeated ids, records that are there twice, copies of four kinds, bad records, damaged
pictures, and items of a made-up mirror of benchmarks (tests/support/planted_leaks.py). Each step is a command
in a process of its own. Printed are its CPU seconds (all processes), its memory, the ratio to bare orjson
over the same file, and what was planted beside what was found. Exit status 1: a record was lost, or a count
that has no error by design is not the planted one.
"""

import argparse
import ctypes
import dataclasses
import json
import os
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import ingest
import numpy as np
import psutil
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "support")]

SHARES = {
    "repeated id": 0.01,
    "twice": 0.001,
    "exact": 0.005,
    "same": 0.005,
    "near_image": 0.005,
    "near_text": 0.01,
    "damaged": 0.0005,
    "image_missing": 0.0005,
    "image_truncated": 0.0005,
    "image_count_mismatch": 0.0005,
    "odd_roles": 0.0005,
    "empty_answer": 0.0005,
    "broken_json": 0.0005,
}
"""What a share of the records is. The first six repeat another record: its id; id and content; content;
content about the same file under another name; about the picture stored again; with another word."""
COPIES = ("exact", "same", "near_image", "near_text")
BAD = ("image_missing", "image_truncated", "image_count_mismatch", "odd_roles", "empty_answer", "broken_json")
BROKEN = '{"id": "broken", "conversations": [{"from": "human"}, }'
TEXT_ALONE = 0.14
STORED_AGAIN = 50
"""Of so many pictures one has a copy of its file and one of its pixels."""
LONG = 60
"""Words of a conversation in which one may change: a Jaccard index above 0.9."""
DAMAGED = 20
"""Picture files that are cut off, and that have a wrong checksum."""
_SEPARATOR = 104_729  # a prime: the turns of neighbouring pictures are far apart
_NEXT_TURN = 7919


@dataclass(frozen=True)
class Plant:
    """What a record is (a key of SHARES or "leak"), and the record that it repeats, -1 for none."""

    kind: str
    base: int = -1


class Records:
    """Record `row` of the list, a function of its number; no two about one picture have a turn in common."""

    def __init__(self, records: int, pictures: int) -> None:
        rng = random.Random(0)
        self.pictures, self.turns = pictures, []
        for _ in range(ingest.BODIES):
            said = [turn["value"].removeprefix("<image>\n") for turn in ingest._conversation(rng)]
            self.turns += zip(said[::2], said[1::2], strict=True)
        self.alone = np.random.default_rng(0).random(records) < TEXT_ALONE

    def picture(self, row: int) -> int:
        """Number of its picture; -1 for text alone."""
        return -1 if self.alone[row] else row % self.pictures

    def conversation(self, row: int) -> list[tuple[str, str]]:
        """(question, answer) of each turn."""
        if self.alone[row]:  # these are compared by their words alone, so that no two share any turn
            said = [
                turn["value"].removeprefix("<image>\n") for turn in ingest._conversation(random.Random(row))
            ]
            return list(zip(said[::2], said[1::2], strict=True))
        first = row // self.pictures + row % self.pictures * _SEPARATOR
        count = (1, 1, 2, 3, 5, 6)[row * 2_654_435_761 % 2**32 * 6 >> 32]
        return [self.turns[(first + k * _NEXT_TURN) % len(self.turns)] for k in range(count)]


def written(
    id: str, picture: str, turns: list[tuple[str, str]], roles: tuple[str, str] = ("human", "gpt")
) -> str:
    """A record as JSON; picture "": text alone. The texts hold nothing that JSON escapes."""
    said = [f'{{"from": "{roles[k % 2]}", "value": "{text}"}}' for k, text in enumerate(sum(turns, ()))]
    if picture:
        said[0] = said[0].replace('"value": "', '"value": "<image>\\n', 1)
    image = f'"image": "{picture}", ' if picture else ""
    return f'{{"id": "{id}", {image}"conversations": [{", ".join(said)}]}}'


def planted(records: Records, count: int, leaks: int) -> dict[int, Plant]:
    """Record -> what is planted there; every record is planted, or repeated, once at most."""
    order = iter(np.random.default_rng(1).permutation(count).tolist())
    plants = dict.fromkeys(islice(order, leaks), Plant("leak"))
    spare: list[int] = []

    def base(fits: Callable[[int], bool]) -> int:
        for at, row in enumerate(spare):
            if fits(row):
                return spare.pop(at)
        for row in order:
            if fits(row):
                return row
            if len(spare) < 256:
                spare.append(row)
        raise SystemExit("too few records for what is planted; give more --records")

    for kind, share in SHARES.items():
        for _ in range(round(share * count)):
            row = spare.pop() if spare else next(order)
            repeats = kind in COPIES or kind in ("repeated id", "twice")
            plants[row] = Plant(kind, base(partial(_fits, records, kind)) if repeats else -1)
    return plants


def _fits(records: Records, kind: str, row: int) -> bool:
    if kind in ("same", "near_image"):
        return not records.alone[row] and row % records.pictures % STORED_AGAIN == 0
    if kind == "near_text":
        return sum(len(q.split()) + len(a.split()) for q, a in records.conversation(row)) >= LONG
    return True


def record(records: Records, row: int, plant: Plant | None) -> str:
    """Record `row` as JSON."""
    kind = plant.kind if plant else ""
    of = plant.base if plant and kind in ("twice", *COPIES) else row
    picture, turns = records.picture(of), records.conversation(of)
    id = f"{plant.base if plant and kind in ('repeated id', 'twice') else row:012d}"
    name = ingest.picture_name(picture) if picture >= 0 else ""
    if kind in ("same", "near_image"):
        name = f"{kind}/{picture:012d}.jpg"
    elif kind in ("damaged", "image_truncated"):
        name = f"{kind}/{row % DAMAGED}.{'png' if kind == 'damaged' else 'jpg'}"
    elif kind == "image_missing":
        name = f"missing/{row}.jpg"
    elif kind == "image_count_mismatch":
        turns = [("<image>" * (2 if name else 1) + turns[0][0], turns[0][1])]
    elif kind == "empty_answer":
        turns = [*turns[:-1], (turns[-1][0], " ")]
    elif kind == "near_text":
        turns = _other_word(turns, row)
    elif kind == "broken_json":
        return BROKEN
    return written(id, name, turns, ("human", "human" if kind == "odd_roles" else "gpt"))


def _other_word(turns: list[tuple[str, str]], row: int) -> list[tuple[str, str]]:
    """The longest answer with another word in its middle."""
    at = max(range(len(turns)), key=lambda k: len(turns[k][1]))
    words = turns[at][1].split()
    words[len(words) // 2] = f"changed{row}"
    return [*turns[:at], (turns[at][0], " ".join(words)), *turns[at + 1 :]]


def write_pictures(folder: Path, count: int) -> None:
    """Distinct JPEG files of about 3 KB, with the copies and the damaged ones that records name."""
    from PIL import Image

    rng = np.random.default_rng(2)
    names = ("same", "near_image", "damaged", "image_truncated", *ingest.FOLDERS)
    for name in names:
        (folder / name).mkdir(parents=True, exist_ok=True)

    def picture() -> Image.Image:
        colours = Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8))
        return colours.resize((128, 96), Image.Resampling.BICUBIC)

    for number in range(count):
        image, path = picture(), folder / ingest.picture_name(number)
        image.save(path, quality=88)
        if number % STORED_AGAIN == 0:
            (folder / f"same/{number:012d}.jpg").write_bytes(path.read_bytes())
            Image.open(path).save(folder / f"near_image/{number:012d}.jpg", quality=70)
    for number in range(DAMAGED):
        picture().save(folder / f"damaged/{number}.png")
        data = bytearray((folder / f"damaged/{number}.png").read_bytes())
        data[len(data) // 2] ^= 0xFF
        (folder / f"damaged/{number}.png").write_bytes(data)
        picture().save(folder / f"image_truncated/{number}.jpg", quality=88)
        os.truncate(folder / f"image_truncated/{number}.jpg", 1500)


def generate(folder: Path, count: int, pictures: int) -> None:
    """data.json, images/, mirror/, items.json (planted leaks), plants.parquet (row, kind, base)."""
    from planted_leaks import BENCHMARKS, SUITE, write_leaky_mirror, write_leaky_source

    from evaluation.items import open_items

    mirror = write_leaky_mirror(folder / "mirror")
    items = write_leaky_source(open_items(SUITE, mirror, only=BENCHMARKS), folder / "leaked", clean=0)
    leaks = json.loads((folder / "leaked/pool.json").read_text(encoding="utf-8"))
    write_pictures(folder / "images", pictures)
    (folder / "leaked/images").rename(folder / "images/leaked")
    records = Records(count, pictures)
    plants = planted(records, count, len(leaks))
    with (folder / "data.tmp").open("w", encoding="utf-8") as file:
        file.writelines(_list(records, plants, count, leaks))
    rows = sorted(plants)
    columns = {
        "row": rows,
        "kind": [plants[row].kind for row in rows],
        "base": [plants[row].base for row in rows],
    }
    pq.write_table(pa.table(columns), folder / "plants.parquet")
    (folder / "items.json").write_text(json.dumps([dataclasses.asdict(item) for item in items]))
    os.replace(folder / "data.tmp", folder / "data.json")


def _list(
    records: Records, plants: Mapping[int, Plant], count: int, leaks: list[dict[str, Any]]
) -> Iterator[str]:
    left = iter(leaks)
    for row in range(count):
        yield ", " if row else "["
        plant = plants.get(row)
        if plant and plant.kind == "leak":
            leak = next(left)
            image = {"image": leak["image"].replace("images/", "leaked/")} if "image" in leak else {}
            yield json.dumps(leak | image)
        else:
            yield record(records, row, plant)
    yield "]"


@dataclass
class Used:
    """What a command used: seconds, MB. `largest`: peak of the largest process; `together`: of all at once,
    what they share counted once, sampled."""

    wall: float = 0.0
    cpu: float = 0.0
    largest: float = 0.0
    together: float = 0.0

    def sample(self, process: psutil.Process) -> None:
        """Add what a running process and its children hold."""
        every = [process, *ingest._children(process)]
        self.largest = max(self.largest, *map(_high_water, every))
        self.together = max(self.together, sum(map(ingest._unshared, every)))


def _high_water(process: psutil.Process) -> float:
    """Peak MB of a process so far. (`ru_maxrss` of a child holds that of the process that started it.)"""
    try:
        status = Path(f"/proc/{process.pid}/status").read_text()
    except OSError:
        return 0.0
    found = [line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")]
    return int(found[0]) / 1024 if found else 0.0


def used_by(log: Path, *arguments: object) -> Used:
    """Run `python -m ...` with its output in `log`; ends the program if it fails."""
    adopt = 36  # PR_SET_CHILD_SUBREAPER: processes that outlive their parent are waited for, and counted
    ctypes.CDLL(None).prctl(adopt, 1)
    used, start, status = Used(), time.perf_counter(), 0
    with log.open("w") as output:
        command = [sys.executable, "-m", *map(str, arguments)]
        process = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT)
    watched = psutil.Process(process.pid)
    while True:
        try:
            pid, code, usage = os.wait4(-1, os.WNOHANG)
        except ChildProcessError:
            break
        if pid:
            used.cpu += usage.ru_utime + usage.ru_stime
        if pid == process.pid:
            used.wall, status = time.perf_counter() - start, code
            process.returncode = os.waitstatus_to_exitcode(code)
        elif not pid:
            used.sample(watched)
            time.sleep(0.1)
    if status:
        raise SystemExit(f"{' '.join(map(str, arguments))} failed: {log.read_text()[-2000:]}")
    return used


def commands(folder: Path, workers: int) -> dict[str, list[object]]:
    """Step -> arguments of `python`."""
    from planted_leaks import BENCHMARKS, SUITE

    at, several = folder.joinpath, ("--workers", workers)
    suite = ("--suite", SUITE, "--mirror", at("mirror"), "--benchmarks", ",".join(BENCHMARKS))
    return {
        "build": [
            "curation.pool",
            "build",
            at("data.json"),
            "--images",
            at("images"),
            "--out",
            at("pool"),
            *several,
        ],
        "audit": ["curation.pool", "audit", at("pool"), "--drop", at("sound"), *several],
        "dedup": ["curation.dedup", at("sound"), "--out", at("dups"), "--drop", at("unique"), *several],
        "decontaminate": [
            *("curation.decontaminate", at("unique"), *suite),
            *("--out", at("leaks"), "--drop", at("clean"), *several),
        ],
        "select": [
            "curation.select",
            "random",
            "--pool",
            at("clean"),
            "--budget",
            "10%",
            "--out",
            at("subset"),
        ],
        "export": [
            "curation.export",
            at("subset"),
            "--pool",
            at("clean"),
            "--out",
            at("chosen.json"),
            "--overwrite",
        ],
    }


class Checks:
    """What was planted beside what the steps found. `wrong`: what must not differ, and does."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.wrong = folder, []
        table = pq.read_table(folder / "plants.parquet")
        self.plants = {
            kind: table.filter(pc.equal(table["kind"], kind)).select(["row", "base"])
            for kind in (*SHARES, "leak")
        }

    def of(self, step: str) -> Iterator[str]:
        """Lines on a step."""
        own = {"build": self._build, "audit": self._audit, "dedup": self._dedup}
        own |= {"decontaminate": self._leaks, "export": self._export}
        if step in own:
            yield from own[step]()

    def _exactly(self, what: str, found: object, expected: object) -> str:
        if found != expected:
            self.wrong.append(what)
        return f"{what}: {_said(found)}" + ("" if found == expected else f", PLANTED {_said(expected)}")

    def _indices(self, pool: str, name: str = "pool") -> np.ndarray:
        return pq.read_table(self.folder / pool / f"{name}.parquet", columns=["index"])["index"].to_numpy()

    def _nothing_lost(self, pool: str) -> str:
        kept, left = self._indices(pool), self._indices(pool, "quarantine")
        records = json.loads((self.folder / "pool/pool.json").read_text())["records"]
        every = np.array_equal(np.sort(np.concatenate([kept, left])), np.arange(records))
        told = f"{pool}: every record is kept ({len(kept):,}) or in the quarantine ({len(left):,}), once"
        return self._exactly(told, every, True)

    def _build(self) -> Iterator[str]:
        yield self._nothing_lost("pool")
        info = json.loads((self.folder / "pool/pool.json").read_text())
        expected = {kind: len(self.plants[kind]) for kind in BAD} | {
            "duplicate_record": len(self.plants["twice"])
        }
        yield self._exactly("quarantined", info["quarantined"], expected)
        yield self._exactly(
            "records whose id is repeated", info["ids"]["repeated"], 2 * len(self.plants["repeated id"])
        )
        yield self._exactly(
            "samples that repeat another's content", info["repeated_content"], len(self.plants["exact"])
        )

    def _audit(self) -> Iterator[str]:
        yield self._nothing_lost("sound")
        dropped = np.setdiff1d(self._indices("pool"), self._indices("sound"))
        same = np.array_equal(dropped, self.plants["damaged"]["row"].to_numpy())
        yield self._exactly(
            f"the {len(dropped):,} samples dropped are those of a damaged picture", same, True
        )

    def _dedup(self) -> Iterator[str]:
        from curation.pool.read import Pool
        from curation.signals.core.table import read_signal

        yield self._nothing_lost("unique")
        index = self._indices("sound")
        table = read_signal(self.folder / "dups", Pool.open(self.folder / "sound").hash)
        group = np.full(index.max() + 1, -1)
        group[index] = index[table["dup_group"].to_numpy()]
        right = 0
        for kind in COPIES:
            rows, bases = (self.plants[kind][name].to_numpy() for name in ("row", "base"))
            found = int((group[rows] == group[bases]).sum())
            right += found
            yield f"{kind}: {found:,} of {len(rows):,} planted"
        dropped = np.setdiff1d(index, self._indices("unique"))
        leaks = int(np.isin(dropped, self.plants["leak"]["row"].to_numpy()).sum())
        yield (
            f"dropped {len(dropped):,}, of which planted {right:,}: precision "
            f"{right / max(len(dropped), 1):.4f}; {leaks} are planted leaks, whose made-up pictures are of "
            "one layout under one question"
        )
        told = json.loads((self.folder / "dups/dup.json").read_text())
        yield f"by kind: {_said(told['by_kind'])}; largest group {told['largest_group']}"

    def _leaks(self) -> Iterator[str]:
        yield self._nothing_lost("clean")
        pool = pq.read_table(self.folder / "unique/pool.parquet", columns=["id", "index"])
        here = set(
            pool.filter(pc.is_in(pool["index"], self.plants["leak"]["row"].combine_chunks()))[
                "id"
            ].to_pylist()
        )
        plants = [p for p in json.loads((self.folder / "items.json").read_text()) if p["id"] in here]
        leaks = pq.read_table(self.folder / "leaks/leaks.parquet").to_pylist()
        alike = pq.read_table(self.folder / "leaks/alike.parquet").to_pylist()
        for told, table, kinds in (
            ("leaks", leaks, ("image_exact", "image_near", "question")),
            ("the same words about another image", alike, ("alike",)),
        ):
            pairs = {(pair["id"], pair["benchmark"], pair["item"]) for pair in table}
            own = [p for p in plants if p["kind"] in kinds]
            every = Counter(p["how"] for p in own)
            found = Counter(p["how"] for p in own if (p["id"], p["benchmark"], p["item"]) in pairs)
            shares = ", ".join(f"{how} {found[how]}/{n}" for how, n in every.items())
            yield f"{told}, found of planted: {found.total()}/{every.total()} ({shares})"
        reported = {leak["id"] for leak in leaks}
        strangers, ours = (
            reported - {p["id"] for p in plants},
            {(p["id"], p["benchmark"], p["item"]) for p in plants},
        )
        wrong = sum((leak["id"], leak["benchmark"], leak["item"]) not in ours for leak in leaks)
        yield f"pairs reported: {len(leaks)}, with another item than the planted one {wrong}"
        yield f"samples reported that are no item: {len(strangers)}"
        dropped = len(pool) - len(self._indices("clean"))
        yield self._exactly("dropped, as reported", dropped, len(reported))

    def _export(self) -> Iterator[str]:
        import orjson

        chosen = orjson.loads((self.folder / "chosen.json").read_bytes())
        ranked = pq.read_table(self.folder / "subset/subset.parquet", columns=["row"])["row"]
        clean = pq.read_table(self.folder / "clean/pool.parquet", columns=["original_id", "index"])
        ids = clean["original_id"].take(ranked).to_pylist()
        yield self._exactly("10 % of the samples", len(chosen), round(len(clean) / 10))
        right = Counter(one["id"] for one in chosen) == Counter(ids)
        yield self._exactly(f"the {len(chosen):,} records are those of the subset", right, True)


def _said(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_said(value[key])}" for key in sorted(value))
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def bare_orjson(file: Path) -> float:
    """CPU seconds of orjson over the file, records that are no JSON left out."""
    loads = ingest.parsers()["orjson"]
    return sum(
        ingest.parse_seconds(loads, piece.replace(BROKEN.encode(), b"null")) for piece in ingest.pieces(file)
    )


def main() -> None:
    """Generate what is missing, run the steps, check each, print the table."""
    options = _options()
    folder, file = options.dir.resolve(), options.dir.resolve() / "data.json"
    folder.mkdir(parents=True, exist_ok=True)
    if not file.exists():
        # in a process of its own, whose memory is not that of the steps
        if not (child := os.fork()):
            generate(folder, options.records, options.pictures)
            os._exit(0)
        if os.waitpid(child, 0)[1]:
            raise SystemExit("the records could not be written")
    size = file.stat().st_size / 1e6
    bare = bare_orjson(file)
    print(
        f"{options.records:,} records, {size:,.0f} MB, {options.pictures:,} pictures, "
        f"{options.workers} workers"
    )
    print(f"bare orjson: {bare:.1f} CPU s, {size / bare:,.0f} MB a CPU second", flush=True)
    checks, rows = Checks(folder), []
    for step, arguments in commands(folder, options.workers).items():
        if step not in options.steps.split(","):
            continue
        used = used_by(folder / f"{step}.log", *arguments)
        print(f"\n{step}: {used.cpu:.1f} CPU s, {used.wall:.1f} s", flush=True)
        for line in checks.of(step):
            print(f"  {line}", flush=True)
        rows.append(
            f"| {step} | {used.cpu:.1f} | {used.wall:.0f} | {size / used.cpu:.1f} | {used.cpu / bare:.1f} | "
            f"{used.largest:,.0f} | {used.together:,.0f} |"
        )
    heads = (
        "step",
        "CPU s",
        "wall s",
        "MB of the list a CPU s",
        "to bare orjson",
        "largest process, MB",
        "all, MB",
    )
    print(f"\n| {' | '.join(heads)} |\n| :-- |{' --: |' * (len(heads) - 1)}")
    print("\n".join(rows))
    if checks.wrong:
        raise SystemExit(f"not as planted: {'; '.join(checks.wrong)}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--records", type=int, default=2_600_000)
    parser.add_argument("--pictures", type=int, default=20_000, help="distinct image files")
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--dir", type=Path, required=True, help="folder for all that is written")
    parser.add_argument("--steps", default="build,audit,dedup,decontaminate,select,export", help="only these")
    return parser.parse_args()


if __name__ == "__main__":
    main()
