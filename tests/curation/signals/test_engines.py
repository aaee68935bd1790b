"""Scoring by a server or by vLLM (both stubs): values, order of requests, failures, image check, resume."""

import json
import shutil
import sys

import numpy as np
import pyarrow as pa
import pytest
import yaml
from chat_server import serve, token_logprobs
from stub_vllm import StubVllm

from curation.pool.ingest import build_pool
from curation.pool.read import Pool
from curation.pool.sample import Sample, Turn
from curation.signals.__main__ import main
from curation.signals.core.table import MissingPartError, read_signal
from curation.signals.raters.by_engine import (
    capability_table,
    score_capabilities_by_engine,
    score_styles_by_engine,
)
from curation.signals.raters.engine import EngineError, Failed, read_digits
from curation.signals.raters.prompts import path_of
from curation.signals.raters.queries import load_queries
from curation.taxonomy import CAPABILITY_KEYS
from curation.teacher.chat import CostCapReached
from curation.teacher.messages import Unsendable, conversation, data_url

pytestmark = pytest.mark.slow

QUERIES = load_queries("official_style")
PROBES = 4


def first_eight(pool, folder):
    """A pool of the first eight samples and copies of their images: 0 to 2 images, 1 to 3 turns."""
    (folder / "data.json").write_text(json.dumps(json.loads(pool.files[0].read_text())[:8]))
    shutil.copytree(pool.images / "images", folder / "images")
    build_pool(folder / "data.json", folder, folder / "pool")
    return Pool.open(folder / "pool")


@pytest.fixture(scope="module")
def few(small_pool, tmp_path_factory):
    return first_eight(small_pool, tmp_path_factory.mktemp("few"))


def by_server(pool, out, server, score=score_capabilities_by_engine, **options):
    pytest.importorskip("httpx")
    settings = {
        name: options.pop(name)
        for name in ("shard_rows", "max_failed", "on_progress", "prompts", "image")
        if name in options
    }
    return score(pool, out, model="m", base_url=server.url, options={"retries": 1, **options}, **settings)


def query_of(body):
    return body["messages"][-1]["content"]


def test_digits_are_read_from_listed_tokens():
    digits = read_digits([(3, np.log(0.5)), (None, np.log(0.2)), (3, np.log(0.1)), (0, np.log(0.05))])
    np.testing.assert_allclose(np.exp(digits.log_probs), [0.05, 0, 0, 0.6, 0, 0])
    assert digits.n_unlisted == 4
    assert digits.unlisted_mass == pytest.approx(0.15)  # 1 - 0.85, less than 4 x 0.05
    by_least = read_digits([(1, np.log(0.9)), (None, np.log(0.01))])
    assert by_least.unlisted_mass == pytest.approx(0.05)  # 5 x 0.01, less than 0.09
    assert read_digits([(None, -0.1)]) is None


def test_the_command_scores_by_a_server(few, tmp_path, capsys):
    pytest.importorskip("httpx")
    arguments = ["capability_by_engine", "--pool", str(few.folder), "--out", str(tmp_path / "s")]
    assert main(arguments) == 2 and "needs a model: give --model" in capsys.readouterr().err
    with serve() as server:
        assert (
            main(
                [
                    *arguments,
                    "--model",
                    "m",
                    "--param",
                    f"base_url={server.url}",
                    "--param",
                    "options={retries: 1, concurrency: 2}",
                ]
            )
            == 0
        )
    assert (
        read_signal(tmp_path / "s", few.hash).equals(read_signal(tmp_path / "s"))
        and len(server.requests) == PROBES + 8 * 14
    )
    assert {body["model"] for body in server.requests} == {
        "m"
    } and '"samples_per_second"' in capsys.readouterr().out


def test_failed_samples_and_unlisted_digits_are_null():
    sure = read_digits([(2, np.log(0.75)), (4, np.log(0.25))])
    table = capability_table(range(2), [[sure] * 13 + [None], Failed("timeout")])
    assert table["cap_spatial"].to_pylist() == [2, None] and table["exp_spatial"].to_pylist() == [2.5, None]
    assert table["mass_data"].to_pylist() == [pytest.approx(1.0), None]
    last = [name for name in table.column_names if name.partition("_")[2] == "ocr"]
    assert len(last) >= 3 and all(table[name].to_pylist() == [None, None] for name in last)
    assert not any(np.isnan(table[name].drop_null().to_numpy()).any() for name in table.column_names)


