"""Named embeddings against plain forward passes: layers, tokens, pooling, encoders, presets, errors."""

import json
import shutil
import sys
from itertools import product

import numpy as np
import pytest
import yaml

from curation.pool.read import Pool
from curation.signals.core.table import read_metadata, read_signal
from curation.signals.core.vector_files import matrix
from curation.signals.core.vlm import ModelError, Vlm
from curation.signals.vectors import presets
from curation.signals.vectors.decoder import LayerError, captured, resolve_layers
from curation.signals.vectors.embeddings import embed_pool
from curation.signals.vectors.presets import embedding_settings, published, with_published
from curation.signals.vectors.states import pooled_states

torch = pytest.importorskip("torch")
HIDDEN, LAYERS = 48, 2
ROWS = (0, 4, 6, 11)
"""One image, none, two images; one to three turns."""


@pytest.fixture(scope="module")
def vlm(tiny_vlm_dir):
    return Vlm(tiny_vlm_dir, device="cpu")


@torch.inference_mode()
def states_of(vlm, sample):
    """(hidden states after each layer [layers][T, H], image mask [T]) of one sample alone."""
    example = vlm.renderer.encode(sample)
    batch = vlm.batch([example])
    del batch["labels"]
    states = vlm.model.model(**batch, output_hidden_states=True, use_cache=False).hidden_states
    return [state[0] for state in states[1:]], batch["input_ids"][0] == vlm.renderer.image_id


def vectors_of(out, column):
    """float64 [rows, dims] of a column, NaN where null."""
    values, known = matrix(read_signal(out), column)
    return np.where(known[:, None], values, np.nan).astype(float)


def close(found, expected):
    """Equal in half precision, in which vectors are stored."""
    np.testing.assert_allclose(found, np.asarray(expected), rtol=2e-3, atol=2e-3)


@pytest.fixture(scope="module")
def halves(small_pool, tiny_vlm_dir, tmp_path_factory):
    out = tmp_path_factory.mktemp("embedding")
    options = {"tokens": "halves", "max_tokens": 200, "shard_rows": 16}
    return out, embed_pool(small_pool, tiny_vlm_dir, out, name="own", layers=[0, -1], **options)


def test_halves_are_means_over_image_and_text_tokens_of_each_layer(vlm, small_pool, halves):
    out, summary = halves
    images, texts = vectors_of(out, "emb_own_image"), vectors_of(out, "emb_own_text")
    assert images.shape == texts.shape == (40, LAYERS * HIDDEN) and not np.isnan(texts).any()
    assert np.array_equal(~np.isnan(images[:, 0]), small_pool.table["n_images"].to_numpy() > 0)
    for row in ROWS:
        states, image = states_of(vlm, small_pool[row])
        for mask, vectors in ((image, images), (~image, texts)):
            if mask.any():
                close(vectors[row], torch.cat([s[mask].mean(dim=0) for s in states]))
    assert np.abs(texts[:, :HIDDEN] - texts[:, HIDDEN:]).max() > 0.1, "the layers must differ"
    assert summary["dims"] == {"emb_own_image": 96, "emb_own_text": 96}
    assert summary["nulls"] == {"emb_own_image": 8, "emb_own_text": 0}
    assert summary["samples"] == 40 and summary["padding_efficiency"] > 0.5
    assert read_metadata(out)["layers"] == [0, 1]


def test_the_last_token_and_the_mean_of_all_tokens_of_the_last_layer(vlm, small_pool, tiny_vlm_dir, tmp_path):
    embed_pool(small_pool, tiny_vlm_dir, tmp_path / "last", preset="last_token", max_tokens=200)
    embed_pool(small_pool, tiny_vlm_dir, tmp_path / "mean", preset="token_mean", max_tokens=200)
    last = vectors_of(tmp_path / "last", "emb_last_token")
    mean = vectors_of(tmp_path / "mean", "emb_token_mean")
    for row in ROWS:
        states, _ = states_of(vlm, small_pool[row])
        close(last[row], states[-1][-1])
        close(mean[row], states[-1].mean(dim=0))
    assert read_metadata(tmp_path / "mean")["layers"] == [LAYERS - 1]


