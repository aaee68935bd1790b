"""CLIP score against direct calls of the model: choice of text, images, long texts, missing values."""

import shutil

import numpy as np
import pytest

from curation.pool.read import Pool
from curation.pool.sample import Sample, Turn
from curation.signals.core.table import read_metadata, read_signal
from curation.signals.core.vector_files import matrix
from curation.signals.core.vlm import ModelError
from curation.signals.vectors.clip import _pair, score_clip, sentences_of, text_of, whole_text
from curation.signals.vectors.dual_encoder import DualEncoder, EncoderStats
from training.images import decode

torch = pytest.importorskip("torch")


def dual_encoder_dir(folder, kind):
    """A random tiny CLIP or SigLIP with the mini world's tokenizer."""
    from tokenizers.processors import TemplateProcessing
    from transformers import (
        CLIPConfig,
        CLIPImageProcessor,
        CLIPModel,
        SiglipConfig,
        SiglipImageProcessor,
        SiglipModel,
    )

    from curation.mini.tokenizer import END, build_tokenizer

    tokenizer = build_tokenizer()
    end = tokenizer.eos_token_id
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"$A {END}", special_tokens=[(END, end)]
    )
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = {
        **shape,
        "vocab_size": len(tokenizer),
        "max_position_embeddings": 16,
        "pad_token_id": tokenizer.pad_token_id,
    }
    vision = {**shape, "image_size": 64, "patch_size": 16}
    torch.manual_seed(0)
    if kind == "clip":
        model = CLIPModel(
            CLIPConfig(text_config={**text, "eos_token_id": end}, vision_config=vision, projection_dim=24)
        )
        images = CLIPImageProcessor(size={"height": 64, "width": 64}, do_center_crop=False)
    else:
        model = SiglipModel(SiglipConfig(text_config={**text, "projection_size": 32}, vision_config=vision))
        images = SiglipImageProcessor(size={"height": 64, "width": 64})
    for part in (model, tokenizer, images):
        part.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def clip_dir(tmp_path_factory):
    return dual_encoder_dir(tmp_path_factory.mktemp("clip"), "clip")


@pytest.fixture(scope="module")
def signal(small_pool, clip_dir, tmp_path_factory):
    out = tmp_path_factory.mktemp("signal")
    return out, score_clip(small_pool, clip_dir, out, text="both", batch_size=5, shard_rows=16, device="cpu")


@torch.inference_mode()
def reference(path, sample, text, padding=True):
    """(image vectors [k, d], mean of unit sentence vectors), one model call for each image and sentence."""
    from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

    model, tokenizer, images = (
        c.from_pretrained(path) for c in (AutoModel, AutoTokenizer, AutoImageProcessor)
    )
    unit = torch.nn.functional.normalize
    image_vectors = [
        unit(
            model.get_image_features(images([decode(p)], return_tensors="pt")["pixel_values"]).pooler_output
        )[0]
        for p in sample.images
    ]
    sentence_vectors = []
    for sentence in sentences_of(text_of(sample, text))[:10]:
        ids = tokenizer(sentence, return_tensors="pt", padding=padding, truncation=True, max_length=16)
        sentence_vectors.append(
            unit(
                model.get_text_features(
                    input_ids=ids["input_ids"], attention_mask=ids["attention_mask"]
                ).pooler_output
            )[0]
        )
    text = torch.stack(sentence_vectors).mean(dim=0).numpy()
    return torch.stack(image_vectors).numpy() if image_vectors else None, text