def test_server_scores_are_those_of_its_probabilities(few, tmp_path):
    with serve() as server:
        summary = by_server(few, tmp_path / "s", server, shard_rows=16, concurrency=4)
    signal = read_signal(tmp_path / "s", few.hash)
    for row in (0, 4, 6):  # one image, text only, two images
        for k in (0, 13):
            body = {"messages": [*conversation(few[row]), {"role": "user", "content": QUERIES.capability[k]}]}
            p = np.exp([token_logprobs(body)[str(digit)] for digit in range(6)])
            assert signal[f"cap_{CAPABILITY_KEYS[k]}"][row].as_py() == p.argmax()
            assert signal[f"exp_{CAPABILITY_KEYS[k]}"][row].as_py() == pytest.approx(
                (p @ np.arange(6)) / p.sum(), abs=1e-5
            )
            assert signal[f"mass_{CAPABILITY_KEYS[k]}"][row].as_py() == pytest.approx(p.sum(), abs=1e-5)
    assert len(server.requests) == PROBES + 8 * 14 and all(
        body["max_tokens"] == 1 for body in server.requests
    )
    assert (summary["rows"], summary["missing"], summary["no_digit"], summary["truncated_digits"]) == (
        8,
        {},
        0,
        0,
    )
    assert summary["requests"] == PROBES + 8 * 14 and summary["max_hidden_mass"] == 0.0


def test_queries_of_a_sample_follow_each_other(few, tmp_path):
    with serve() as server:
        by_server(few, tmp_path / "s", server, concurrency=1)
    asked = [query_of(body) for body in server.requests[PROBES:]]
    assert asked == list(QUERIES.capability) * 8
    prefixes = [json.dumps(body["messages"][:-1]) for body in server.requests[PROBES:]]
    assert all(len(set(prefixes[start : start + 14])) == 1 for start in range(0, 112, 14))


def test_flat_prompts_are_one_user_turn(few, tmp_path):
    with serve() as server:
        by_server(few, tmp_path / "s", server, prompts="official_flat", concurrency=1)
    bodies = server.requests[PROBES:]
    assert all([message["role"] for message in body["messages"]] == ["user"] for body in bodies)
    flat, several = (
        load_queries("official_flat"),
        next(row for row in range(8) if len(few[row].turns) == 3 and len(few[row].images) == 1),
    )
    content = bodies[14 * several + 3]["messages"][0]["content"]
    lines = [line for turn in few[several].turns for line in (turn.question, turn.answer)]
    assert [part["type"] for part in content] == ["image_url", "text"] and content[0]["image_url"][
        "url"
    ] == data_url(few[several].images[0])
    assert content[1]["text"] == "\n".join([*lines, flat.capability[3]]).removeprefix("<image>").strip()
    no_image = next(row for row in range(8) if not few[row].images)
    assert bodies[14 * no_image]["messages"][0]["content"].endswith(f"\n{flat.capability[0]}")


def test_labelled_prompts_are_one_user_turn_with_their_system_prompt(few, tmp_path):
    from released_clone import format_convs, write_clone

    from curation.signals.prompts import from_mmssr

    queries = from_mmssr(write_clone(tmp_path / "clone"), tmp_path / "p.yaml")
    with serve() as server:
        by_server(few, tmp_path / "s", server, prompts=str(tmp_path / "p.yaml"), concurrency=1)
        server_bodies = server.requests[PROBES:]
        by_server(few, tmp_path / "t", server, score_styles_by_engine, prompts=str(tmp_path / "p.yaml"))
        assert {body["max_tokens"] for body in server.requests[-8:]} == {77}
        with pytest.raises(EngineError, match="image: single cannot be asked of a server"):
            by_server(few, tmp_path / "u", server, image="single")
    row = next(row for row in range(8) if not few[row].images)
    rounds = [(turn.question, turn.answer) for turn in few[row].turns]
    assert server_bodies[14 * row + 5]["messages"] == [
        {"role": "system", "content": "You grade."},
        {"role": "user", "content": f"{format_convs(rounds)}\n\n{queries.capability[5]}"},
    ]
    assert all("\ufdd1" not in json.dumps(body, ensure_ascii=False) for body in server_bodies)


