"""A gated classifier of vectors with two halves, and the choice of the epoch that is unsure enough."""

from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Schedule:
    """How the classifier is trained. accuracy: the macro accuracy that the epoch is chosen by."""

    accuracy: float
    epochs: int
    lr: float
    batch_size: int
    seed: int


@dataclass(frozen=True)
class Epoch:
    """The epoch that was chosen: its number from 1, its accuracy, and how many of the clusters it names."""

    epoch: int
    macro_accuracy: float
    covered: int
    clusters: int


class GatedClassifier(torch.nn.Module):
    """h = g · tanh(A image) + (1 - g) · tanh(B text), g = sigmoid(C [image; text]); logits linear in h."""

    def __init__(self, dims: int, hidden: int, classes: int) -> None:
        super().__init__()
        if dims % 2:
            raise ValueError(f"vectors of two equal halves have an even number of dimensions, got {dims}")
        self.half = dims // 2
        self.image, self.text = torch.nn.Linear(self.half, hidden), torch.nn.Linear(self.half, hidden)
        self.gate, self.head = torch.nn.Linear(dims, hidden), torch.nn.Linear(hidden, classes)

    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        """Logits [n, classes] of vectors [n, dims]."""
        gate = self.gate(vectors).sigmoid()
        image, text = self.image(vectors[:, : self.half]).tanh(), self.text(vectors[:, self.half :]).tanh()
        return self.head(gate * image + (1 - gate) * text)


class Confidence(torch.nn.Module):
    """The highest probability that a classifier gives to a class, [n, 1]."""

    def __init__(self, classifier: torch.nn.Module) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        """Confidence [n, 1] of vectors [n, dims]."""
        return self.classifier(vectors).softmax(dim=1).amax(dim=1, keepdim=True)


Labelled = tuple[torch.Tensor, torch.Tensor]
"""Vectors float32 [n, dims] and their classes int64 [n]."""


def fresh(dims: int, hidden: int, classes: int, seed: int) -> GatedClassifier:
    """A classifier whose weights are drawn with `seed`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return GatedClassifier(dims, hidden, classes)


def train(net: GatedClassifier, known: Labelled, held: Labelled, schedule: Schedule) -> Epoch:
    """Train on `known` and leave `net` as it was after the chosen epoch.

    Of the epochs whose predictions for `held` name every class, the one whose macro accuracy there is nearest
    to `schedule.accuracy`, the earliest of equals; of those that name most classes, where none names all.
    """
    optimizer = torch.optim.Adam(net.parameters(), lr=schedule.lr)
    generator = torch.Generator().manual_seed(schedule.seed)
    classes = net.head.out_features
    best: tuple[Any, Epoch, dict[str, torch.Tensor]] | None = None
    for number in range(1, schedule.epochs + 1):
        for batch in torch.randperm(len(known[0]), generator=generator).split(schedule.batch_size):
            loss = torch.nn.functional.cross_entropy(net(known[0][batch]), known[1][batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        epoch = Epoch(number, *_judged(net, held), classes)
        rank = (-epoch.covered, abs(epoch.macro_accuracy - schedule.accuracy))
        if best is None or rank < best[0]:
            best = rank, epoch, {name: value.clone() for name, value in net.state_dict().items()}
    if best is None:
        raise ValueError(f"epochs must be at least 1, got {schedule.epochs}")
    net.load_state_dict(best[2])
    return best[1]


def _judged(net: GatedClassifier, held: Labelled) -> tuple[float, int]:
    """(mean over classes of the share of a class's samples that are named right, classes named at all)."""
    with torch.inference_mode():
        named = net(held[0]).argmax(dim=1)
    classes = net.head.out_features
    sizes = torch.bincount(held[1], minlength=classes)
    right = torch.bincount(held[1][named == held[1]], minlength=classes)
    present = sizes > 0
    return float((right[present] / sizes[present]).mean()), len(named.unique())
