"""Score nets trained with a model or alone: the joint gradient, what they learn, and resuming."""

import json
import math

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from curation.pool.ingest import build_pool
from curation.pool.read import Pool
from curation.signals.core.table import read_signal, write_signal
from curation.signals.core.vector_files import vector_array
from curation.signals.core.vlm import Vlm
from curation.signals.scorers.coido import score_coido
from curation.signals.scorers.features import FeatureError, Features, read_features
from curation.signals.scorers.once_select import nearest_to_centroids, score_once_select
from curation.signals.scorers.self_filter import score_self_filter
from curation.signals.scorers.spec import JointSpec

torch = pytest.importorskip("torch")
LORA = {"r": 4, "alpha": 8}


def write_columns(pool, folder, **columns):
    """A signal of these columns; a matrix is a column of vectors, with NaN rows null."""

    def compute(rows, advance):
        part = slice(rows.start, rows.stop)
        table = {"row": pa.array(rows, pa.int32())}
        for name, values in columns.items():
            known = np.isfinite(values[part]).reshape(len(rows), -1).all(axis=1)
            table[name] = (
                vector_array(np.where(known[:, None], values[part], 0), known)
                if values.ndim == 2
                else pa.array(values[part], mask=~known)
            )
        return pa.table(table)

    write_signal(folder, {"pool_hash": pool.hash, "which": folder.name}, len(pool), compute, shard_rows=100)
    return folder


@pytest.fixture(scope="module")
def noisy_pool(tmp_path_factory):
    """48 samples with an image each: every second answers "dog", the others a random word."""
    folder, rng = tmp_path_factory.mktemp("noisy"), np.random.default_rng(0)
    words = ["a", "cat", "red", "blue", "circle", "square", "yes", "no", "3", "is"]
    records = []
    for row in range(48):
        Image.fromarray(rng.integers(0, 255, (32, 32, 3), dtype=np.uint8)).save(folder / f"{row}.png")
        answer = "dog" if row % 2 == 0 else " ".join(rng.choice(words, 3))
        turns = [{"from": "human", "value": "<image>what is it ?"}, {"from": "gpt", "value": answer}]
        records.append({"id": f"s{row}", "source": "s", "image": f"{row}.png", "conversations": turns})
    (folder / "data.json").write_text(json.dumps(records))
    build_pool(folder / "data.json", folder, folder / "pool")
    return Pool.open(folder / "pool")


@pytest.fixture(scope="module")
def noisy_features(noisy_pool, tmp_path_factory):
    """Vectors that tell the two kinds apart, beside noise; one sample has none."""
    rng = np.random.default_rng(1)
    vectors = rng.normal(0, 0.3, (len(noisy_pool), 4))
    vectors[0::2, 0] += 1
    vectors[1::2, 1] += 1
    vectors[5] = np.nan
    folder = tmp_path_factory.mktemp("features") / "vectors"
    return write_columns(noisy_pool, folder, emb_clip_pair=vectors)


def plain_losses(vlm, examples):
    """[B] summed token losses, from the logits of one whole batch."""
    batch = vlm.batch(examples)
    labels = batch.pop("labels")
    logits = vlm.model(**batch).logits[:, :-1]
    losses = torch.nn.functional.cross_entropy(logits.transpose(1, 2), labels[:, 1:], reduction="none")
    return losses.sum(dim=1)  # 0 at tokens without label


@pytest.mark.parametrize("micro", [None, 2])
@pytest.mark.parametrize("kind", ["self_filter", "coido"])
def test_gradients_are_those_of_the_published_loss(tiny_vlm_dir, small_pool, kind, micro):
    from curation.signals.scorers.joint import Step, trainable
    from curation.signals.scorers.objectives import BatchWeights, ImportanceAndDiversity

    spec = JointSpec(lora=LORA, micro_batch=micro, precision="fp32")
    vlm = Vlm(tiny_vlm_dir, device="cpu")
    weights = trainable(vlm, spec)
    assert 0 < sum(w.numel() for w in weights) < sum(w.numel() for w in vlm.model.parameters()) / 2
    rows, rng = np.array([0, 4, 6, 11, 39]), np.random.default_rng(0)  # one image, none, two; some turns
    features = Features([rng.normal(0, 1, (40, 3))], np.ones(40, bool), [])
    torch.manual_seed(3)
    net, codes = torch.nn.Linear(3, 1, bias=False), np.arange(40) % 3
    objective = BatchWeights() if kind == "self_filter" else ImportanceAndDiversity(codes, "variance")
    learned = [*weights, *net.parameters(), *objective.parameters()]
    examples = [vlm.renderer.encode(small_pool[row]) for row in rows.tolist()]
    counts = torch.tensor([float((example.labels[1:] != -100).sum()) for example in examples])

    found = Step(vlm, net, objective, features, spec).backward(examples, rows)
    ours = [None if weight.grad is None else weight.grad.clone() for weight in learned]
    for weight in learned:
        weight.grad = None

    sums = plain_losses(vlm, examples)
    shares = net(features.of(rows))[:, 0].softmax(dim=0)
    if kind == "self_filter":
        loss = (5 * shares * sums).sum() / counts.sum()
    else:
        first, second = objective.logs.exp()
        means = torch.stack([shares[torch.from_numpy(codes[rows] == code)].mean() for code in (0, 1, 2)])
        spread = means.var(correction=0)
        loss = (shares * sums / counts).sum() / first**2 + spread / (2 * second**2)
        loss = loss + first.log() + second.log()
    loss.backward()
    assert found == pytest.approx(float(loss.detach()), rel=1e-5)
    for weight, gradient in zip(learned, ours, strict=True):
        expected = torch.zeros_like(weight) if weight.grad is None else weight.grad
        torch.testing.assert_close(
            torch.zeros_like(weight) if gradient is None else gradient, expected, atol=1e-6, rtol=1e-4
        )
    assert net.weight.grad.abs().max() > 1e-4