def test_digits_that_are_not_listed_are_counted(few, tmp_path):
    with serve(digits="13") as server:  # digits 0, 2, 4 and 5 are never among the listed tokens
        summary = by_server(few, tmp_path / "s", server)
        assert summary["truncated_digits"] == 8 * 14 * 4 and summary["no_digit"] == 0
    signal = read_signal(tmp_path / "s", few.hash)
    assert set(signal["cap_stem"].to_pylist()) == {1, 3}
    with serve(digits="") as server:
        summary = by_server(few, tmp_path / "n", server)
    assert summary["no_digit"] == 8 * 14 and summary["missing"] == {} and summary["mean_digit_mass"] is None
    assert read_signal(tmp_path / "n", few.hash)["cap_stem"].null_count == 8


def test_failures_become_nulls_with_reasons(few, tmp_path):
    with serve() as server:
        whole = by_server(few, tmp_path / "whole", server, concurrency=1)
    marked = {1: "no_logprobs", 3: 500, 4: 400, 6: "torn"}
    faults = {json.dumps(conversation(few[row])): fault for row, fault in marked.items()}

    def fault(number, body):
        return (
            faults.get(json.dumps(body["messages"][:-1])) if query_of(body) == QUERIES.capability[5] else None
        )

    with serve(fault=fault) as server:
        summary = by_server(few, tmp_path / "s", server, max_failed=0.5)
    assert summary["missing"] == {"bad_request": 1, "malformed": 1, "no_logprobs": 1, "server_error": 1}
    broken, sound = read_signal(tmp_path / "s", few.hash), read_signal(tmp_path / "whole", few.hash)
    assert [row for row, value in enumerate(broken["cap_ocr"].to_pylist()) if value is None] == sorted(marked)
    kept = [row for row in range(8) if row not in marked]
    assert broken.take(kept).equals(sound.take(kept)) and whole["missing"] == {}


def test_too_many_failures_stop_and_the_next_run_continues(few, tmp_path):
    failing = serve(fault=lambda number, body: 500 if number >= PROBES + 14 * 4 else None)
    with failing as server, pytest.raises(EngineError, match=r"server_error.*next run continues"):
        by_server(few, tmp_path / "s", server, shard_rows=2, concurrency=1)
    assert len(list((tmp_path / "s").glob("part-*.parquet"))) == 2
    with pytest.raises(MissingPartError):
        read_signal(tmp_path / "s")
    progress = []
    with serve() as server:
        summary = by_server(
            few, tmp_path / "s", server, shard_rows=2, on_progress=lambda *at: progress.append(at)
        )
    assert (summary["rows_kept"], summary["rows_computed"]) == (4, 4) and len(
        server.requests
    ) == PROBES + 4 * 14
    assert progress[0] == (4, 8) and progress[-1] == (8, 8)


def test_the_cost_cap_stops_between_parts(few, tmp_path):
    with serve() as server:
        prices = {"input_price": 1.0, "output_price": 1.0, "max_cost_usd": 0.008}
        with pytest.raises(CostCapReached, match="raise max_cost_usd"):
            by_server(few, tmp_path / "s", server, shard_rows=2, concurrency=2, **prices)
        assert 1 <= len(list((tmp_path / "s").glob("part-*.parquet"))) < 4
        assert len(server.requests) < PROBES + 14 * 8


def test_an_engine_that_sees_no_image_is_refused(few, tmp_path):
    with serve(blind=True) as server, pytest.raises(EngineError, match="does not see images"):
        by_server(few, tmp_path / "s", server)
    assert len(server.requests) == PROBES
    with (
        serve(fault=lambda number, body: "no_logprobs") as server,
        pytest.raises(EngineError, match="no_logprobs"),
    ):
        by_server(few, tmp_path / "s", server)


def test_server_styles(small_pool, tmp_path):
    def answer(body):
        return (
            "coordinate"
            if "describe" in json.dumps(body["messages"][:-1])
            else "Yes/No, word/short-phrase, poem"
        )

    with serve(answer=answer) as server:
        summary = by_server(small_pool, tmp_path / "s", server, score=score_styles_by_engine)
    styles = read_signal(tmp_path / "s", small_pool.hash)["styles"].to_pylist()
    described = ["describe" in json.dumps(conversation(sample)) for sample in small_pool.samples()]
    assert (
        styles == [["coordinate"] if d else ["yes_no", "word", "other"] for d in described]
        and 0 < sum(described) < 40
    )
    assert summary["other_rows"] == 40 - sum(described) and summary["styles"]["coordinate"] == sum(described)