def test_the_score_is_the_mean_of_the_sentences_cosines(small_pool, clip_dir, signal):
    out, summary = signal
    table = read_signal(out, small_pool.hash)
    vectors, has_image = matrix(table, "clip_image")
    texts, has_text = matrix(table, "clip_text")
    assert np.array_equal(has_image, small_pool.table["n_images"].to_numpy() > 0) and has_text.all()
    scores = table["clip_score"].to_pylist()
    for row in (0, 1, 6, 11):  # row 6 has two images
        images, text = reference(clip_dir, small_pool[row], "both")
        assert scores[row] == pytest.approx(100 * (images @ text).mean(), abs=1e-3)
        mean = images.mean(axis=0)
        np.testing.assert_allclose(vectors[row], mean / np.linalg.norm(mean), atol=1e-3)
        np.testing.assert_allclose(texts[row], text / np.linalg.norm(text), atol=1e-3)
    assert len(small_pool[6].images) == 2 and np.std([s for s in scores if s is not None]) > 0.1
    assert scores[4] is None and summary["missing"] == {"no_image": 8}
    assert summary["rows_missing"] == summary["rows_without_image"] == 8 and summary["rows_without_text"] == 0
    assert summary["mean_score"] == pytest.approx(np.mean([s for s in scores if s is not None]), abs=1e-3)


def test_siglip_texts_are_padded_to_the_full_context(small_pool, tmp_path):
    path = dual_encoder_dir(tmp_path / "siglip", "siglip")
    summary = score_clip(small_pool, path, tmp_path / "out", device="cpu")
    encoder, texts = (
        DualEncoder(path, device="cpu"),
        [s for sample in small_pool.samples() for s in sentences_of(text_of(sample, "answer"))[:10]],
    )
    real = sum(len(ids) for ids in encoder.tokenizer(texts)["input_ids"])
    assert (
        summary["padding_efficiency"] == pytest.approx(real / (len(texts) * 16), abs=1e-3)
        and real < 0.9 * len(texts) * 16
    )
    images, text = reference(path, small_pool[1], "answer", padding="max_length")
    _, short = reference(path, small_pool[1], "answer")
    score = read_signal(tmp_path / "out")["clip_score"][1].as_py()
    assert score == pytest.approx(100 * (images @ text).mean(), abs=1e-3)
    assert abs(score - 100 * (images @ short).mean()) > 1e-3, "padding must matter here"


def test_the_mean_of_cosines_is_no_cosine_to_the_mean():
    """Two sentences at right angles: 0.6 and 0.8 give 0.7, while their mean direction gives 0.99."""
    pair = _pair(np.array([[0.6, 0.8]], np.float32), np.array([0.5, 0.5], np.float32))
    assert pair.score == pytest.approx(70.0)
    assert pair.text @ np.array([0.6, 0.8]) == pytest.approx(0.99, abs=1e-2)
    two = _pair(np.array([[0.6, 0.8], [1.0, 0.0]], np.float32), np.array([0.5, 0.5], np.float32))
    assert two.score == pytest.approx((70.0 + 50.0) / 2)


@torch.inference_mode()
def test_a_whole_text_is_one_truncated_text(small_pool, clip_dir, tmp_path):
    from transformers import AutoModel, AutoTokenizer

    summary = score_clip(small_pool, clip_dir, tmp_path, text="both", unit="whole", device="cpu")
    table = read_signal(tmp_path, small_pool.hash)
    model, tokenizer = AutoModel.from_pretrained(clip_dir), AutoTokenizer.from_pretrained(clip_dir)
    long = 0
    for row in (0, 1, 6, 11):
        images, _ = reference(clip_dir, small_pool[row], "both")
        turns = small_pool[row].turns
        words = " ".join(f"{t.question} {t.answer}" for t in turns).replace("<image>", " ").split()
        tokens = tokenizer(" ".join(words), return_tensors="pt", truncation=True, max_length=16)
        long += len(tokenizer(" ".join(words))["input_ids"]) > 16
        one = model.get_text_features(tokens["input_ids"], tokens["attention_mask"]).pooler_output[0]
        cosines = images @ torch.nn.functional.normalize(one, dim=0).numpy()
        assert table["clip_score"][row].as_py() == pytest.approx(100 * cosines.mean(), abs=1e-3)
    assert long and summary["cut"]["long_sentence"] >= long and "more_sentences" not in summary["cut"]
    assert whole_text([" A dog.\n It barks ", "", " . "]) == ["A dog. It barks ."]
    assert whole_text([" . "]) == whole_text([]) == []


