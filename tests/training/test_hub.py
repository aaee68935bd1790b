"""Models named by their Hub id: resolved once, at the requested revision, to directories for the stages."""

import json
from pathlib import Path

import pytest

from recipes.engine import task_of
from recipes.external import External, Fingerprints, model
from recipes.graph import Plan
from recipes.task import perform
from training import hub
from training.hub import HubError, HubModel, local_copy


class Silent:
    def __init__(self):
        self.said = []

    def total(self, n):
        pass

    def advance(self, k=1):
        pass

    def say(self, text):
        self.said.append(text)


@pytest.fixture
def snapshots(tmp_path, monkeypatch):
    """A hub whose snapshots are directories; what was asked of it."""
    import huggingface_hub

    asked = []

    def snapshot(name, revision=None, allow_patterns=None):
        asked.append((name, revision))
        (folder := tmp_path / name.replace("/", "--") / str(revision)).mkdir(parents=True, exist_ok=True)
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    return asked


def test_a_directory_is_itself_and_asks_no_hub(tmp_path, snapshots):
    assert local_copy(tmp_path) == tmp_path and not snapshots


def test_a_name_that_is_not_on_the_hub_is_reported_with_its_revision():
    with pytest.raises(
        HubError, match="nobody/no-such-model at v1 is not a directory and was not found on the Hub"
    ):
        local_copy("nobody/no-such-model", "v1")


def test_a_stage_is_given_the_snapshot_of_the_revision_that_its_hash_names(tmp_path, snapshots, monkeypatch):
    found = model("nobody/tiny", "abc123", "recipe.yaml", Fingerprints(), ("*.json",))
    assert (
        isinstance(found, External)
        and found.path == HubModel("nobody/tiny", "abc123")
        and str(found.path) == "nobody/tiny@abc123"
    )
    assert found.hash != model("nobody/tiny", "def456", "recipe.yaml", Fingerprints(), ("*.json",)).hash

    class Stages:
        def code_hash(self, kind, module=None):
            return "code"

        def resumes(self, kind):
            return False

        def run(self, kind):
            return lambda config, inputs, out, progress: {
                "model": str(inputs["model"]),
                "folder": Path(inputs["model"]).is_dir(),
            }

    plan = Plan(Stages())
    node = plan.add("fit", {}, {"model": found})
    progress = Silent()
    outcome = perform(task_of(node, tmp_path / "root", plan, {}, force=False), progress)
    assert outcome.summary == {"model": str(tmp_path / "nobody--tiny" / "abc123"), "folder": True}
    assert snapshots == [("nobody/tiny", "abc123")] and progress.said == ["model: nobody/tiny from the Hub"]


def test_checkpoints_are_hashed_and_loaded_by_name(tmp_path, monkeypatch):
    from training.models import checkpoint_hash

    (tmp_path / "config.json").write_text(json.dumps({"a": 1}))
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    monkeypatch.setattr(
        "training.models.local_copy",
        lambda path: tmp_path if str(path) == "nobody/tiny" else hub.local_copy(path),
    )
    assert checkpoint_hash("nobody/tiny") == checkpoint_hash(tmp_path)