def test_images_replace_their_placeholders(tmp_path, small_pool):
    from PIL import Image

    picture = small_pool[0].images[0]
    sample = Sample(
        0,
        "s",
        "t",
        (picture, Image.new("RGB", (2, 2))),
        (Turn("first <image> then <image>\nwhat ?", "a"), Turn("why ?", "b")),
    )
    first, answer, second, _ = conversation(sample)
    assert [part["type"] for part in first["content"]] == ["text", "image_url", "text", "image_url", "text"]
    assert (
        first["content"][4]["text"] == "what ?"
        and answer == {"role": "assistant", "content": "a"}
        and second["content"] == "why ?"
    )
    assert first["content"][1]["image_url"]["url"] == data_url(picture)
    bitmap, torn = tmp_path / "a.bmp", tmp_path / "torn.png"
    Image.open(picture).save(bitmap)
    assert data_url(bitmap).startswith("data:image/png;base64,")
    torn.write_bytes(picture.read_bytes()[:200])
    for path, reason in ((torn, "broken_image"), (tmp_path / "none.png", "missing_image")):
        with pytest.raises(Unsendable) as caught:
            data_url(path)
        assert caught.value.reason == reason
    with pytest.raises(Unsendable, match="image_count"):
        conversation(Sample(0, "s", "t", (picture,), (Turn("no placeholder", "a"),)))
    told = Sample(0, "s", "t", (), (Turn("q", "a"),), system="be kind")
    assert [m["content"] for m in conversation(told)] == ["be kind", "q", "a"]


@pytest.fixture
def vllm(monkeypatch, tiny_vlm_dir):
    from training.models import load_processor

    stub = StubVllm()
    tokenizer = load_processor(tiny_vlm_dir)[0].tokenizer
    stub.digit_ids = tokenizer.convert_tokens_to_ids([str(digit) for digit in range(6)])
    monkeypatch.setitem(sys.modules, "vllm", stub)
    return stub


def by_vllm(pool, out, model, score=score_capabilities_by_engine, **options):
    return score(
        pool,
        out,
        engine="vllm",
        model=str(model),
        prompts="compact",
        options={"allow_anyres": True, **options},
    )


def test_vllm_computes_first_queries_before_the_others(vllm, small_pool, tiny_vlm_dir, tmp_path):
    summary = by_vllm(small_pool, tmp_path / "s", tiny_vlm_dir, block=16, llm={"max_model_len": 512})
    assert vllm.arguments["enable_prefix_caching"] is True and vllm.arguments["max_model_len"] == 512
    assert vllm.arguments["limit_mm_per_prompt"] == {"image": 2}
    calls = vllm.calls[1:]  # after the check with two images
    assert [len(prompts) for prompts, _ in calls] == [16, 16 * 13, 16, 16 * 13, 8, 8 * 13]
    assert all(
        given["max_tokens"] == 1 and given["logprobs"] == 20 and "prompt_logprobs" not in given
        for _, given in calls
    )
    first, others = calls[0][0], calls[1][0]
    for s in range(16):  # sample by sample, each with the prefix of its first request
        group = [first[s], *others[13 * s : 13 * (s + 1)]]
        assert all(prompt.get("multi_modal_data") == group[0].get("multi_modal_data") for prompt in group)
        prefix = len(group[0]["prompt_token_ids"]) - 10
        assert len({tuple(prompt["prompt_token_ids"][:prefix]) for prompt in group}) == 1
        assert len({tuple(prompt["prompt_token_ids"]) for prompt in group}) == 14
    assert summary["rows"] == 40 and summary["missing"] == {}


def test_vllm_prompts_and_scores(vllm, small_pool, tiny_vlm_dir, tmp_path):
    from training.models import load_processor
    from training.render import Renderer

    by_vllm(small_pool, tmp_path / "s", tiny_vlm_dir)
    signal, queries = read_signal(tmp_path / "s", small_pool.hash), load_queries("compact")
    renderer = Renderer(*load_processor(tiny_vlm_dir))
    prompts = vllm.calls[1][0]
    for row in (0, 4, 6):
        whole = renderer.branches(small_pool[row], [(queries.capability[0], None)]).input_ids
        images = len(small_pool[row].images)
        assert sum(i == renderer.image_id for i in prompts[row]["prompt_token_ids"]) == images
        text = [i for i in whole if i != renderer.image_id]
        assert [i for i in prompts[row]["prompt_token_ids"] if i != renderer.image_id] == text
        listed = vllm.output(prompts[row], {"logprobs": 20}).outputs[0].logprobs[0]
        p = np.exp([listed[token].logprob for token in vllm.digit_ids])
        assert signal["cap_spatial"][row].as_py() == p.argmax()
        assert signal["mass_spatial"][row].as_py() == pytest.approx(p.sum(), abs=1e-5)
    summary = by_vllm(small_pool, tmp_path / "t", tiny_vlm_dir, score=score_styles_by_engine)
    assert summary["styles"] == {"multi_choice": 40, "word": 40} and vllm.calls[-1][1]["temperature"] == 0.0


