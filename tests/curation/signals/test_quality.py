"""Text-only grades: models against direct calls, a judge on a loopback server, the mini world's stand-in."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from chat_server import serve
from tiny_models import build_text_models

from curation.pool.sample import Sample, Turn
from curation.signals.core.table import MissingPartError, OtherPoolError, read_metadata, read_signal
from curation.signals.core.vlm import ModelError
from curation.signals.quality.judge import read_grade
from curation.signals.quality.models import PROMPTS, RewardModel, ScaleModel
from curation.signals.quality.producer import score_quality, turn_products
from curation.signals.raters.engine import EngineError
from curation.taxonomy import CAPABILITY_KEYS

torch = pytest.importorskip("torch")


@pytest.fixture(scope="module")
def text_models(tmp_path_factory):
    """(reward model, scorer) with random weights, as directories."""
    return build_text_models(tmp_path_factory.mktemp("text_models"))


@pytest.fixture(scope="module")
def graded(small_pool, text_models, tmp_path_factory):
    out = tmp_path_factory.mktemp("graded")
    reward, scorer = text_models
    return out, score_quality(
        small_pool,
        out,
        kind="models",
        reward_model=reward,
        complexity_model=scorer,
        quality_model=scorer,
        max_tokens=400,
        shard_rows=16,
        device="cpu",
    )


def texts_of(turn):
    return turn.question.replace("<image>", " ").strip(), turn.answer.strip()


@torch.inference_mode()
def test_a_reward_is_the_mean_logit_of_question_and_answer(small_pool, text_models, graded):
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model, tokenizer = (
        AutoModelForSequenceClassification.from_pretrained(text_models[0]),
        AutoTokenizer.from_pretrained(text_models[0]),
    )
    rewards = read_signal(graded[0], small_pool.hash)["reward"].to_pylist()
    for row in (0, 4, 11):
        logits = [
            model(**tokenizer(*texts_of(t), return_tensors="pt")).logits.item() for t in small_pool[row].turns
        ]
        assert rewards[row] == pytest.approx(np.mean(logits), abs=1e-4)
    assert np.std(rewards) > 1e-2


@torch.inference_mode()
@pytest.mark.parametrize("column", ["complexity", "quality"])
def test_a_scale_is_the_expected_grade_summed_over_turns(small_pool, text_models, graded, column):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, tokenizer = (
        AutoModelForCausalLM.from_pretrained(text_models[1]),
        AutoTokenizer.from_pretrained(text_models[1]),
    )
    values = read_signal(graded[0])[column].to_pylist()
    digits = tokenizer.convert_tokens_to_ids(list("123456"))
    for row in (0, 11):
        total = 0.0
        for turn in small_pool[row].turns:
            question, answer = texts_of(turn)
            ids = tokenizer(PROMPTS[column].format(question=question, answer=answer), return_tensors="pt")[
                "input_ids"
            ]
            total += float(model(ids).logits[0, -1, digits].softmax(0) @ torch.arange(1.0, 7.0))
        assert values[row] == pytest.approx(total, abs=1e-3)
    turns = small_pool.table["n_turns"].to_numpy()
    assert (np.array(values) >= turns).all() and (np.array(values) <= 6 * turns).all()


@torch.inference_mode()
def test_deitas_score_multiplies_the_grades_of_each_turn(small_pool, text_models, graded):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, tokenizer = (
        kind.from_pretrained(text_models[1]) for kind in (AutoModelForCausalLM, AutoTokenizer)
    )
    digits = tokenizer.convert_tokens_to_ids(list("123456"))

    def grade(column, turn):
        question, answer = texts_of(turn)
        prompt = PROMPTS[column].format(question=question, answer=answer)
        logits = model(tokenizer(prompt, return_tensors="pt")["input_ids"]).logits[0, -1, digits]
        return float(logits.softmax(0) @ torch.arange(1.0, 7.0))

    table = read_signal(graded[0])
    row = int(np.argmax(small_pool.table["n_turns"].to_numpy()))
    turns = small_pool[row].turns
    total = sum(grade("complexity", turn) * grade("quality", turn) for turn in turns)
    assert table["deita_score"][row].as_py() == pytest.approx(total, abs=1e-2)
    sums = table["complexity"][row].as_py() * table["quality"][row].as_py()
    assert len(turns) > 1 and sums > 1.5 * total


def test_a_score_by_turn_needs_every_grade():
    assert turn_products([2.0, 2.0, 2.0], [2.5, 2.5, 2.5]) == 15.0  # the sums multiply to 45
    assert turn_products([1.0, None], [2.0, 3.0]) is None and turn_products([1.0], [None]) is None
    assert turn_products([float("inf")], [1.0]) is None


def test_columns_without_a_model_are_absent_and_counts_are_reported(small_pool, graded):
    out, summary = graded
    table = read_signal(out, small_pool.hash)
    assert (
        table.column_names == ["row", "reward", "complexity", "quality", "deita_score"]
        and table["reward"].type == pa.float32()
    )
    assert (
        summary["columns"]["reward"]["nulls"] == 0
        and 0 < summary["columns"]["reward"]["padding_efficiency"] <= 1
    )
    assert (
        set(read_metadata(out)["graders"]) == {"reward", "complexity", "quality"}
        and summary["rows_computed"] == 40
    )


def test_long_turns_are_truncated_for_rewards_and_null_for_scales(text_models):
    long = Sample(0, "a", "s", (), (Turn("what is it ?", "dog " * 400), Turn("and ?", "cat")))
    reward = RewardModel(text_models[0], 4096, device="cpu")
    [value] = reward.grade([long], lambda n: None)
    assert np.isfinite(value) and reward.summary()["cut"] == 1
    scorer, done = ScaleModel("quality", text_models[1], 4096, device="cpu"), []
    short = Sample(1, "b", "s", (), (Turn("and ?", "cat"),))
    assert [v is None for v in scorer.grade([long, short], done.append)] == [True, False]
    assert scorer.summary()["missing"] == {"too_long": 1} and sum(done) == pytest.approx(2)


def test_models_that_are_not_graders_are_refused(text_models, tmp_path):
    from transformers import BertConfig, BertForSequenceClassification

    from curation.mini.tokenizer import build_tokenizer

    shape = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    BertForSequenceClassification(BertConfig(vocab_size=600, num_labels=2, **shape)).save_pretrained(tmp_path)
    build_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="not a reward model: it has 2 labels instead of one"):
        RewardModel(tmp_path, 100, device="cpu")
    with pytest.raises(ValueError, match=r"dtype must be one of .*, got 'no_grad'"):
        RewardModel(tmp_path, 100, dtype="no_grad", device="cpu")


def grade_of(body):
    """The stub judge's reply: a grade by the conversation's length; prose or 101 where there is a dog."""
    text = body["messages"][0]["content"].split("\n\n", 1)[1]
    if "dog" in text:
        return "I would say 85" if "letter" in text else "101"
    return f"{len(text) % 101}"


def test_a_judge_is_read_strictly_and_sees_no_image(small_pool, tmp_path):
    pytest.importorskip("httpx")
    with serve(answer=grade_of) as server:
        summary = score_quality(
            small_pool,
            tmp_path,
            kind="models",
            judge_model="j",
            base_url=server.url,
            max_failed=1.0,
            options={"concurrency": 4},
        )
    judges = read_signal(tmp_path, small_pool.hash)["judge"].to_pylist()
    conversations = [
        "\n\n".join(f"User: {texts_of(t)[0]}\nAssistant: {texts_of(t)[1]}" for t in s.turns)
        for s in small_pool.samples()
    ]
    expected = [None if "dog" in text else float(len(text) % 101) for text in conversations]
    assert judges == expected and 0 < judges.count(None) < 40
    counts = summary["columns"]["judge"]
    assert (
        counts["missing"] == {"unreadable": judges.count(None)}
        and counts["nulls"] == judges.count(None)
        and counts["requests"] == 40
    )
    assert all(
        "image_url" not in json.dumps(body) and "<image>" not in json.dumps(body) for body in server.requests
    )
    assert {body["temperature"] for body in server.requests} == {0.0}


@pytest.mark.slow
def test_a_judge_that_fails_too_often_stops_before_a_part_is_written(small_pool, tmp_path):
    pytest.importorskip("httpx")

    def fault(number, body):
        return 400 if number == 25 else None

    with serve(answer=lambda body: "70", fault=fault) as server:
        options = {
            "kind": "models",
            "judge_model": "j",
            "base_url": server.url,
            "shard_rows": 20,
            "options": {"concurrency": 1},
        }
        with pytest.raises(EngineError, match=r"no grade for 1 of 20 items .*bad_request"):
            score_quality(small_pool, tmp_path, max_failed=0.0, **options)
        with pytest.raises(MissingPartError):
            read_signal(tmp_path)
        again = score_quality(small_pool, tmp_path, max_failed=0.0, **options)
    assert again["rows_kept"] == 20 and again["columns"]["judge"]["requests"] == 20
    assert read_signal(tmp_path)["judge"].to_pylist() == [70.0] * 40


@pytest.mark.parametrize(
    ("text", "grade"),
    [
        ("85", 85),
        (" 85.\n", 85),
        ("85/100", 85),
        ("0", 0),
        ("100", 100),
        ("101", None),
        ("8.5", None),
        ("about 85", None),
        ("", None),
        ("85 90", None),
    ],
)
def test_reading_a_grade(text, grade):
    assert read_grade(text) == grade


def write_truth(pool, path, wrong=(), difficulty=3):
    """A truth table of the small pool; every third sample has a formatted answer."""
    ids = pool.table["id"].to_pylist()[::-1]
    columns = {
        f"cap_{key}": pa.array([difficulty if key == "ocr" else 0] * len(ids), pa.int8())
        for key in CAPABILITY_KEYS
    }
    styles = [["chain_of_thought"] if int(i[1:]) % 3 == 0 else ["word"] for i in ids]
    pq.write_table(
        pa.table({"id": ids, **columns, "styles": styles, "wrong": [i in wrong for i in ids]}), path
    )
    return path


def test_the_stand_in_without_noise_is_its_formula(small_pool, tmp_path):
    truth = write_truth(small_pool, tmp_path / "truth.parquet", wrong={"s3"})
    score_quality(small_pool, tmp_path / "out", truth=truth, noise=0.0, knows_rate=0.0)
    table = read_signal(tmp_path / "out", small_pool.hash)
    for row in (0, 1, 3, 5):
        sample = small_pool[row]
        words = np.mean([len(t.answer.split()) for t in sample.turns])
        assert table["reward"][row].as_py() == pytest.approx(np.log1p(words) + 0.5 * (row % 3 == 0), rel=1e-5)
        assert table["judge"][row].as_py() == round(min(40 + 10 * np.log2(1 + words), 90) + 6)
        assert table["complexity"][row].as_py() == pytest.approx(4 * len(sample.turns))
        assert table["quality"][row].as_py() == pytest.approx(
            len(sample.turns) * min(6, 1 + np.log2(1 + words)), rel=1e-5
        )
        assert table["deita_score"][row].as_py() == pytest.approx(
            4 * len(sample.turns) * min(6, 1 + np.log2(1 + words)), rel=1e-5
        )


def test_graders_notice_wrong_answers_independently_at_the_given_rate(small_pool, tmp_path):
    ids = set(small_pool.table["id"].to_pylist())
    grades = {}
    for rate in (0.0, 0.5, 1.0):
        score_quality(
            small_pool,
            tmp_path / f"{rate}",
            truth=write_truth(small_pool, tmp_path / f"t{rate}", wrong=ids),
            noise=0.0,
            knows_rate=rate,
        )
        grades[rate] = {
            c: read_signal(tmp_path / f"{rate}")[c].to_numpy()
            for c in ("reward", "judge", "complexity", "quality")
        }
    lowered = {c: grades[0.5][c] < grades[0.0][c] - 1e-6 for c in ("reward", "quality")}
    for column in ("reward", "judge", "quality"):
        assert (grades[1.0][column] < grades[0.0][column]).all()
        assert 8 <= (grades[0.5][column] < grades[0.0][column]).sum() <= 32
    assert not np.array_equal(lowered["reward"], lowered["quality"])
    assert np.array_equal(grades[1.0]["complexity"], grades[0.0]["complexity"]), (
        "the question's grade knows no answer"
    )
    drop = grades[0.0]["reward"] - grades[1.0]["reward"]
    np.testing.assert_allclose(drop, 2 * grades[0.0]["reward"].astype(float).std(), rtol=1e-3)


def test_noise_is_independent_seeded_and_in_units_of_the_spread(small_pool, tmp_path):
    truth = write_truth(small_pool, tmp_path / "truth.parquet")
    runs = {}
    for name, options in {
        "none": {"noise": 0.0},
        "one": {},
        "again": {"shard_rows": 7},
        "other": {"seed": 1},
    }.items():
        score_quality(small_pool, tmp_path / name, truth=truth, knows_rate=0.0, **options)
        runs[name] = read_signal(tmp_path / name)
    assert runs["one"].equals(runs["again"]) and not runs["one"].equals(runs["other"])
    noise = {
        c: (runs["one"][c].to_numpy() - runs["none"][c].to_numpy()) / runs["none"][c].to_numpy().std()
        for c in ("reward", "complexity", "quality")
    }
    for values in noise.values():
        assert 0.7 < values.std() < 1.4 and abs(values.mean()) < 0.5
    assert np.abs(np.corrcoef(list(noise.values()))[np.triu_indices(3, 1)]).max() < 0.5
    judge = runs["one"]["judge"].to_numpy()
    assert np.array_equal(judge, np.round(judge)) and judge.min() >= 0 and judge.max() <= 100


def test_columns_can_be_chosen_and_invalid_settings_are_refused(small_pool, tmp_path):
    truth = write_truth(small_pool, tmp_path / "truth.parquet")
    score_quality(small_pool, tmp_path / "two", truth=truth, columns=["quality", "reward"])
    assert read_signal(tmp_path / "two").column_names == ["row", "reward", "quality"]  # no deita_score
    out = tmp_path / "bad"
    with pytest.raises(ValueError, match="needs truth"):
        score_quality(small_pool, out)
    with pytest.raises(
        ValueError, match="column must be one of reward, judge, complexity, quality, got 'beauty'"
    ):
        score_quality(small_pool, out, truth=truth, columns=["beauty"])
    with pytest.raises(ValueError, match="column 'judge' needs a model: set judge_model"):
        score_quality(small_pool, out, kind="models", columns=["judge"])
    with pytest.raises(ValueError, match="no column is requested"):
        score_quality(small_pool, out, kind="models")
    with pytest.raises(ValueError, match="kind must be one of metadata, models, got 'human'"):
        score_quality(small_pool, out, kind="human")
    with pytest.raises(ValueError, match="knows_rate"):
        score_quality(small_pool, out, truth=truth, knows_rate=1.5)
    pq.write_table(pq.read_table(truth).slice(1), tmp_path / "short.parquet")
    with pytest.raises(OtherPoolError, match="belongs to another pool"):
        score_quality(small_pool, out, truth=tmp_path / "short.parquet")
    pq.write_table(pa.table({"id": ["a"]}), tmp_path / "no.parquet")
    with pytest.raises(ValueError, match="not a truth table"):
        score_quality(small_pool, out, truth=tmp_path / "no.parquet")