def test_weights_by_position_over_the_first_tokens_only(vlm, small_pool, tiny_vlm_dir, tmp_path):
    embed_pool(small_pool, tiny_vlm_dir, tmp_path / "all", preset="position_weighted", max_tokens=200)
    cut = embed_pool(
        small_pool, tiny_vlm_dir, tmp_path / "cut", preset="position_weighted", first_tokens=20, name="cut"
    )
    lengths = []
    for row, sample in enumerate(small_pool.samples()):
        states, _ = states_of(vlm, sample)
        lengths.append(len(states[-1]))
        if row not in ROWS:
            continue
        for folder, column, most in (("all", "emb_position_weighted", 2048), ("cut", "emb_cut", 20)):
            kept = states[-1][:most]
            expected = sum((t + 1) * state for t, state in enumerate(kept))
            close(vectors_of(tmp_path / folder, column)[row], expected / expected.norm())
    assert cut["cut"] == {"first_tokens": sum(length > 20 for length in lengths)}
    assert 0 < cut["cut"]["first_tokens"] < 40


@torch.inference_mode()
def test_coincide_takes_the_tanh_of_the_mean_and_the_text_after_the_image(
    vlm, small_pool, tiny_vlm_dir, tmp_path
):
    embed_pool(small_pool, tiny_vlm_dir, tmp_path, preset="tanh_attention", layers=[0, 1])
    images = vectors_of(tmp_path, "emb_tanh_attention_image")
    texts = vectors_of(tmp_path, "emb_tanh_attention_text")
    for row in (0, 6, 11):
        caught = [[] for _ in range(LAYERS)]
        hooks = [
            layer.self_attn.register_forward_hook(lambda m, i, o, kept=kept: kept.append(o[0][0]))
            for layer, kept in zip(vlm.model.model.language_model.layers, caught, strict=True)
        ]
        _, image = states_of(vlm, small_pool[row])
        for hook in hooks:
            hook.remove()
        after = ~image
        after[: int(image.nonzero()[0])] = False
        assert 0 < after.sum() < (~image).sum(), "some text is before the image"
        for mask, vectors in ((image, images), (after, texts)):
            pooled = [kept[0][mask].mean(dim=0).tanh() for kept in caught]
            # sqrt(2 halves · 2 layers) = 2
            close(vectors[row], torch.cat([p / p.norm() for p in pooled]) / 2)
    has_image = small_pool.table["n_images"].to_numpy() > 0
    assert np.array_equal(~np.isnan(texts[:, 0]), has_image), "no image, no text after it"
    joined = np.concatenate([images, texts], axis=1)[has_image]
    np.testing.assert_allclose(np.linalg.norm(joined, axis=1), 1, atol=2e-3)


def test_the_tanh_of_the_mean_is_not_the_mean_of_the_tanh():
    from curation.signals.vectors.states import _pool

    states, mask = torch.tensor([[[2.0], [-1.0], [9.0]]]), torch.tensor([[True, True, False]])
    assert _pool(states, mask, "mean", "tanh", None).item() == pytest.approx(np.tanh(0.5))
    assert (np.tanh(2) + np.tanh(-1)) / 2 != pytest.approx(np.tanh(0.5), abs=0.1)


def test_visual_tokens_after_a_shallow_layer(vlm, small_pool, tiny_vlm_dir, tmp_path):
    summary = embed_pool(small_pool, tiny_vlm_dir, tmp_path, preset="shallow_visual", layers=[0])
    vectors = vectors_of(tmp_path, "emb_shallow_visual")
    for row in (0, 6):
        states, image = states_of(vlm, small_pool[row])
        close(vectors[row], states[0][image].mean(dim=0))
    assert np.isnan(vectors[4]).all() and summary["nulls"] == {"emb_shallow_visual": 8}


@torch.inference_mode()
def test_attention_states_are_the_outputs_of_the_attention_block(vlm, small_pool):
    example = vlm.renderer.encode(small_pool[0])
    [(attention,)] = pooled_states(vlm, [example], layers=[1], state="attention")
    [(hidden,)] = pooled_states(vlm, [example], layers=[1], state="hidden")
    assert np.abs(hidden - attention).max() > 1e-2


