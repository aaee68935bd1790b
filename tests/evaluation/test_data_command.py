"""The command that lists, fetches and verifies benchmark data. The hub is a folder, all else is real."""

import fnmatch
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pyarrow.parquet as pq
import pytest
import yaml
from benchmark_mirror import write_mirror
from huggingface_hub import errors
from processes import REPOSITORY

from evaluation.data import main
from evaluation.repository import sha256

REPOSITORIES = (
    "Lin-Chen/MMStar",
    "lmms-lab-encoder/POPE",
    "lmms-lab-encoder/GQA",
    "lmms-lab-encoder/MMBench",
)
REVISION = "0123456789abcdef0123456789abcdef01234567"
POPE = "lmms-lab-encoder/POPE"


def entry(name: str, n: int, data: dict, **more) -> dict:
    return {
        "name": name,
        "label": name,
        "tasks": [{"task": name, "n": n}],
        "data": data,
        "extractor": {"kind": "short"},
        **more,
    }


def suite(path: Path, *benchmarks: dict) -> str:
    path.write_text(yaml.safe_dump({"name": "toy", "tasks": "mini", "benchmarks": list(benchmarks)}))
    return str(path)


MMSTAR_ENTRY = entry(
    "mmstar", 24, {"repo": REPOSITORIES[0], "split": "val", "columns": ["question", "answer"]}
)
POPE_ENTRY = entry("pope", 6, {"repo": POPE, "config": "Full", "split": "popular", "licence": "mit"})
ADVERSARIAL = entry("pope_adv", 6, {"repo": POPE, "config": "Full", "split": "adversarial"})
GQA_IMAGES = {"config": "testdev_balanced_images", "split": "testdev", "key": "imageId"}
GQA_ENTRY = entry(
    "gqa",
    6,
    {
        "repo": "lmms-lab-encoder/GQA",
        "config": "testdev_balanced_instructions",
        "split": "testdev",
        "images": GQA_IMAGES,
    },
)
MMBENCH_ENTRY = entry(
    "mmbench_cn",
    3,
    {"repo": "lmms-lab-encoder/MMBench", "config": "cn", "split": "dev"},
    unit={"by": ["index"], "modulo": 1_000_000},
    judge={"kind": "score", "prompt": "toy"},
)


@pytest.fixture
def toy(tmp_path) -> str:
    return suite(tmp_path / "toy.yaml", MMSTAR_ENTRY, POPE_ENTRY, GQA_ENTRY, MMBENCH_ENTRY)


@pytest.fixture(scope="module")
def origin(tmp_path_factory) -> Path:
    """What the hub holds; tests do not change it."""
    return write_mirror(tmp_path_factory.mktemp("hub"), repositories=REPOSITORIES)


