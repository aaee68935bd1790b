"""Regressors from a set of samples to the score of a model trained on it, and their leave-one-out R2.

`ridge` and `mlp` use the mean of the samples' features, `set_attention` the samples themselves. Sets are
padded arrays with a mask of valid entries. With some 30 noisy labels (InstructionGPT-4, arXiv 2308.12067: 30
between 29.51 and 31.69, each of a single run) ridge is a sensible default; the leave-one-subset-out R2 tells
whether a regressor has learned anything.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

Predict = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""(sets float32 [m, s, f], valid-entry mask bool [m, s]) -> float64 [m]."""
HIDDEN, HEADS, RATE, DECAY = 16, 4, 0.01, 0.01
STEPS = {"mlp": 300, "set_attention": 100}
"""AdamW steps, each on all subsets.

With the 20 of the released set attention, predictions stay near the mean label.
"""


@dataclass(frozen=True)
class Fitted:
    """A fitted regressor; ridge also has the `coefficients` float64 [f] and `intercept` on mean features."""

    predict: Predict
    coefficients: np.ndarray | None = None
    intercept: float | None = None


def pad(sets: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Sets [n_i, f] as one array float32 [m, max n, f], and the valid-entry mask bool [m, max n]."""
    sizes = np.array([len(one) for one in sets])
    valid = np.arange(sizes.max()) < sizes[:, None]
    padded = np.zeros((*valid.shape, sets[0].shape[1]), np.float32)
    padded[valid] = np.concatenate(sets)
    return padded, valid


def fit_ridge(
    sets: np.ndarray, valid: np.ndarray, labels: np.ndarray, seed: int, penalty: float = 1.0
) -> Fitted:
    """Least squares with `penalty` · |w|^2 on mean features, standardised over subsets; labels centred."""
    pooled = pool_mean(sets, valid)
    centre, spread = pooled.mean(axis=0), pooled.std(axis=0)
    scaled = (pooled - centre) / np.where(spread > 0, spread, 1.0)
    weights = np.linalg.solve(
        scaled.T @ scaled + penalty * np.eye(scaled.shape[1]), scaled.T @ (labels - labels.mean())
    )
    coefficients = weights / np.where(spread > 0, spread, 1.0)
    intercept = float(labels.mean() - centre @ coefficients)
    return Fitted(
        lambda sets, valid: pool_mean(sets, valid) @ coefficients + intercept, coefficients, intercept
    )


def fit_mlp(sets: np.ndarray, valid: np.ndarray, labels: np.ndarray, seed: int) -> Fitted:
    """One hidden layer on the mean features, standardised over the subsets."""
    pooled = pool_mean(sets, valid)
    centre, spread = pooled.mean(axis=0), pooled.std(axis=0)
    spread = np.where(spread > 0, spread, 1.0)

    def scaled(sets: np.ndarray, valid: np.ndarray) -> tuple[torch.Tensor]:
        return (torch.from_numpy((pool_mean(sets, valid) - centre) / spread).float(),)

    return _train(
        lambda f: nn.Sequential(nn.Linear(f, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, 1)),
        scaled,
        sets,
        valid,
        labels,
        seed,
        STEPS["mlp"],
    )


def fit_set_attention(sets: np.ndarray, valid: np.ndarray, labels: np.ndarray, seed: int) -> Fitted:
    """Two layers of attention among the samples of a subset, the mean over these, and a linear output."""
    return _train(
        SetAttention,
        lambda *batch: tuple(map(torch.from_numpy, batch)),
        sets,
        valid,
        labels,
        seed,
        STEPS["set_attention"],
    )


class SetAttention(nn.Module):
    """A sample attends to the samples of its own subset only (in the released code, across subsets)."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.enter = nn.Linear(features, HIDDEN)
        self.layers = nn.ModuleList(nn.MultiheadAttention(HIDDEN, HEADS, batch_first=True) for _ in range(2))
        self.mix, self.leave = nn.Linear(HIDDEN, HIDDEN), nn.Linear(HIDDEN, 1)

    def forward(self, sets: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
        """[m, 1] from sets [m, s, f] and the valid-entry mask bool [m, s]."""
        states = self.enter(sets)
        for layer in self.layers:
            states = states + layer(states, states, states, key_padding_mask=~valid, need_weights=False)[0]
        weight = valid.unsqueeze(-1).float()
        return self.leave((self.mix(states) * weight).sum(dim=1) / weight.sum(dim=1))


REGRESSORS: dict[str, Callable[..., Fitted]] = {
    "ridge": fit_ridge,
    "mlp": fit_mlp,
    "set_attention": fit_set_attention,
}


def pool_mean(sets: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Mean features float64 [m, f] of the valid entries."""
    weight = valid[:, :, None].astype(np.float64)
    return (sets * weight).sum(axis=1) / weight.sum(axis=1)


def leave_one_out(
    fit: Callable[..., Fitted], sets: np.ndarray, valid: np.ndarray, labels: np.ndarray, seed: int
) -> tuple[float, np.ndarray]:
    """(R2, predictions float64 [m]) where each subset is predicted by a fit without it.

    R2 = 1 - sum (y_i - prediction_i)^2 / sum (y_i - mean of the other labels)^2. Predicting the mean of the
    others gives 0; at or below it nothing was learned. -inf where all labels are equal.
    """
    m = len(labels)
    others = ~np.eye(m, dtype=bool)
    predictions = np.array(
        [fit(sets[o], valid[o], labels[o], seed).predict(sets[~o], valid[~o])[0] for o in others]
    )
    means = np.array([labels[o].mean() for o in others])
    residual, baseline = ((labels - guess) ** 2 for guess in (predictions, means))
    r2 = 1 - residual.sum() / baseline.sum() if baseline.sum() > 0 else float("-inf")
    return r2, predictions


def _train(
    make: Callable[[int], nn.Module],
    prepare: Callable[[np.ndarray, np.ndarray], tuple[torch.Tensor, ...]],
    sets: np.ndarray,
    valid: np.ndarray,
    labels: np.ndarray,
    seed: int,
    steps: int,
) -> Fitted:
    """Train the network `make(features)` on standardised labels; `prepare` makes its inputs."""
    centre, spread = labels.mean(), labels.std() or 1.0
    targets = torch.from_numpy((labels - centre) / spread).float()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = make(sets.shape[2])
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=DECAY)
    batch = prepare(sets, valid)
    for _ in range(steps):
        optimizer.zero_grad()
        (model(*batch).squeeze(1) - targets).square().mean().backward()
        optimizer.step()

    @torch.no_grad()
    def predict(sets: np.ndarray, valid: np.ndarray) -> np.ndarray:
        return model(*prepare(sets, valid)).squeeze(1).double().numpy() * spread + centre

    return Fitted(predict)