@torch.inference_mode()
def test_outputs_are_captured_inside_the_block_only(vlm, small_pool):
    batch = vlm.batch([vlm.renderer.encode(small_pool[0])])
    with captured(vlm.model, [0], "attention") as outputs:
        vlm.hidden(batch)
    assert list(outputs) == [0]
    outputs.clear()
    vlm.hidden(batch)
    assert not outputs, "the hooks must be removed"


@pytest.mark.parametrize(
    ("pooling", "tokens"),
    product(("mean", "last", "position_weighted"), ("all", "halves", "halves_after_image")),
)
def test_padding_order_and_neighbours_do_not_change_a_vector(vlm, small_pool, pooling, tokens):
    examples = [vlm.renderer.encode(small_pool[row]) for row in ROWS]
    options = {"layers": [0, 1], "pooling": pooling, "tokens": tokens, "squash": "tanh", "unit": True}
    with torch.inference_mode():
        together = pooled_states(vlm, examples, **options)
        turned = pooled_states(vlm, examples[::-1], **options)[::-1]
        apart = [pooled_states(vlm, [example], **options)[0] for example in examples]
    for others in (turned, apart):
        for ours, theirs in zip(together, others, strict=True):
            assert [part is None for part in ours] == [part is None for part in theirs]
            for a, b in zip(ours, theirs, strict=True):
                if a is not None:
                    np.testing.assert_allclose(a, b, atol=1e-5)


def test_broken_images_and_overflow_give_null_and_are_counted(
    small_pool, tiny_vlm_dir, tmp_path, monkeypatch
):
    for part in ("data.json", "images", "pool"):
        source = small_pool.folder.parent / part
        (shutil.copytree if source.is_dir() else shutil.copy)(source, tmp_path / part)
    (tmp_path / "images" / "0_0.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    from curation.signals.vectors import states

    whole = states.pooled_states

    def overflows(vlm, examples, **options):
        return [
            (vector * 1e9,) if example.name == "s1" else (vector,)
            for example, (vector,) in zip(examples, whole(vlm, examples, **options), strict=True)
        ]

    monkeypatch.setattr(states, "pooled_states", overflows)
    summary = embed_pool(Pool.open(tmp_path / "pool"), tiny_vlm_dir, tmp_path / "out", name="own")
    known = read_signal(tmp_path / "out")["emb_own"].is_valid().to_pylist()
    assert known[:4] == [False, False, True, True]
    assert summary["missing"] == {"broken_image": 1, "not_finite": 1} and summary["nulls"] == {"emb_own": 2}


# ------------------------------------------------------------------------------------------ encoders


@pytest.fixture(scope="module")
def dino_dir(tmp_path_factory):
    """A random tiny DINOv2."""
    from transformers import BitImageProcessor, Dinov2Config, Dinov2Model

    folder = tmp_path_factory.mktemp("dino")
    torch.manual_seed(0)
    shape = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "mlp_ratio": 2}
    Dinov2Model(Dinov2Config(**shape, image_size=56, patch_size=14)).save_pretrained(folder)
    size = {"shortest_edge": 56}
    BitImageProcessor(size=size, crop_size={"height": 56, "width": 56}).save_pretrained(folder)
    return folder


@torch.inference_mode()
def test_dino_is_the_class_token_of_the_first_image(small_pool, dino_dir, tmp_path):
    from transformers import AutoImageProcessor, AutoModel

    from training.images import decode

    summary = embed_pool(small_pool, dino_dir, tmp_path / "cls", preset="dino", batch_size=5, device="cpu")
    embed_pool(small_pool, dino_dir, tmp_path / "mean", preset="dino", pooling="mean", name="mean")
    model, processor = (
        AutoModel.from_pretrained(dino_dir).eval(),
        AutoImageProcessor.from_pretrained(dino_dir),
    )
    found, means = vectors_of(tmp_path / "cls", "emb_dino"), vectors_of(tmp_path / "mean", "emb_mean")
    for row in (0, 6, 13):  # 6 and 13 have two images
        pixels = processor([decode(small_pool[row].images[0])], return_tensors="pt")["pixel_values"]
        hidden = model(pixel_values=pixels).last_hidden_state[0]
        close(found[row], hidden[0])
        close(means[row], hidden[1:].mean(dim=0))
    assert len(small_pool[6].images) == 2
    assert np.isnan(found[4]).all() and summary["nulls"] == {"emb_dino": 8}
    assert summary["missing"] == {"no_image": 8}


