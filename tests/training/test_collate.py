import pytest
import torch

from curation.pool.sample import Sample, Turn
from training.collate import Collator
from training.render import IGNORE

QUERIES = [("score dog ?", None), ("what is the colour of a2 ?", None), ("how many cat at b1 ? score", None)]


@pytest.fixture
def collator(renderer):
    return Collator(renderer.pad_id, renderer.loader)


def test_right_padding(collator, renderer, samples):
    examples = [renderer.encode(s) for s in samples[:6]]
    batch = collator(examples)
    lengths = [len(e) for e in examples]
    assert batch["input_ids"].shape == (6, max(lengths))
    assert batch["attention_mask"].sum(1).tolist() == lengths
    for row, example in enumerate(examples):
        assert batch["input_ids"][row, : len(example)].tolist() == example.input_ids.tolist()
        assert (batch["input_ids"][row, len(example) :] == renderer.pad_id).all()
        assert (batch["labels"][row, len(example) :] == IGNORE).all()


def test_text_only_batch_has_no_pixels(collator, renderer, samples):
    texts = [renderer.encode(s) for s in samples if not s.images]
    assert "pixel_values" not in collator(texts)


def test_left_padded_batches_generate_what_single_samples_do(loaded, renderer, samples, collator):
    model, _ = loaded
    chosen = [samples[i] for i in (0, 4, 6, 1)]  # two turns, text only, two images, one turn
    assert {len(s.images) for s in chosen} == {0, 1, 2}
    left = Collator(renderer.pad_id, renderer.loader, side="left")
    prompts = [renderer.prompt(s) for s in chosen]

    def generate(examples):
        batch = left(examples)
        batch.pop("labels")
        out = model.generate(**batch, max_new_tokens=6, do_sample=False, eos_token_id=None)
        return out[:, batch["input_ids"].shape[1] :].tolist()

    together = generate(prompts)
    assert together == [generate([prompt])[0] for prompt in prompts]
    assert all(len(answer) == 6 for answer in together)


def test_branches_equal_separate_forward_passes(loaded, renderer, samples, collator):
    model, _ = loaded
    chosen = [samples[i] for i in (0, 4, 6, 1)]
    batch = collator([renderer.branches(s, QUERIES[: 3 - (i == 1)]) for i, s in enumerate(chosen)])
    index = batch.pop("branch_index")
    with torch.no_grad():
        tree = model(**batch).logits[index[:, 0], index[:, 1]].log_softmax(-1)
        alone = []
        for i, sample in enumerate(chosen):
            for question, _ in QUERIES[: 3 - (i == 1)]:
                asked = Sample(0, "q", "t", sample.images, (*sample.turns, Turn(question, "")))
                alone.append(model(**collator([renderer.prompt(asked)])).logits[0, -1].log_softmax(-1))
    assert len(tree) == len(alone) == 11
    assert (tree - torch.stack(alone)).abs().max() < 1e-5
    assert (tree[0] - tree[1]).abs().max() > 1e-3  # the queries do differ


def test_branch_loss_equals_the_loss_of_separate_conversations(loaded, renderer, samples, collator):
    model, _ = loaded
    queries = [("score dog ?", "3"), ("what is at a2 ?", "red car"), ("score cat ?", "0")]
    chosen = [samples[i] for i in (0, 4, 6)]
    batch = collator([renderer.branches(s, queries) for s in chosen])
    batch.pop("branch_index")
    longer = [Sample(0, "q", "t", s.images, (*s.turns, Turn(q, a))) for s in chosen for q, a in queries]
    separate = [renderer.encode(s, "last") for s in longer]
    with torch.no_grad():
        tree, plain = model(**batch).loss, model(**collator(separate)).loss
    assert abs(tree - plain) < 1e-5


def test_branches_and_plain_examples_do_not_mix(renderer, samples, collator):
    with pytest.raises(ValueError, match="branch examples only"):
        collator([renderer.encode(samples[0]), renderer.branches(samples[1], QUERIES)])
    with pytest.raises(ValueError, match="right-padded"):
        Collator(0, renderer.loader, side="left")([renderer.branches(samples[1], QUERIES)])


def test_an_image_that_breaks_while_training_mutes_its_example(tmp_path, loaded, draw):
    from training.images import ImageError
    from training.render import Renderer

    renderer = Renderer(loaded[1], "base", cache_mb=0)
    path = tmp_path / "late.png"
    draw(0, (300, 300)).save(path)
    bad = Sample(0, "late", "t", (path,), (Turn("<image> what ?", "red"),))
    good = Sample(1, "fine", "t", (draw(1),), (Turn("<image> what ?", "red"),))
    examples = [renderer.encode(bad), renderer.encode(good)]
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(ImageError, match=r"late\.png"):
        Collator(0, renderer.loader)(examples)
    muting = Collator(0, renderer.loader, mute_broken=True)
    batch = muting(examples)
    assert (batch["labels"][0] == IGNORE).all() and (batch["labels"][1] != IGNORE).any()
    assert batch["pixel_values"].shape[0] == 2
    assert list(muting.broken) == ["late"]
