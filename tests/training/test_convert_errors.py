"""What cannot be converted is one line that says why; the command line; no command imports heavy packages."""

import json
import re
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from llava_layouts import TOWER, original_config, write_original

from training.convert import ConversionError, convert_llava_next, is_llava_next_layout
from training.convert.__main__ import main
from training.convert.source import directory

ROOT = Path(__file__).resolve().parents[2]


def test_missing_and_torn_files(tmp_path):
    source, _ = write_original(tmp_path / "original", shards=3)
    torn = source / "model-00003-of-00003.safetensors"
    torn.write_bytes(torn.read_bytes()[:-50])
    with pytest.raises(ConversionError, match=r"model-00003-of-00003\.safetensors cannot be read"):
        convert_llava_next(source, tmp_path / "out", vision_config=TOWER)
    (source / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(ConversionError, match=r"lacks model-00002-of-00003\.safetensors"):
        convert_llava_next(source, tmp_path / "out", vision_config=TOWER)
    (source / "model.safetensors.index.json").unlink()
    with pytest.raises(ConversionError, match=r"lacks model\.safetensors"):
        convert_llava_next(source, tmp_path / "out", vision_config=TOWER)


def test_models_of_another_kind_are_refused(tmp_path):
    source, made = write_original(tmp_path / "original")
    with pytest.raises(ConversionError, match=r"(?s)'made/by-hand' is unknown.*give vision_config"):
        convert_llava_next(source, tmp_path / "out")
    for changes, complaint in (
        ({"mm_projector_type": "linear"}, "mm_projector_type 'linear'"),
        ({"architectures": ["LlavaMptForCausalLM"]}, r"LlavaMptForCausalLM.*known: LlavaLlamaForCausalLM"),
        ({"image_aspect_ratio": "highres"}, "image aspect must be .* got 'highres'"),
        ({"mm_patch_merge_type": "spatial"}, "mm_patch_merge_type 'spatial'"),
        ({"mm_vision_select_feature": "cls_patch"}, "mm_vision_select_feature 'cls_patch'"),
        ({"mm_patch_merge_type": "flat"}, "anyres_max_9 needs mm_patch_merge_type spatial_unpad"),
        ({"image_grid_pinpoints": "(1x1),(0x2)"}, "must be multiples of a tile's 28 pixels"),
        (
            {"image_grid_pinpoints": "all"},
            "image_grid_pinpoints must be sizes or a range of grids, got 'all'",
        ),
    ):
        (source / "config.json").write_text(json.dumps(original_config(made[3], False, **changes)))
        assert is_llava_next_layout(source)
        with pytest.raises(ConversionError, match=complaint):
            convert_llava_next(source, tmp_path / "out", vision_config=TOWER)
    settings = original_config(made[3], False)
    del settings["rope_theta"]
    (source / "config.json").write_text(json.dumps(settings))
    with pytest.raises(ConversionError, match="no rope_theta"):
        convert_llava_next(source, tmp_path / "out", vision_config=TOWER)
    shutil.rmtree(source)


def test_the_command(tmp_path, capsys):
    source, _ = write_original(tmp_path / "original")
    (tmp_path / "tower.json").write_text(json.dumps(TOWER))
    arguments = [str(source), "--out", str(tmp_path / "out")]
    main([*arguments, "--vision-config", str(tmp_path / "tower.json"), "--image-mode", "anyres"])
    assert "0 embedding rows added" in capsys.readouterr().out
    assert json.loads((tmp_path / "out" / "config.json").read_text())["image_mode"] == "anyres"
    with pytest.raises(SystemExit, match=r"error: .*give vision_config"):
        main([str(source), "--out", str(tmp_path / "other")])


BROKEN = {
    "a missing directory": (lambda source: source.parent / "nowhere", {}, "not found on the Hub"),
    "a file instead of a directory": (lambda source: source / "config.json", {}, "is not a directory"),
    "a name with a NUL byte": (lambda source: f"{source}\0", {}, "contains a NUL byte"),
    "an empty directory": (lambda source: source, {"config.json": None}, "has no config.json"),
    "a config that is not JSON": (
        lambda source: source,
        {"config.json": b"{"},
        "config.json is not valid JSON",
    ),
    "a config that is not text": (
        lambda source: source,
        {"config.json": b"\xff"},
        "config.json is not valid JSON",
    ),
    "a config that is a list": (
        lambda source: source,
        {"config.json": b"[]"},
        "config.json is not a JSON object",
    ),
    "another model": (lambda source: source, {"config.json": b"{}"}, "architectures None"),
    "no weights": (lambda source: source, {"model.safetensors": None}, "lacks model.safetensors"),
    "torn weights": (
        lambda source: source,
        {"model.safetensors": b"torn"},
        "model.safetensors cannot be read",
    ),
    "empty weights": (lambda source: source, {"model.safetensors": b""}, "model.safetensors cannot be read"),
    "a broken index": (
        lambda source: source,
        {"model.safetensors.index.json": b"{"},
        "model.safetensors.index.json is not valid JSON",
    ),
    "an index without a map": (
        lambda source: source,
        {"model.safetensors.index.json": b'{"weight_map": [1]}'},
        "has no weight_map of file names",
    ),
    "a broken tokenizer": (
        lambda source: source,
        {"tokenizer.json": b"{"},
        "tokenizer in .* cannot be loaded",
    ),
}
"""What is wrong -> (the source argument, files replaced or (None) removed, message)."""


@pytest.mark.parametrize("case", BROKEN)
def test_a_bad_source_is_one_line_and_status_1(tmp_path, case):
    source, _ = write_original(tmp_path / "original")
    (tmp_path / "tower.json").write_text(json.dumps(TOWER))
    argument, files, message = BROKEN[case]
    for name, content in files.items():
        (source / name).unlink(missing_ok=True)
        if content is not None:
            (source / name).write_bytes(content)
    assert_refused(tmp_path, [str(argument(source)), "--out", str(tmp_path / "out")], message)
    assert not (tmp_path / "out").exists()


def assert_refused(tmp_path, arguments, message):
    """`main` ends with one line that matches `message` and exit status 1."""
    tower = [] if "--vision-config" in arguments else ["--vision-config", str(tmp_path / "tower.json")]
    with pytest.raises(SystemExit) as caught:
        main([*arguments, *tower])
    line = caught.value.code  # a string: printed on stderr, with exit status 1
    assert line.startswith("error: ") and "\n" not in line and re.search(message, line), line


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "tower.json cannot be read"),
        (b"{", "tower.json is not valid JSON"),
        (b"[]", "tower.json is not a JSON object"),
        (b'{"patch_size": 14}', "vision_config needs integers for hidden_size, intermediate_size"),
        (b'{"model_type": "dinov2"}', "only SigLIP and CLIP towers can be converted"),
    ],
)
def test_a_bad_vision_config_is_one_line(tmp_path, content, message):
    source, _ = write_original(tmp_path / "original")
    if content is not None:
        (tmp_path / "tower.json").write_bytes(content)
    assert_refused(tmp_path, [str(source), "--out", str(tmp_path / "out")], message)