def test_the_vision_tower_of_a_dual_encoder_stands_in_for_dino(small_pool, tmp_path):
    from training.builtin import BUILTIN

    embed_pool(small_pool, BUILTIN["builtin:mini_clip"], tmp_path, preset="dino")
    assert matrix(read_signal(tmp_path), "emb_dino")[0].shape == (40, 96)


def test_a_model_without_a_class_token_is_refused(small_pool, tmp_path):
    from transformers import SiglipImageProcessor, SiglipVisionConfig, SiglipVisionModel

    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    SiglipVisionModel(SiglipVisionConfig(**shape, image_size=32, patch_size=16)).save_pretrained(tmp_path)
    SiglipImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="without a class token: choose the pooling 'mean' or 'pooler'"):
        embed_pool(small_pool, tmp_path, tmp_path / "out", preset="dino")


@pytest.fixture(scope="module")
def clip():
    from curation.signals.vectors.dual_encoder import DualEncoder
    from training.builtin import BUILTIN

    return DualEncoder(BUILTIN["builtin:mini_clip"], device="cpu")


def texts_by_turn(sample):
    """One text for each turn, as OnceSelect's embedding reads it: question and answer, a line each."""
    return [f"{turn.question.replace('<image>', ' ').strip()}\n{turn.answer}" for turn in sample.turns]


def clip_image(clip, sample):
    """The unit mean of the unit vectors of a sample's images."""
    from training.images import decode

    mean = clip.images([decode(picture) for picture in sample.images]).mean(axis=0)
    return mean / np.linalg.norm(mean)


def test_clip_pair_is_image_beside_the_whole_text(small_pool, clip, tmp_path):
    embed_pool(small_pool, clip.path, tmp_path, preset="clip_pair", batch_size=7)
    found = vectors_of(tmp_path, "emb_clip_pair")
    for row in (0, 6, 11):
        text = clip.texts(["\n".join(texts_by_turn(small_pool[row]))], 1)[0]
        close(found[row], np.concatenate([clip_image(clip, small_pool[row]), text]))
    assert np.isnan(found[4]).all() and not np.isnan(found[0]).any()


def test_an_encoder_whose_numbers_overflow_gives_no_vector(small_pool, clip, tmp_path, monkeypatch):
    whole = type(clip).texts
    monkeypatch.setattr(type(clip), "texts", lambda *given: whole(*given) * np.float32(np.nan))
    for options in ({"kind": "clip", "part": "text"}, {"kind": "sentence"}):
        out = tmp_path / options["kind"]
        summary = embed_pool(small_pool, clip.path, out, name="own", text="answer", **options)
        assert summary["missing"]["not_finite"] == summary["nulls"]["emb_own"] == len(small_pool)


def test_clip_turns_is_image_beside_the_mean_of_the_turns(small_pool, clip, tmp_path):
    embed_pool(small_pool, clip.path, tmp_path, preset="clip_turns", batch_size=7)
    found = vectors_of(tmp_path, "emb_clip_turns")
    for row in (0, 6, 11):
        sample = small_pool[row]
        turns = clip.texts(texts_by_turn(sample), 8).mean(axis=0)
        both = np.concatenate([clip_image(clip, sample), turns])
        close(found[row], both / np.linalg.norm(both))
    assert len(small_pool[11].turns) == 3 and np.isnan(found[4]).all()


def test_one_side_of_a_dual_encoder(small_pool, clip, tmp_path):
    for part, text in (("image", None), ("text", "answer")):
        options = {"kind": "clip", "part": part, "name": part, "text": text}
        embed_pool(small_pool, clip.path, tmp_path / part, **options)
    images = vectors_of(tmp_path / "image", "emb_image")
    texts = vectors_of(tmp_path / "text", "emb_text")
    close(images[6], clip_image(clip, small_pool[6]))
    close(texts[4], clip.texts(["\n".join(turn.answer for turn in small_pool[4].turns)], 1)[0])
    assert np.isnan(images[4]).all() and not np.isnan(texts).any()


