"""OnceSelect's confidence: a small gated classifier of clusters, and how sure it is of each sample.

Source: OnceSelect, first called OFA (arXiv 2605.26761), released code in words: z is the unit vector of [CLIP
image; mean over turns of CLIP text]; a gated classifier of the two halves learns the clusters of the 3 % of
each cluster that are nearest to its centroid; the epoch is taken whose macro accuracy on held-out ones is
nearest to 0.60 with all clusters covered.

Column once_confidence: the highest of the probabilities of the clusters, float32; null without a vector.
Readings of ours: the form of the gate (gated.py), its size and rates; a fifth of each cluster's nearest is
held out, at least one; a cluster is covered where the classifier names it for a held-out sample.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from curation import atomic
from curation.signals.core.table import Progress, identity_hash, read_metadata, read_signal

if TYPE_CHECKING:
    from curation.pool.read import Pool
    from curation.signals.scorers.features import Features
    from curation.signals.scorers.gated import Epoch, GatedClassifier, Schedule

HELD_OUT = 0.2
NET, RECORD = "net.safetensors", "net.json"


def score_once_select(
    pool: "Pool",
    out: Path,
    *,
    signals: Sequence[Path],
    clusters: Path,
    features: str = "emb_clip_turns",
    cluster: str = "once_select",
    share: float = 0.03,
    accuracy: float = 0.6,
    epochs: int = 50,
    hidden: int = 256,
    lr: float = 1e-3,
    batch_size: int = 256,
    seed: int = 0,
    shard_rows: int = 1 << 18,
    on_progress: Progress | None = None,
) -> dict[str, Any]:
    """Train the classifier on the CPU and write its confidence for the pool.

    signals: directories that hold the vectors `features`, whose first half is the image's. clusters: the
    signal with cluster_<cluster> and similarity_<cluster>. share: of each cluster, nearest to its centroid,
    at least two samples. accuracy: the macro accuracy that the epoch is chosen by. A finished net in `out` is
    kept. Returns counts, mean, the chosen epoch, and the samples trained on and held out. Raises ValueError
    for vectors of odd length, for fewer than one epoch, and where no cluster has two samples.
    """
    from curation.signals.scorers.features import read_features
    from curation.signals.scorers.gated import Confidence, Schedule, fresh
    from curation.signals.scorers.score import write_scores

    given, table = read_features(pool, signals, features), read_signal(Path(clusters), pool.hash)
    codes, near = (
        table[f"{kind}_{cluster}"].cast("float64").to_numpy() for kind in ("cluster", "similarity")
    )
    schedule = Schedule(accuracy, epochs, lr, batch_size, seed)
    identity = {
        "producer": "once_select",
        "pool_hash": pool.hash,
        "features": features,
        "inputs": [*given.identities, read_metadata(Path(clusters))["identity"]],
        "cluster": cluster,
        "share": share,
        "hidden": hidden,
        **asdict(schedule),
    }
    usable = np.flatnonzero(given.known & np.isfinite(codes) & np.isfinite(near))
    names, labels = np.unique(codes[usable], return_inverse=True)
    train, held = nearest_to_centroids(usable, labels, near[usable], share, seed)
    classes = np.zeros(len(pool), np.int64)
    classes[usable] = labels
    net = fresh(given.dims, hidden, len(names), seed)
    chosen = _learned(net, given, classes, (train, held), schedule, Path(out), identity_hash(identity))
    if on_progress:
        on_progress(len(pool), len(pool))
    counts = write_scores(pool, Confidence(net), given, "once_confidence", Path(out), identity, shard_rows)
    return {**counts, **asdict(chosen), "samples_trained": len(train), "samples_held_out": len(held)}


def nearest_to_centroids(
    rows: np.ndarray, labels: np.ndarray, near: np.ndarray, share: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """(rows to train on, rows held out): of each cluster the `share` with the highest similarity.

    rows int64[n], labels int[n] from 0, near float64[n]. At least two of a cluster, of which one is held out;
    the only row of a cluster is trained on. Equal similarities go to the earlier row. Raises ValueError where
    nothing is held out.
    """
    rng = np.random.default_rng(seed)
    train, held = [], []
    order = np.lexsort((rows, -near, labels))
    for members in np.split(order, np.flatnonzero(np.diff(labels[order])) + 1):
        size = min(len(members), max(2, math.ceil(round(share * len(members), 6))))
        shuffled = rows[members[:size]][rng.permutation(size)]
        out = max(1, int(HELD_OUT * size)) if size > 1 else 0
        held.append(shuffled[:out])
        train.append(shuffled[out:])
    if not sum(map(len, held)):
        raise ValueError("no cluster has two samples: take fewer clusters")
    return np.concatenate(train), np.concatenate(held)


def _learned(
    net: "GatedClassifier",
    features: "Features",
    classes: np.ndarray,
    rows: tuple[np.ndarray, np.ndarray],
    schedule: "Schedule",
    out: Path,
    key: str,
) -> "Epoch":
    """Train `net`, or load it where `out` holds one of this key."""
    import torch
    from safetensors.torch import load_file, save_file

    from curation.signals.scorers.gated import Epoch, train

    if (out / RECORD).exists():
        record = json.loads((out / RECORD).read_text())
        if record.pop("key") == key:
            net.load_state_dict(load_file(out / NET))
            return Epoch(**record)
    known, held = ((features.of(part), torch.from_numpy(classes[part])) for part in rows)
    chosen = train(net, known, held, schedule)
    out.mkdir(parents=True, exist_ok=True)
    (out / RECORD).unlink(missing_ok=True)
    with atomic.replacing(out / NET) as temporary:
        save_file(net.state_dict(), temporary)
    atomic.write_json(out / RECORD, {"key": key, **asdict(chosen)})
    return chosen