def test_the_spread_of_cluster_means_by_hand():
    from curation.signals.scorers.objectives import ImportanceAndDiversity

    scores = torch.log(torch.tensor([0.1, 0.3, 0.6]))  # softmax gives these weights again
    codes, counts = np.array([7, 7, 2]), torch.tensor([2, 4, 1])
    variance = 0.2**2  # cluster means 0.2 and 0.6
    for kind, spread in (("variance", variance), ("deviation", 0.2)):
        coefficients, others = ImportanceAndDiversity(codes, kind)(scores, counts, np.arange(3))
        assert coefficients.tolist() == pytest.approx([0.05, 0.075, 0.6])
        assert float(others.detach()) == pytest.approx(spread / 2, rel=1e-4)
    objective = ImportanceAndDiversity(codes, "variance")
    with torch.no_grad():
        objective.logs.copy_(torch.tensor([math.log(2.0), math.log(0.5)]))
    coefficients, others = objective(scores, counts, np.arange(3))
    assert coefficients.tolist() == pytest.approx([0.05 / 4, 0.075 / 4, 0.6 / 4])
    assert float(others.detach()) == pytest.approx(variance / (2 * 0.25))  # the logs cancel


JOINT = {
    "epochs": 8,
    "batch_size": 8,
    "lr": 3e-3,
    "net_lr": 0.05,
    "lora": LORA,
    "save_steps": 3,
    "precision": "fp32",
}


def test_what_the_model_cannot_learn_is_difficult(noisy_pool, noisy_features, tiny_vlm_dir, tmp_path):
    summary = score_self_filter(
        noisy_pool, tiny_vlm_dir, tmp_path / "s", signals=[noisy_features], joint=JOINT, device="cpu"
    )
    assert summary["steps"] == 48 and summary["samples_trained"] == 47 and summary["rows_missing"] == 1
    assert summary["last_loss"] < summary["first_loss"] and not summary["missing"]
    score = read_signal(tmp_path / "s", noisy_pool.hash)["filter_score"].to_numpy(zero_copy_only=False)
    assert np.isnan(score[5])
    clean, noise = score[0::2], np.delete(score[1::2], 2)
    # rank statistic: the share of pairs in which the noisy sample is the more difficult
    assert (noise[:, None] < clean[None]).mean() > 0.9


def test_coido_trains_on_a_part_and_scores_all(noisy_pool, noisy_features, tiny_vlm_dir, tmp_path):
    clusters = write_columns(noisy_pool, tmp_path / "c", cluster_coido=np.arange(48.0) % 4)
    number = write_columns(noisy_pool, tmp_path / "n", clip_score=np.linspace(3, 5, 48))
    summary = score_coido(
        noisy_pool,
        tiny_vlm_dir,
        tmp_path / "s",
        signals=[noisy_features, number],
        clusters=clusters,
        share=0.5,
        joint=JOINT | {"epochs": 6},
        device="cpu",
    )
    assert summary["samples_trained"] == 24 and summary["steps"] == 18
    score = read_signal(tmp_path / "s", noisy_pool.hash)["coido_score"]
    assert score.null_count == 1 and len(set(score.to_pylist())) > 40
    with pytest.raises(ValueError, match="spread must be"):
        score_coido(
            noisy_pool, tiny_vlm_dir, tmp_path / "x", signals=[number], clusters=clusters, spread="range"
        )
    nowhere = write_columns(noisy_pool, tmp_path / "nowhere", cluster_coido=np.full(48, np.nan))
    given = {"signals": [noisy_features], "features": "emb_clip_pair", "clusters": nowhere, "device": "cpu"}
    with pytest.raises(FeatureError, match="both all features and a cluster_coido"):
        score_coido(noisy_pool, tiny_vlm_dir, tmp_path / "y", **given)


class Killed(Exception):
    """Stands for a kill between two steps."""