class StubEncoder:
    """The part of sentence-transformers that is used: a text becomes (its length, its number of spaces, 1).

    A word is a token, and the context is four tokens.
    """

    max_seq_length = 4

    class device:
        type = "cpu"

    def __init__(self, path, device=None):
        assert isinstance(path, str)

    def tokenizer(self, texts, verbose):
        return {"input_ids": [text.split() for text in texts]}

    def encode(self, texts, batch_size=32, convert_to_numpy=True, show_progress_bar=None):
        rows = [[len(t), t.count(" "), 1.0] for t in ([texts] if isinstance(texts, str) else texts)]
        return np.array(rows[0] if isinstance(texts, str) else rows, np.float32)


@pytest.mark.parametrize("text", ["first_instruction", "question", "both"])
def test_sentence_vectors_are_those_of_the_requested_text(small_pool, tmp_path, monkeypatch, text):
    monkeypatch.setitem(sys.modules, "sentence_transformers", type(sys)("sentence_transformers"))
    sys.modules["sentence_transformers"].SentenceTransformer = StubEncoder
    monkeypatch.setattr("curation.signals.vectors.sentence.version", lambda package: "1.0")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "modules.json").write_text("[]")
    options = {"kind": "sentence", "text": text, "name": "q"}
    summary = embed_pool(small_pool, tmp_path / "model", tmp_path / "q", **options)
    table = read_signal(tmp_path / "q", small_pool.hash)
    assert table.column_names == ["row", "emb_q"] and summary["dims"] == {"emb_q": 3}
    texts = []
    for sample in small_pool.samples():
        turns = sample.turns[:1] if text == "first_instruction" else sample.turns
        parts = [
            part.replace("<image>", " ").strip()
            for turn in turns
            for part in ((turn.question, turn.answer) if text == "both" else (turn.question,))
        ]
        texts.append("\n".join(parts).strip())
    assert [v[:2] for v in table["emb_q"].to_pylist()] == [[len(t), t.count(" ")] for t in texts]
    long = sum(len(t.split()) > 4 for t in texts)
    assert long > 0 and summary["cut"] == {"long_text": long}
    first = read_metadata(tmp_path / "q")["model_hash"]
    (tmp_path / "model" / "modules.json").write_text("[1]")
    embed_pool(small_pool, tmp_path / "model", tmp_path / "q", **options)
    assert read_metadata(tmp_path / "q")["model_hash"] != first


@torch.inference_mode()
def test_a_sentence_encoder_of_the_library_is_read_as_it_is(small_pool, tmp_path):
    """MiniLM's layout, tiny: mean over the tokens of the last hidden state, to unit length."""
    pytest.importorskip("sentence_transformers")
    from transformers import AutoModel, BertConfig, BertModel

    from curation.mini.tokenizer import build_tokenizer

    tokenizer = build_tokenizer()
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = BertConfig(**shape, vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id)
    minilm = tmp_path / "minilm"
    BertModel(config).save_pretrained(minilm)
    tokenizer.save_pretrained(minilm)
    models, kinds = "sentence_transformers.models", ("Transformer", "Pooling", "Normalize")
    modules = [
        {"idx": n, "name": str(n), "path": f"{n}_{kind}" if n else "", "type": f"{models}.{kind}"}
        for n, kind in enumerate(kinds)
    ]
    (minilm / "modules.json").write_text(json.dumps(modules))
    (minilm / "sentence_bert_config.json").write_text('{"max_seq_length": 32, "do_lower_case": false}')
    (minilm / "1_Pooling").mkdir()
    (minilm / "1_Pooling" / "config.json").write_text(
        json.dumps({"word_embedding_dimension": 32, "pooling_mode_mean_tokens": True})
    )
    (minilm / "2_Normalize").mkdir()
    embed_pool(small_pool, minilm, tmp_path / "out", preset="first_instruction", device="cpu")
    found, model = vectors_of(tmp_path / "out", "emb_first_instruction"), AutoModel.from_pretrained(minilm)
    for row in ROWS:
        text = small_pool[row].turns[0].question.replace("<image>", " ").strip()
        hidden = model(**tokenizer(text, return_tensors="pt", return_token_type_ids=False)).last_hidden_state
        mean = hidden[0].mean(dim=0)
        close(found[row], mean / mean.norm())