def test_texts_and_sentences():
    sample = Sample(
        0,
        "a",
        "s",
        (),
        (Turn("<image>\nWhat is it? Say.", "A dog. It is 3.5 m long!"), Turn("and\nthen ?", " . ")),
    )
    assert text_of(sample, "question") == ["What is it? Say.", "and\nthen ?"]
    assert sentences_of(text_of(sample, "answer")) == ["A dog.", "It is 3.5 m long!"]
    assert sentences_of(text_of(sample, "both")) == [
        "What is it?",
        "Say.",
        "A dog.",
        "It is 3.5 m long!",
        "and",
        "then ?",
    ]


def test_long_texts_are_truncated_and_counted(clip_dir, small_pool, tmp_path):
    encoder, stats = DualEncoder(clip_dir, device="cpu"), EncoderStats()
    long, short = " ".join(["dog"] * 40), " ".join(["dog"] * (encoder.context - 1))
    vectors = encoder.texts([short, long, "cat"], 2, stats)
    np.testing.assert_allclose(vectors[0], vectors[1], atol=1e-5)
    assert np.abs(vectors[0] - vectors[2]).max() > 1e-2
    assert stats.summary()["cut"] == {"long_sentence": 1} and stats.tokens == 34 and stats.padded == 34
    assert encoder.texts([], 2).shape == (0, encoder.dims)
    two = score_clip(small_pool, clip_dir, tmp_path / "two", text="both", max_sentences=2, device="cpu")
    some = sum(len(sentences_of(text_of(sample, "both"))) > 2 for sample in small_pool.samples())
    assert two["cut"]["more_sentences"] == some > 0


def test_broken_images_give_null_and_keep_the_text(small_pool, clip_dir, signal, tmp_path):
    for part in ("data.json", "images", "pool"):
        source = small_pool.folder.parent / part
        (shutil.copytree if source.is_dir() else shutil.copy)(source, tmp_path / part)
    (tmp_path / "images" / "6_1.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")  # the second of two
    (tmp_path / "images" / "1_0.png").unlink()
    summary = score_clip(Pool.open(tmp_path / "pool"), clip_dir, tmp_path / "out", text="both", device="cpu")
    table, sound = read_signal(tmp_path / "out"), read_signal(signal[0])
    for column in ("clip_score", "clip_image"):
        assert (
            table[column][6].as_py() is None
            and table[column][1].as_py() is None
            and table[column][0].is_valid
        )
    np.testing.assert_allclose(*(matrix(t, "clip_text")[0][6] for t in (table, sound)), atol=1e-3)
    assert table["clip_score"][2].as_py() == pytest.approx(sound["clip_score"][2].as_py(), abs=1e-3)
    assert (
        summary["missing"] == {"broken_image": 1, "missing_image": 1, "no_image": 8}
        and summary["rows_missing"] == 10
    )


def test_the_text_and_the_model_are_part_of_the_identity(small_pool, clip_dir, signal):
    out, _ = signal
    again = score_clip(small_pool, clip_dir, out, text="both", shard_rows=16, device="cpu")
    assert again["rows_kept"] == 40 and again["samples"] == 0
    meta = read_metadata(out)
    assert (
        meta["text"] == "both"
        and meta["vectors"] == {"clip_image": 24, "clip_text": 24}
        and len(meta["model_hash"]) == 64
    )


def test_a_model_that_is_not_a_dual_encoder_is_refused(small_pool, tiny_vlm_dir, clip_dir, tmp_path):
    with pytest.raises(ModelError, match="not a dual encoder"):
        score_clip(small_pool, tiny_vlm_dir, tmp_path)
    with pytest.raises(ValueError, match="text must be one of answer, question, both, got 'caption'"):
        score_clip(small_pool, clip_dir, tmp_path, text="caption")
    with pytest.raises(ValueError, match="unit must be one of sentences, whole, got 'words'"):
        score_clip(small_pool, clip_dir, tmp_path, unit="words")
    with pytest.raises(ValueError, match="dtype must be one of float32, bfloat16, float16, got 'half'"):
        score_clip(small_pool, clip_dir, tmp_path, dtype="half")