def test_a_bad_output_is_one_line_before_any_work(tmp_path):
    source, _ = write_original(tmp_path / "original")
    (tmp_path / "tower.json").write_text(json.dumps(TOWER))
    (tmp_path / "present").mkdir()
    (tmp_path / "link").symlink_to(source)
    files = sorted(source.iterdir())
    for out, message in (
        (tmp_path / "present", "present exists: choose a directory that does not"),
        (source / "config.json", "exists"),
        (source / "out", "is inside the source"),
        (tmp_path / "link" / "out", "is inside the source"),
        (source / "config.json" / "out", "is inside the source"),
        (tmp_path / "tower.json" / "out", "Not a directory|File exists"),
        (tmp_path / "a\0b", "contains a NUL byte"),
    ):
        assert_refused(tmp_path, [str(source), "--out", str(out)], message)
    assert sorted(source.iterdir()) == files


def test_settings_of_the_wrong_type_are_listed(tmp_path):
    source, made = write_original(tmp_path / "original")
    (tmp_path / "tower.json").write_text(json.dumps(TOWER))
    for changes, message in (
        ({"vocab_size": "many"}, "vocab_size 'many'"),
        ({"rope_theta": None}, "rope_theta None"),
        ({"mm_resampler_type": []}, r"mm_resampler_type \[\]"),
        ({"image_grid_pinpoints": [7]}, r"image_grid_pinpoints must be sizes or a range of grids, got \[7\]"),
        ({"image_grid_pinpoints": "[(1, 2"}, "image_grid_pinpoints must be"),
    ):
        (source / "config.json").write_text(json.dumps(original_config(made[3], False, **changes)))
        assert_refused(tmp_path, [str(source), "--out", str(tmp_path / "out")], message)


def test_a_repository_without_safetensors_is_downloaded_with_its_pickles(tmp_path, monkeypatch):
    import huggingface_hub

    asked, folder = [], tmp_path / "snapshot"
    folder.mkdir()
    monkeypatch.setattr(
        huggingface_hub,
        "snapshot_download",
        lambda name, revision=None, allow_patterns=None: asked.append(allow_patterns) or str(folder),
    )
    assert directory("nobody/llava-pickled") == folder
    assert [("*.bin" in patterns) for patterns in asked] == [False, True]
    (folder / "model.safetensors").touch()
    assert directory("nobody/llava") == folder and "*.bin" not in asked[2] and len(asked) == 3


def test_wrong_usage_is_status_2(capsys):
    for arguments in ([], ["source"], ["source", "--out", "x", "--image-mode", "tiles"]):
        with pytest.raises(SystemExit) as caught:
            main(arguments)
        assert caught.value.code == 2
    assert "invalid choice: 'tiles'" in capsys.readouterr().err


@pytest.mark.parametrize(
    "module",
    [
        ".".join(file.relative_to(ROOT).with_suffix("").parts)
        for package in ("training", "evaluation")
        for file in sorted((ROOT / package).rglob("*.py"))
        if 'if __name__ == "__main__":' in file.read_text()
    ],
)
def test_help_is_instant(module):
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-X", "importtime", "-m", module, "--help"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0 and "usage:" in done.stdout
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "argparse" in imported and not imported & {"torch", "transformers", "numpy", "pyarrow"}
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 2