def test_a_killed_training_goes_on_where_its_last_state_is(
    noisy_pool, noisy_features, tiny_vlm_dir, tmp_path, monkeypatch
):
    import curation.signals.scorers.joint as joint

    def run(name, on_progress=None):
        score_self_filter(
            noisy_pool,
            tiny_vlm_dir,
            tmp_path / name,
            signals=[noisy_features],
            joint=JOINT | {"epochs": 2, "lora": LORA | {"dropout": 0.2}},
            device="cpu",
            on_progress=on_progress,
        )

    def kill(done, total):
        if done >= 10 * 8:
            raise Killed

    run("whole")
    with pytest.raises(Killed):
        run("killed", kill)
    assert not (tmp_path / "killed" / "net.json").exists()
    taken = []
    backward = joint.Step.backward
    monkeypatch.setattr(joint.Step, "backward", lambda *given: taken.append(1) or backward(*given))
    run("killed")
    assert len(taken) == 3  # of 12 steps, 9 were in the state
    for file in ("net.safetensors", "net.json", "part-00000.parquet"):
        assert (tmp_path / "killed" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()
    assert not (tmp_path / "killed" / "state.pt").exists()
    (tmp_path / "killed" / "signal.json").unlink()
    run("killed")  # killed after the training: the net is there
    assert len(taken) == 3


def test_numbers_are_scaled_and_unknown_columns_named(noisy_pool, noisy_features, tmp_path):
    number = write_columns(noisy_pool, tmp_path / "n", a=np.arange(48.0), b=np.full(48, 2.0))
    found = read_features(noisy_pool, [noisy_features, number], ["a", "emb_clip_pair", "b"])
    assert found.dims == 6 and found.known.sum() == 47
    np.testing.assert_allclose(found.of(np.array([0, 47]))[:, 0], [-1, 1])
    assert not found.of(slice(0, 3))[:, 5].any()
    with pytest.raises(FeatureError, match="'c' is in none"):
        read_features(noisy_pool, [number], "c")


def test_the_nearest_of_each_cluster_are_split():
    labels, near = np.repeat([0, 1, 2], [100, 30, 1]), np.concatenate([np.arange(100), np.arange(30), [0]])
    train, held = nearest_to_centroids(np.arange(131), labels, near.astype(float), 0.1, 0)
    assert sorted([*train, *held]) == [*range(90, 100), *range(127, 130), 130]
    assert np.bincount(labels[held], minlength=3).tolist() == [2, 1, 0]
    with pytest.raises(ValueError, match="no cluster has two samples"):
        nearest_to_centroids(np.arange(3), np.arange(3), np.zeros(3), 0.5, 0)


def test_the_classifier_is_least_sure_between_clusters(noisy_pool, tmp_path):
    rng = np.random.default_rng(2)
    codes = np.repeat([0, 1], 24)
    vectors = rng.normal(0, 0.05, (48, 6))
    vectors[np.arange(48), codes] += 1
    between = [3, 30]
    vectors[between, :2] = 0.5
    vectors[7] = np.nan
    similarity = np.where(np.isin(np.arange(48), between), 0.1, 0.9)
    folder = write_columns(noisy_pool, tmp_path / "v", emb_clip_turns=vectors)
    clusters = write_columns(
        noisy_pool, tmp_path / "c", cluster_once_select=codes * 1.0, similarity_once_select=similarity
    )
    given = {"signals": [folder], "clusters": clusters, "share": 0.5, "epochs": 30, "accuracy": 1.0}
    summary = score_once_select(noisy_pool, tmp_path / "s", **given, batch_size=8)
    assert summary["macro_accuracy"] == 1.0 and summary["covered"] == summary["clusters"] == 2
    assert (summary["samples_trained"], summary["samples_held_out"]) == (20, 4)
    confidence = read_signal(tmp_path / "s", noisy_pool.hash)["once_confidence"].to_numpy(
        zero_copy_only=False
    )
    assert np.isnan(confidence[7])
    others = np.delete(confidence, [*between, 7])
    assert confidence[between].max() < others.min()


def test_the_epoch_nearest_to_the_wanted_accuracy_is_taken():
    from curation.signals.scorers.gated import Schedule, fresh, train

    rng = np.random.default_rng(0)
    labels = torch.from_numpy(np.repeat(np.arange(4), 20))
    vectors = torch.from_numpy(rng.normal(0, 1, (80, 8))).float()
    vectors[torch.arange(80), labels] += 1.5
    kept = {}
    for wanted in (0.6, 1.0):
        net = fresh(8, 8, 4, seed=0)
        chosen = train(net, (vectors, labels), (vectors, labels), Schedule(wanted, 60, 0.01, 16, 0))
        right = (net(vectors).argmax(dim=1) == labels).float()
        macro = float(right.reshape(4, 20).mean(dim=1).mean())
        assert macro == pytest.approx(chosen.macro_accuracy)  # the weights of that epoch are back
        kept[wanted] = chosen
    assert kept[0.6].epoch < kept[1.0].epoch and kept[0.6].covered == 4
    assert abs(kept[0.6].macro_accuracy - 0.6) < 0.1 < kept[1.0].macro_accuracy - 0.6