def test_vllm_reads_images_in_the_mode_of_the_checkpoint(
    vllm, small_pool, tiny_vlm_dir, tmp_path, monkeypatch
):
    from training import in_vllm
    from training.models import load_processor
    from training.render import Renderer

    registered = []
    monkeypatch.setattr(in_vllm, "register_one_tile", lambda: registered.append(True))
    by_vllm(small_pool, tmp_path / "base", tiny_vlm_dir, allow_anyres=False)
    assert registered == [True] and "hf_overrides" not in vllm.arguments
    renderer = Renderer(*load_processor(tiny_vlm_dir))
    prompt = vllm.calls[1][0][0]
    tile = renderer.loader.read(small_pool[0].images[0]).permute(1, 2, 0).numpy()
    np.testing.assert_array_equal(np.asarray(prompt["multi_modal_data"]["image"][0]), tile)
    by_vllm(small_pool, tmp_path / "tiled", tiny_vlm_dir)
    assert registered == [True] and vllm.arguments["hf_overrides"] == {"image_mode": "anyres"}
    modes = [json.loads((tmp_path / name / "signal.json").read_text()) for name in ("base", "tiled")]
    assert [mode["image_mode"] for mode in modes] == ["base", "engine"]


def test_vllm_reads_images_in_the_view_that_is_asked_for(
    vllm, small_pool, tiny_vlm_dir, tmp_path, monkeypatch
):
    from training import in_vllm

    monkeypatch.setattr(in_vllm, "register_one_tile", lambda: None)
    content = yaml.safe_load(path_of("compact").read_text())
    for at, (of_prompts, of_recipe, options, mode) in enumerate(
        [
            ("anyres", None, {}, "anyres"),
            ("anyres", "single", {}, "base"),
            ("single", None, {}, "base"),
            ("single", None, {"allow_anyres": True}, "anyres"),
            ("single", "single", {"allow_anyres": True}, "base"),
        ]
    ):
        path = tmp_path / f"{at}.yaml"
        path.write_text(yaml.safe_dump(content | {"image": of_prompts}))
        settings = {"engine": "vllm", "model": str(tiny_vlm_dir), "prompts": str(path), "options": options}
        score_styles_by_engine(small_pool, tmp_path / str(at), image=of_recipe, **settings)
        assert vllm.arguments["hf_overrides"] == {"image_mode": mode}


def test_vllm_counts_tokens_found_in_its_cache(vllm, small_pool, tiny_vlm_dir, tmp_path):
    summary = by_vllm(small_pool, tmp_path / "s", tiny_vlm_dir)
    tokens = sum(len(prompt["prompt_token_ids"]) for prompts, _ in vllm.calls for prompt in prompts)
    assert summary["input_tokens"] == tokens and summary["cached_tokens"] == 2 * (PROBES + 40 * 14)


def test_vllm_that_sees_no_image_or_is_not_there_is_refused(
    vllm, small_pool, tiny_vlm_dir, tmp_path, monkeypatch
):
    vllm.blind = True
    with pytest.raises(EngineError, match="does not see images"):
        by_vllm(small_pool, tmp_path / "s", tiny_vlm_dir)
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(ImportError, match=r"winnow\[vllm\]"):
        by_vllm(small_pool, tmp_path / "s", tiny_vlm_dir)
    with pytest.raises(EngineError, match=r"engine must be server .* or vllm, got 'tgi'"):
        score_styles_by_engine(small_pool, tmp_path / "s", engine="tgi", model="m")


def test_rows_with_broken_images_do_not_count_as_failures_of_the_engine(small_pool, tmp_path):
    pool = first_eight(small_pool, tmp_path)
    gone = [row for row in range(8) if pool[row].images][:3]
    for row in gone:
        pool[row].images[0].unlink()
    with serve() as server:
        summary = by_server(pool, tmp_path / "s", server)
    assert summary["missing"] == {"missing_image": 3}
    nulls = pa.compute.is_null(read_signal(tmp_path / "s", pool.hash)["cap_stem"]).to_pylist()
    assert [row for row, null in enumerate(nulls) if null] == gone
