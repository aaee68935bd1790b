"""How well a model answers by itself: the rules, which questions are asked, generation in a batch, judges."""

import pytest
from chat_server import serve

from curation.pool.sample import Sample, Turn
from curation.signals.answered.producer import questions_of, score_answers
from curation.signals.answered.rules import score, word_f1
from curation.signals.core.generate import generate
from curation.signals.core.table import read_signal
from curation.signals.core.vlm import Vlm

torch = pytest.importorskip("torch")


@pytest.mark.parametrize(
    ("reference", "answer", "expected"),
    [
        ("B", "B. a dog", 1),
        ("(b)", "b", 1),
        ("B.", "The answer is B", 0),  # begins with a word
        ("B", "Answer: B", 1),
        ("B", "Because it is so", 0),
        ("A", "a dog", 0),  # an article
        ("A", "A because of the dog", 1),
        ("a", "a", 1),
        ("A", "(a) dog", 1),
        ("100", "104", 1),
        ("100", "106", 0),
        ("100", "many", 0),
        ("-3", "-3.0", 1),
        ("1,200", "1200.", 1),
        ("0", "0", 1),
        ("12%", "12", 1),
        ("Yes", "yes.", 1),
        ("Yes", "No", 0),
        ("The red dog", "a red cat", 0.5),
        ("a dog", "", 0),
    ],
)
def test_an_answer_is_scored_by_the_form_of_its_reference(reference, answer, expected):
    assert score(reference, answer) == pytest.approx(expected)


def test_f1_of_words_counts_repeats():
    # 2 of 3 given words are wanted ("dog" once only), 2 of 2 wanted words are given
    assert word_f1("dog runs", "dog dog runs") == pytest.approx(2 * 2 / 5)
    assert word_f1("", "") == 1 and word_f1("the", "the") == 1


def test_each_question_is_asked_with_the_turns_and_images_before_it():
    turns = (Turn("<image> a ?", "1"), Turn("b ?", "2"), Turn("<image> c ?", "3"), Turn("d ?", "4"))
    places, prompts = questions_of([Sample(0, "s", "x", ("i.png", "j.png"), turns)] * 2, 3)
    assert places == [0, 0, 0, 1, 1, 1]
    assert [len(p.turns) for p in prompts[:3]] == [1, 2, 3]
    assert [p.images for p in prompts[:3]] == [("i.png",), ("i.png",), ("i.png", "j.png")]


@torch.inference_mode()
def test_answers_of_a_batch_are_those_of_each_prompt_alone(small_pool, tiny_vlm_dir):
    vlm = Vlm(tiny_vlm_dir, device="cpu")
    prompts = [vlm.renderer.prompt(small_pool[row]) for row in (0, 4, 6, 39)]
    assert len({len(prompt) for prompt in prompts}) > 1
    alone = [generate(vlm, [prompt], 6)[0] for prompt in prompts]
    assert generate(vlm, prompts, 6) == alone
    tokens = vlm.batch(prompts[:1])
    del tokens["labels"]
    # by hand: one forward pass for each token
    ids, text = tokens["input_ids"], []
    for _ in range(6):
        inputs = tokens | {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        inputs = {k: v for k, v in inputs.items() if k != "mm_token_type_ids"}
        token = vlm.model(**inputs).logits[0, -1].argmax()
        if token == vlm.renderer.end_id:
            break
        text.append(int(token))
        ids = torch.cat([ids, token[None, None]], dim=1)
    assert vlm.tokenizer.decode(text, skip_special_tokens=True) == alone[0]


def test_scores_by_rule_and_by_a_judge(small_pool, tiny_vlm_dir, tmp_path):
    settings = {"max_turns": 2, "max_new_tokens": 4, "device": "cpu", "shard_rows": 25}
    said = score_answers(small_pool, tiny_vlm_dir, tmp_path / "rule", **settings)
    table = read_signal(tmp_path / "rule", small_pool.hash)
    assert table.column_names == ["row", "answer_score", "asked_turns"]
    asked = table["asked_turns"].to_pylist()
    assert asked == [min(2, len(sample.turns)) for sample in small_pool.samples(range(len(small_pool)))]
    turns = sum(len(sample.turns) for sample in small_pool.samples(range(len(small_pool))))
    assert said["turns_not_asked"] == turns - sum(asked) > 0
    assert said["nulls"] == table["answer_score"].null_count
    assert all(0 <= value <= 1 for value in table["answer_score"].drop_null().to_pylist())
    pytest.importorskip("httpx")
    with serve(answer=lambda body: "85") as server:
        judged = score_answers(
            small_pool, tiny_vlm_dir, tmp_path / "judge", judge_model="m", base_url=server.url, **settings
        )
    values = read_signal(tmp_path / "judge", small_pool.hash)["answer_score"]
    assert values.drop_null().to_pylist() == pytest.approx([0.85] * (len(values) - said["nulls"]))
    assert values.null_count == said["nulls"]
    assert judged["requests"] == sum(asked) - sum(said["missing"].values())
