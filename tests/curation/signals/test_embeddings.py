"""Embeddings against plain forward passes: layers, pooling, COINCIDE's variant, sentence encoders, errors."""

import shutil
import sys

import numpy as np
import pytest

from curation.pool.read import Pool
from curation.signals.core.table import read_metadata, read_signal
from curation.signals.core.vector_files import matrix
from curation.signals.core.vlm import Vlm
from curation.signals.vectors.embeddings import (
    LayerError,
    captured,
    embed_pool,
    pooled_states,
    resolve_layers,
)

torch = pytest.importorskip("torch")
HIDDEN, LAYERS = 48, 2


@pytest.fixture(scope="module")
def vlm(tiny_vlm_dir):
    return Vlm(tiny_vlm_dir, device="cpu")


@torch.inference_mode()
def states_of(vlm, sample):
    """(all hidden states after each layer [layers][T, H], image mask [T]) of one sample alone."""
    example = vlm.renderer.encode(sample)
    batch = vlm.batch([example])
    del batch["labels"]
    states = vlm.model.model(**batch, output_hidden_states=True, use_cache=False).hidden_states
    return [state[0] for state in states[1:]], batch["input_ids"][0] == vlm.renderer.image_id


@pytest.fixture(scope="module")
def signal(small_pool, tiny_vlm_dir, tmp_path_factory):
    out = tmp_path_factory.mktemp("embedding")
    return out, embed_pool(small_pool, tiny_vlm_dir, out, layers=[0, -1], max_tokens=200, shard_rows=16)


def test_vectors_are_means_over_image_and_text_tokens_of_each_layer(vlm, small_pool, signal):
    out, summary = signal
    table = read_signal(out, small_pool.hash)
    (images, has_image), (texts, has_text) = matrix(table, "emb_image"), matrix(table, "emb_text")
    assert images.shape == texts.shape == (40, LAYERS * HIDDEN) and has_text.all()
    assert np.array_equal(has_image, small_pool.table["n_images"].to_numpy() > 0) and not has_image.all()
    for row in (0, 4, 6, 11):  # one image, none, two images; one to three turns
        states, image = states_of(vlm, small_pool[row])
        for mask, vectors in ((image, images), (~image, texts)):
            if mask.any():
                expected = torch.cat([s[mask].mean(dim=0) for s in states]).numpy()
                np.testing.assert_allclose(vectors[row], expected, rtol=2e-3, atol=2e-3)  # half precision
    assert np.abs(texts[:, :HIDDEN] - texts[:, HIDDEN:]).max() > 0.1, "the layers must differ"
    assert summary["dims"] == {"emb_image": 96, "emb_text": 96} and summary["nulls"]["emb_image"] == 8
    assert summary["samples"] == 40 and summary["padding_efficiency"] > 0.5
    assert read_metadata(out)["layers"] == [0, 1]


def test_the_default_is_the_last_layer(small_pool, tiny_vlm_dir, signal, tmp_path):
    embed_pool(small_pool, tiny_vlm_dir, tmp_path)
    both, _ = matrix(read_signal(signal[0]), "emb_text")
    last, _ = matrix(read_signal(tmp_path), "emb_text")
    np.testing.assert_allclose(last.astype(float), both[:, HIDDEN:].astype(float), atol=2e-3)


@torch.inference_mode()
def test_coincide_takes_tanh_then_mean_then_unit_length_by_layer_and_modality(
    vlm, small_pool, tiny_vlm_dir, tmp_path
):
    embed_pool(small_pool, tiny_vlm_dir, tmp_path, layers=[0, 1], variant="coincide")
    table = read_signal(tmp_path)
    images, has_image = matrix(table, "emb_image")
    texts, _ = matrix(table, "emb_text")
    states, image = states_of(vlm, small_pool[6])
    for mask, vectors in ((image, images), (~image, texts)):
        halves = [torch.nn.functional.normalize(s.tanh()[mask].mean(dim=0), dim=0) for s in states]
        expected = (torch.cat(halves) / 2).numpy()  # sqrt(2 * 2 layers) = 2
        np.testing.assert_allclose(vectors[6], expected, atol=1e-3)
    joined = np.concatenate([images, texts], axis=1)[has_image].astype(float)
    np.testing.assert_allclose(np.linalg.norm(joined, axis=1), 1, atol=2e-3)


@torch.inference_mode()
def test_attention_states_are_the_outputs_of_the_attention_block(vlm, small_pool):
    sample = small_pool[0]
    example, caught = vlm.renderer.encode(sample), []
    hook = vlm.model.model.language_model.layers[1].self_attn.register_forward_hook(
        lambda m, i, o: caught.append(o[0][0])
    )
    _, image = states_of(vlm, sample)
    hook.remove()
    [(of_image, of_text)] = pooled_states(vlm, [example], layers=[1], state="attention", variant="mean")
    np.testing.assert_allclose(of_image, caught[0][image].mean(dim=0).numpy(), atol=1e-5)
    np.testing.assert_allclose(of_text, caught[0][~image].mean(dim=0).numpy(), atol=1e-5)
    [(hidden, _)] = pooled_states(vlm, [example], layers=[1], state="hidden", variant="mean")
    assert np.abs(hidden - of_image).max() > 1e-2