class Hub:
    """Stands for huggingface_hub: repositories are folders. `calls` are the patterns that were asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.calls, self.damaged, self.newest = folder, [], False, REVISION
        self.error: Exception | None = None

    def dataset_info(self, repo, revision=None, files_metadata=False):
        if self.error:
            raise self.error
        files = [file for file in (self.folder / repo).rglob("*.parquet")]
        return SimpleNamespace(
            sha=revision or self.newest,
            siblings=[
                SimpleNamespace(
                    rfilename=file.relative_to(self.folder / repo).as_posix(),
                    lfs=SimpleNamespace(sha256=sha256(file)),
                )
                for file in files
            ],
        )

    def snapshot_download(self, repo, *, repo_type, revision, local_dir, allow_patterns):
        assert repo_type == "dataset" and len(revision) == 40
        self.calls.append((repo, allow_patterns))
        for file in (self.folder / repo).rglob("*.*"):
            name = file.relative_to(self.folder / repo).as_posix()
            if file.is_file() and any(fnmatch.fnmatch(name, pattern) for pattern in allow_patterns):
                (local_dir / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, local_dir / name)
                if self.damaged and name.endswith(".parquet"):
                    (local_dir / name).write_bytes(file.read_bytes() + b"x")


@pytest.fixture
def hub(monkeypatch, origin) -> Hub:
    fake = Hub(origin)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", fake.snapshot_download)
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: fake)
    return fake


@pytest.fixture
def fetched(hub, toy, tmp_path, capsys) -> Path:
    assert main(["fetch", toy, "--mirror", str(tmp_path / "mirror")]) == 0
    capsys.readouterr()
    return tmp_path / "mirror"


def _error(status: int, kind: type = errors.HfHubHTTPError) -> Exception:
    return kind("no", response=SimpleNamespace(status_code=status, headers={}, request=None))


def test_list_shows_the_benchmarks_of_suites_once(toy, tmp_path, capsys):
    assert main(["list", toy, toy]) == 0
    shown = capsys.readouterr().out
    assert "4 benchmarks in 4 repositories" in shown
    assert shown.count("Lin-Chen/MMStar") == 1
    assert next(line for line in shown.splitlines() if "mmbench_cn" in line).count("score") == 1
    assert next(line for line in shown.splitlines() if "POPE" in line).count("mit") == 1


def test_list_measures_what_a_mirror_has(toy, fetched, capsys):
    assert main(["list", toy, "--mirror", str(fetched)]) == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if "MMStar" in line)
    assert REVISION[:12] in line and "│ 0.0 │" in line


def test_fetch_takes_what_the_suite_needs_and_records_it(toy, hub, origin, tmp_path, capsys):
    mirror = tmp_path / "mirror"
    assert main(["fetch", toy, "--mirror", str(mirror)]) == 0
    shown = capsys.readouterr().out
    assert f"{POPE}: 1 files, 0.0 MB, revision {REVISION[:12]}" in shown
    assert "fetched 4 of 4 repositories" in shown
    assert {file.relative_to(mirror).as_posix() for file in (mirror / POPE).rglob("*.*")} == {
        f"{POPE}/{name}" for name in ("README.md", ".winnow.json", "Full/popular-00000-of-00001.parquet")
    }
    assert {p.name for p in (mirror / "lmms-lab-encoder" / "GQA").iterdir()} == {
        *("README.md", ".winnow.json", "testdev_balanced_images", "testdev_balanced_instructions")
    }
    record = json.loads((mirror / POPE / ".winnow.json").read_text())
    file = origin / POPE / "Full" / "popular-00000-of-00001.parquet"
    content = {"Full/popular-00000-of-00001.parquet": [file.stat().st_size, sha256(file)]}
    assert record == {"repo": POPE, "revision": REVISION, "files": content}
    assert main(["verify", toy, "--mirror", str(mirror)]) == 0
    assert "ok     mmbench_cn: 3 questions, revision 0123456789ab" in capsys.readouterr().out


def test_suites_share_a_repository(hub, fetched, toy, tmp_path, capsys):
    more = suite(tmp_path / "more.yaml", ADVERSARIAL)
    assert main(["fetch", more, "--mirror", str(fetched)]) == 0
    assert "fetched 1 of 1 repositories" in capsys.readouterr().out
    assert main(["verify", toy, more, "--mirror", str(fetched)]) == 0
    assert "5 of 5 benchmarks" in capsys.readouterr().out
    hub.calls.clear()
    assert main(["fetch", toy, more, "--mirror", str(fetched)]) == 0
    assert len([patterns for repo, patterns in hub.calls if repo == POPE]) == 2  # README, then both splits


def test_a_repository_stays_at_its_revision(hub, fetched, toy, tmp_path, capsys):
    hub.newest = "9" * 40
    more = suite(tmp_path / "more.yaml", ADVERSARIAL)
    assert main(["fetch", toy, more, "--mirror", str(fetched)]) == 0
    assert "999" not in capsys.readouterr().out
    assert json.loads((fetched / POPE / ".winnow.json").read_text())["revision"] == REVISION


def test_a_repository_without_a_readme_is_fetched_by_the_usual_names(hub, origin, tmp_path):
    hub.folder = tmp_path / "hub"
    shutil.copytree(origin / POPE, hub.folder / POPE)
    (hub.folder / POPE / "README.md").unlink()
    plain = entry("pope_all", 6, {"repo": POPE})
    toy = suite(tmp_path / "toy.yaml", POPE_ENTRY, plain)
    assert main(["fetch", toy, "--mirror", str(tmp_path / "mirror")]) == 0
    assert main(["verify", toy, "--mirror", str(tmp_path / "mirror")]) == 0


def test_only_some_benchmarks(hub, toy, tmp_path, capsys):
    assert main(["fetch", toy, "--mirror", str(tmp_path / "m"), "--only", "gqa,pope"]) == 0
    assert "fetched 2 of 2 repositories" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (errors.OfflineModeIsEnabled("offline"), "the hub cannot be reached (OfflineModeIsEnabled)"),
        (ConnectionError("refused"), "the hub cannot be reached (ConnectionError)"),
        (errors.HTTPError("no name"), "the hub cannot be reached (HTTPError)"),
        (_error(503), "the hub cannot be reached (HfHubHTTPError)"),
    ],
)
def test_without_a_network_fetch_stops_with_one_line(hub, toy, tmp_path, capsys, error, message):
    hub.error = error
    assert main(["fetch", toy, "--mirror", str(tmp_path / "m")]) == 1
    shown = capsys.readouterr()
    assert message in shown.err and "copy the mirror" in shown.err
    assert shown.err.count("\n") == 1 and shown.out == ""


@pytest.mark.parametrize(
    ("kind", "message"),
    [(errors.GatedRepoError, "asks for its terms"), (errors.RepositoryNotFoundError, "does not exist")],
)
def test_one_repository_that_fails_does_not_stop_the_others(hub, toy, tmp_path, capsys, kind, message):
    real = hub.dataset_info

    def refuse(repo, **options):
        if repo == POPE:
            raise _error(403, kind)
        return real(repo, **options)

    hub.dataset_info = refuse
    assert main(["fetch", toy, "--mirror", str(tmp_path / "m")]) == 1
    shown = capsys.readouterr().out
    assert f"{POPE}: FAILED: {POPE}" in shown and message in shown
    assert "fetched 3 of 4 repositories" in shown


def test_a_file_that_arrives_damaged_is_no_success(hub, toy, tmp_path, capsys):
    hub.damaged = True
    assert main(["fetch", toy, "--mirror", str(tmp_path / "m")]) == 1
    assert "has arrived damaged" in capsys.readouterr().out
    assert not list((tmp_path / "m").rglob(".winnow.json"))


def test_revisions_are_pinned(hub, fetched, tmp_path, capsys):
    pinned = POPE_ENTRY | {"data": POPE_ENTRY["data"] | {"revision": "f" * 40}}
    other = suite(tmp_path / "other.yaml", pinned)
    assert main(["fetch", other, "--mirror", str(fetched)]) == 1
    assert f"is at revision {REVISION}, and {'f' * 40} is asked for" in capsys.readouterr().out
    assert main(["verify", other, "--mirror", str(fetched)]) == 1
    assert main(["fetch", other, "--mirror", str(tmp_path / "new")]) == 0
    again = suite(
        tmp_path / "again.yaml", ADVERSARIAL | {"data": ADVERSARIAL["data"] | {"revision": "e" * 40}}
    )
    capsys.readouterr()
    assert main(["fetch", other, again, "--mirror", str(tmp_path / "new")]) == 2
    assert "revisions ffff" in capsys.readouterr().err


def test_a_data_file_is_placed_by_hand(hub, tmp_path, capsys):
    name = "MMBench_DEV_EN_V11.parquet"
    toy = suite(tmp_path / "toy.yaml", entry("v11", 9, {"file": name}))
    assert main(["fetch", toy, "--mirror", str(tmp_path / "m")]) == 1
    assert f"{name}: NOT FETCHED" in capsys.readouterr().out
    write_mirror(tmp_path / "m", repositories=[""])
    assert main(["fetch", toy, "--mirror", str(tmp_path / "m")]) == 0
    assert main(["verify", toy, "--mirror", str(tmp_path / "m")]) == 0


def _same_size(file: Path) -> None:
    """Another content of the same size and time of change."""
    stat, content = file.stat(), bytearray(file.read_bytes())
    content[len(content) // 3] ^= 1
    file.write_bytes(content)
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def _truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-100])


def _fewer(file: Path) -> None:
    pq.write_table(pq.read_table(file).slice(1), file)


def _schema(file: Path) -> None:
    pq.write_table(pq.read_table(file).drop_columns(["question"]), file)


@pytest.mark.parametrize(
    ("damage", "recorded", "message"),
    [
        (_same_size, True, "has changed since it was fetched"),
        (_truncate, True, "has changed since it was fetched"),
        (_truncate, False, "is not a readable Parquet file"),
        (_fewer, False, "23 questions instead of 24"),
        (_schema, False, "lacks column question"),
        (Path.unlink, True, "split 'val' has no files"),
    ],
)
def test_verify_finds_what_is_wrong(toy, fetched, capsys, damage, recorded, message):
    folder = fetched / REPOSITORIES[0]
    damage(folder / "mmstar.parquet")
    if not recorded:
        (folder / ".winnow.json").unlink()
    assert main(["verify", toy, "--mirror", str(fetched)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("WRONG  mmstar: ") and message in lines[0]
    assert [line[:5] for line in lines[1:4]] == ["ok   "] * 3
    assert lines[4].startswith("3 of 4 benchmarks in ")


def test_damage_inside_is_found_without_a_record(toy, fetched, capsys):
    file = fetched / REPOSITORIES[0] / "mmstar.parquet"
    content = bytearray(file.read_bytes())
    content[4:2000] = bytes(1996)
    file.write_bytes(content)
    file.with_name(".winnow.json").unlink()
    assert main(["verify", toy, "--mirror", str(fetched)]) == 1
    assert "mmstar.parquet is damaged" in capsys.readouterr().out


def test_half_a_mirror(toy, fetched, capsys):
    shutil.rmtree(fetched / "Lin-Chen")
    shutil.rmtree(fetched / POPE)
    assert main(["verify", toy, "--mirror", str(fetched)]) == 1
    shown = capsys.readouterr().out
    assert shown.count("WRONG") == 2 and "2 of 4 benchmarks" in shown
    assert f"lacks repository {POPE}; it has lmms-lab-encoder/GQA, lmms-lab-encoder/MMBench" in shown


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["list", "nosuch"], 2, "suite 'nosuch' does not exist"),
        (["verify", "mini"], 2, "verify needs --mirror DIR"),
        (["verify", "mini", "--mirror", "/nonexistent/x"], 1, "does not exist"),
        (["list", "mini", "--only", "x"], 2, "has no benchmark x"),
    ],
)
def test_a_wrong_command_line_is_one_line(capsys, arguments, status, message):
    assert main(arguments) == status
    error = capsys.readouterr().err
    assert message in error and error.startswith("error: ") and error.count("\n") == 1


def test_help_needs_no_heavy_import():
    code = (
        "import sys; from evaluation import data\n"
        "try: data.main(['--help'])\n"
        "except SystemExit: pass\n"
        "print([m for m in ('datasets', 'huggingface_hub', 'pyarrow', 'torch', 'rich') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True)
    assert result.stdout.endswith("[]\n") and "fetch" in result.stdout, result.stderr