def test_the_text_tower_of_a_dual_encoder_stands_in_for_a_sentence_encoder(small_pool, clip, tmp_path):
    embed_pool(small_pool, clip.path, tmp_path, preset="first_instruction")
    found = vectors_of(tmp_path, "emb_first_instruction")
    first = small_pool[11].turns[0].question.replace("<image>", " ").strip()
    close(found[11], clip.texts([first], 1)[0])


def test_missing_sentence_transformers_gives_an_install_hint(small_pool, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    (tmp_path / "modules.json").write_text("[]")
    with pytest.raises(ImportError, match=r"winnow\[sentence\]"):
        embed_pool(small_pool, tmp_path, tmp_path / "out", kind="sentence")
    with pytest.raises(ValueError, match="sentence encoders compute in float32, got dtype 'float16'"):
        embed_pool(small_pool, tmp_path, tmp_path / "out", kind="sentence", dtype="float16")


# ------------------------------------------------------------------------------------------ settings


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "bert"}, "kind must be one of states, vision, sentence, clip, got 'bert'"),
        ({"state": "mlp"}, "state must be one of hidden, attention, got 'mlp'"),
        ({"pooling": "max"}, "pooling must be one of mean, last, .*, got 'max'"),
        ({"kind": "vision", "pooling": "last"}, "pooling must be one of cls, mean, pooler, got 'last'"),
        ({"kind": "sentence", "text": "title"}, "text must be one of first_instruction, .*, got 'title'"),
        ({"kind": "vision", "layers": [1]}, "kind 'vision' has no setting 'layers'; it has pooling"),
        ({"preset": "dyno"}, "preset must be one of .*, got 'dyno'.*did you mean 'dino'"),
    ],
)
def test_unknown_settings_are_refused(small_pool, tiny_vlm_dir, tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        embed_pool(small_pool, tiny_vlm_dir, tmp_path, **settings)
    assert not (tmp_path / "signal.json").exists()


def test_layers_that_the_model_does_not_have_are_refused(small_pool, tiny_vlm_dir, tmp_path):
    assert resolve_layers([0, -1, 3], 4) == [0, 3, 3]
    for bad in ([4], [-5], []):
        with pytest.raises(LayerError, match="the model has 4"):
            resolve_layers(bad, 4)
    with pytest.raises(LayerError, match="the model has 2"):
        embed_pool(small_pool, tiny_vlm_dir, tmp_path, preset="tanh_attention")


def test_presets_are_settings_of_their_kind_and_say_where_they_come_from():
    content = yaml.safe_load((presets.Path(presets.__file__).parent / "presets.yaml").read_text())
    for section in ("embeddings", "clusters"):
        assert all(entry["source"] for entry in content[section].values())
        assert "source" not in str(list(published(section).values())).replace("'within': 'source'", "")
    for name in published("embeddings"):
        settings = embedding_settings({"preset": name})
        assert settings.keys() == {"kind", *presets.KINDS[settings["kind"]]}


def test_an_entry_changes_the_keys_that_it_gives():
    assert with_published("clusters", {"presel": {"k": 5}, "own": {"k": 3}}) == {
        "presel": {**published("clusters")["presel"], "k": 5},
        "own": {"k": 3},
    }
    other = {"dino": {"kind": "states", "layers": [1]}, "clip_pair": {"kind": "clip", "part": "text"}}
    merged = with_published("embeddings", other)
    assert merged["dino"] == other["dino"], "another kind has other keys"
    assert merged["clip_pair"] == {**published("embeddings")["clip_pair"], "part": "text"}
    assert with_published("clusters", {"instructiongpt4": {"method": "kmeans", "column": "x", "k": 2}}) == {
        "instructiongpt4": {"method": "kmeans", "column": "x", "k": 2}
    }
    assert with_published("clusters", "nothing") == "nothing"
