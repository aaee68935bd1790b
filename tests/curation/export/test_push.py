"""Uploads: what is sent to the Hub, under which names, and what is said without sending."""

from pathlib import Path

import pytest
from huggingface_hub import HfApi

from curation.export.__main__ import main


@pytest.fixture
def hub(monkeypatch):
    """Calls of the Hub's client, which is not reached: [(method, repository, arguments), ...]."""
    calls = []

    def create_repo(self, repo_id, **arguments):
        calls.append(("create_repo", repo_id, arguments))
        return f"datasets/{repo_id}"

    def create_commit(self, repo_id, operations, **arguments):
        held = {made.path_in_repo: Path(made.path_or_fileobj).read_bytes() for made in operations}
        calls.append(("create_commit", repo_id, arguments | {"files": held}))

    monkeypatch.setattr(HfApi, "create_repo", create_repo)
    monkeypatch.setattr(HfApi, "create_commit", create_commit)
    return calls


def test_a_folder_is_uploaded_in_one_commit(export, hub, capsys):
    out = export("out", "--format", "parquet", "--push", "org/name", "--private")
    (made, repository, arguments), (sent, _, commit) = hub
    assert (made, sent, repository) == ("create_repo", "create_commit", "org/name")
    assert arguments == {"repo_type": "dataset", "private": True, "exist_ok": True}
    assert commit["repo_type"] == "dataset"
    expected = {str(file.relative_to(out)): file.read_bytes() for file in out.rglob("*") if file.is_file()}
    assert commit["files"] == expected and "README.md" in expected and "rows.parquet" in expected
    assert f"{len(expected)} files -> datasets/org/name" in capsys.readouterr().out


def test_a_file_is_uploaded_with_its_card_as_readme(export, hub, capsys):
    out = export("a.json", "--push", "org/name")
    assert hub[0][2]["private"] is False
    files = hub[1][2]["files"]
    assert set(files) == {"a.json", "rows.parquet", "README.md"} and files["a.json"] == out.read_bytes()
    assert "the images are not uploaded" in capsys.readouterr().out


def test_copies_within_the_folder_are_part_of_the_upload(world, export, hub, capsys):
    export("lf", "--format", "llamafactory", "--copy-images", world / "lf" / "images", "--push", "org/name")
    assert "images/deep/a.jpg" in hub[1][2]["files"]
    assert "not uploaded" not in capsys.readouterr().out


def test_a_dry_run_says_what_it_would_do_and_does_nothing(world, export, hub, capsys):
    out = export("a.json", "--push", "org/name", "--private", "--dry-run")
    said = capsys.readouterr().out
    assert "would write 6 samples as llava" in said
    assert "would upload to org/name (private if new)" in said and "a.json.card.md as README.md" in said
    assert not hub and not out.exists() and not list(world.glob("a.json*"))


@pytest.mark.parametrize("name", ["name", "a/b/c", "/x", "a/", "a b/c", "../x", "a/..", "hf.co/a--b"])
def test_a_name_that_the_hub_cannot_have_is_refused_before_anything_is_written(refused, hub, name):
    assert "ORG/NAME" in refused("a.json", "--push", name)
    assert not hub


@pytest.mark.parametrize("error", [OSError, ValueError])
def test_a_refusal_is_one_line_without_a_token_and_the_export_stays(world, monkeypatch, capsys, error):
    def refuse(self, repo_id, **arguments):
        raise error("401 Unauthorized\nfor token hf_abcDEF123")

    monkeypatch.setattr(HfApi, "create_repo", refuse)
    given = [str(world / "subset"), "--pool", str(world / "pool"), "--out", str(world / "a.json")]
    assert main([*given, "--push", "org/name"]) == 2
    said = capsys.readouterr()
    assert "hf_abc" not in said.err and "hf_***" in said.err and said.err.count("\n") == 1
    assert "the export itself is complete" in said.err and (world / "a.json").is_file()