@torch.inference_mode()
def test_outputs_are_captured_inside_the_block_only(vlm, small_pool):
    batch = vlm.batch([vlm.renderer.encode(small_pool[0])])
    with captured(vlm.model, [0], "attention") as outputs:
        vlm.hidden(batch)
    assert list(outputs) == [0]
    outputs.clear()
    vlm.hidden(batch)
    assert not outputs, "the hooks must be removed"


def test_padding_and_neighbours_do_not_change_a_vector(vlm, small_pool):
    examples = [vlm.renderer.encode(small_pool[row]) for row in (4, 6, 0, 11)]
    with torch.inference_mode():
        together = pooled_states(vlm, examples, layers=[0, 1], state="hidden", variant="coincide")
        apart = [
            pooled_states(vlm, [e], layers=[0, 1], state="hidden", variant="coincide")[0] for e in examples
        ]
    for (a_image, a_text), (b_image, b_text) in zip(together, apart, strict=True):
        assert (a_image is None) == (b_image is None)
        np.testing.assert_allclose(a_text, b_text, atol=1e-5)
        if a_image is not None:
            np.testing.assert_allclose(a_image, b_image, atol=1e-5)


def test_broken_images_and_overflow_give_null_and_are_counted(
    small_pool, tiny_vlm_dir, tmp_path, monkeypatch
):
    for part in ("data.json", "images", "pool"):
        source = small_pool.folder.parent / part
        (shutil.copytree if source.is_dir() else shutil.copy)(source, tmp_path / part)
    (tmp_path / "images" / "0_0.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    from curation.signals.vectors import embeddings

    whole = embeddings.pooled_states

    def overflows(vlm, examples, **options):
        return [
            (i, t * 1e9) if e.name == "s1" else (i, t)
            for e, (i, t) in zip(examples, whole(vlm, examples, **options), strict=True)
        ]

    monkeypatch.setattr(embeddings, "pooled_states", overflows)
    summary = embed_pool(Pool.open(tmp_path / "pool"), tiny_vlm_dir, tmp_path / "out")
    table = read_signal(tmp_path / "out")
    assert [table["emb_text"][row].is_valid for row in range(4)] == [False, False, True, True]
    assert summary["missing"] == {"broken_image": 1, "not_finite": 1}
    assert summary["nulls"] == {"emb_image": 10, "emb_text": 2}


def test_unknown_settings_are_refused(small_pool, tiny_vlm_dir, tmp_path):
    assert resolve_layers([0, -1, 3], 4) == [0, 3, 3]
    for bad in ([4], [-5], []):
        with pytest.raises(LayerError, match="the model has 4"):
            resolve_layers(bad, 4)
    with pytest.raises(LayerError, match="the model has 2"):
        embed_pool(small_pool, tiny_vlm_dir, tmp_path, layers=[19])
    for setting in ({"source": "bert"}, {"variant": "max"}, {"state": "mlp"}, {"text": "title"}):
        with pytest.raises(ValueError, match=f"must be one of .*, got '{next(iter(setting.values()))}'"):
            embed_pool(small_pool, tiny_vlm_dir, tmp_path, **setting)
    assert not (tmp_path / "signal.json").exists()


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


def test_sentence_vectors_are_those_of_the_requested_text(small_pool, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "sentence_transformers", type(sys)("sentence_transformers"))
    sys.modules["sentence_transformers"].SentenceTransformer = StubEncoder
    monkeypatch.setattr("curation.signals.vectors.embeddings.version", lambda package: "1.0")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "modules.json").write_text("[]")
    summary = embed_pool(small_pool, tmp_path / "model", tmp_path / "q", source="sentence", text="question")
    table = read_signal(tmp_path / "q", small_pool.hash)
    assert table.column_names == ["row", "emb_text"] and summary["dims"] == {"emb_text": 3}
    long = sum(
        len(" ".join(t.question.replace("<image>", " ") for t in s.turns).split()) > 4
        for s in small_pool.samples()
    )
    assert 0 < long < 40 and summary["cut"] == {"long_text": long}
    sample = small_pool[7]
    text = "\n".join(t.question.replace("<image>", " ").strip() for t in sample.turns)
    assert table["emb_text"][7].as_py() == [len(text), text.count(" "), 1.0]
    first = read_metadata(tmp_path / "q")["model_hash"]
    (tmp_path / "model" / "modules.json").write_text("[1]")
    embed_pool(small_pool, tmp_path / "model", tmp_path / "q", source="sentence", text="question")
    assert read_metadata(tmp_path / "q")["model_hash"] != first


def test_missing_sentence_transformers_gives_an_install_hint(small_pool, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(ImportError, match=r"winnow\[sentence\]"):
        embed_pool(small_pool, tmp_path, tmp_path / "out", source="sentence")
    with pytest.raises(ValueError, match="sentence encoders compute in float32, got dtype 'float16'"):
        embed_pool(small_pool, tmp_path, tmp_path / "out", source="sentence", dtype="float16")
