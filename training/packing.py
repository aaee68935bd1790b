"""Packs: the examples of one optimizer step, shared out over ranks and micro-steps so that no rank waits.

    plan = pack(lengths, costs, world=64, micro_steps=1, cap=16384)
    plan.packs[micro][rank]     # positions in `lengths`; an empty list stands for a filler

The examples of the step are given and stay what they are: packing decides only which rank sees them, and
when. Under ZeRO-3 ranks wait for each other in every micro-step, so a step takes the sum over its micro-steps
of the dearest pack; without it, the time of the dearest rank, which is never more.
"""

import heapq
from bisect import bisect_left, insort
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

GOOD = 1.01
"""A plan within this factor of the bound is taken; a worse one in one micro-step is tried again."""
RESTARTS = 32
REFINEMENTS = 400
"""Moves and swaps at most for one step; 512 examples on 64 ranks take about 150."""
EVEN = 1e-3
"""Packs whose loads differ by less than this share are equal enough: refining them further gains nothing."""


@dataclass(frozen=True)
class PackRule:
    """How to pack: `lengths` int [n] in tokens, `costs` float [n] in any unit, `cap` tokens at most."""

    lengths: np.ndarray
    costs: np.ndarray
    cap: int

    def __post_init__(self) -> None:
        if len(self.lengths) != len(self.costs):
            raise ValueError(f"{len(self.lengths)} lengths, but {len(self.costs)} costs")
        if self.cap < 1:
            raise ValueError(f"pack_tokens must be positive, got {self.cap}")

    def pack(self, step: np.ndarray, world: int, micro_steps: int) -> "Plan":
        """The packs of the examples `step` (indices int [k]), as positions in `step`; see `pack`."""
        costs = self.costs[step]
        return pack(self.lengths[step], costs, world, micro_steps, self.cap, filler=float(costs.min()))


@dataclass(frozen=True)
class Plan:
    """The packs of one step: `packs[micro][rank]` are positions in the step, `loads` float [micro, rank]."""

    packs: list[list[list[int]]]
    loads: np.ndarray

    @property
    def time(self) -> float:
        """Cost of the step when ranks wait for each other in each micro-step, as under ZeRO-3."""
        return float(self.loads.max(axis=1).sum())

    @property
    def balance(self) -> float:
        """Useful cost / (time x ranks); 1 is best."""
        return float(self.loads.sum() / (self.time * self.loads.shape[1])) if self.time else 1.0


def pack(
    lengths: np.ndarray, costs: np.ndarray, world: int, micro_steps: int, cap: int, filler: float = 0.0
) -> Plan:
    """Packs of at most `cap` tokens for `world` ranks and `micro_steps`, with costs as equal as they can be.

    `lengths` int [n], `costs` float [n]. An example longer than `cap` is alone in its pack. `filler`: cost of
    a pack without examples. The plan depends on the arguments alone, so that every rank finds the same.
    ValueError when the examples need more packs than there are.
    """
    lengths, costs = np.asarray(lengths, np.int64), np.asarray(costs, np.float64)
    tight = _best_fit(lengths, cap)
    least = max(-(-len(tight) // world), 1)
    if least > micro_steps:
        raise ValueError(
            f"{len(lengths)} examples of {lengths.sum()} tokens need {len(tight)} packs of {cap} tokens, but "
            f"{world} ranks x {micro_steps} micro-steps are {world * micro_steps}: raise pack_tokens"
        )
    plans = []
    for used in range(least, micro_steps + 1):  # fewer and fuller packs balance better, the rest are fillers
        for targets in _targets(costs, world, used):
            bins = _greedy(lengths, costs, np.repeat(targets, world), cap) or tight
            plans.append(_refined(lengths, costs, bins, world, used, cap))
    if least == 1 and min(plan.time for plan in plans) > GOOD * bound(costs, world):
        plans += _restarts(lengths, costs, world, cap)
    best = min(plans, key=lambda plan: plan.time + filler * (micro_steps - len(plan.packs)))
    idle = micro_steps - len(best.packs)
    fillers: list[list[list[int]]] = [[[] for _ in range(world)] for _ in range(idle)]
    return Plan(best.packs + fillers, np.concatenate([best.loads, np.zeros((idle, world))]))


def micro_steps_needed(steps: Iterable[np.ndarray], lengths: np.ndarray, world: int, cap: int) -> int:
    """The number of micro-steps in which each optimizer step of a training fits.

    `steps`: the examples of each step, as indices of `lengths` int [n].
    """
    return max((max(-(-len(_best_fit(lengths[step], cap)) // world), 1) for step in steps), default=1)


def bound(costs: np.ndarray, world: int) -> float:
    """What a step of examples with these costs takes at least on `world` ranks, whatever the packing.

    The largest of the mean load, the dearest example, and what crowding costs: of the k * world + 1 dearest
    examples some rank gets k + 1, which cost no less than the k + 1 cheapest of them. Then raised as far as
    the examples do not fit into `world` bins of that size for certain (bound L2 of Martello and Toth,
    Discrete Applied Mathematics 28, 1990), to a ten-thousandth.
    """
    ordered = np.sort(np.asarray(costs, np.float64))[::-1]
    if not len(ordered):
        return 0.0
    crowded = [ordered[k * world - k : k * world + 1].sum() for k in range((len(ordered) - 1) // world + 1)]
    low = float(max([ordered.sum() / world, *crowded]))
    high = 2 * low  # the dearest first, each onto the emptiest rank, needs less than twice the bound
    while high - low > 1e-4 * low:
        middle = (low + high) / 2
        low, high = (middle, high) if _bins_at_least(ordered, middle) > world else (low, middle)
    return low


def _bins_at_least(ordered: np.ndarray, size: float) -> int:
    """Bins of `size` that examples with costs `ordered` (falling) take at least: the bound L2.

    For each a <= size / 2: an example above size - a shares its bin with none of a or more, no two above size
    / 2 share one, and what those of [a, size / 2] do not find beside the latter needs bins of its own.
    """
    sums = np.concatenate([[0.0], np.cumsum(ordered)])
    large = int(np.searchsorted(-ordered, -size / 2, side="left"))  # above size / 2
    small = np.unique(ordered[large:])
    alone = np.searchsorted(-ordered, -(size - small), side="left")  # above size - a
    last = np.searchsorted(-ordered, -small, side="right")  # a and above
    room = (large - alone) * size - (sums[large] - sums[alone])
    rest = (sums[last] - sums[large] - room) / size
    return int(large + np.maximum(np.ceil(rest - 1e-9), 0).max(initial=0))


def _targets(costs: np.ndarray, world: int, used: int) -> list[np.ndarray]:
    """Loads to aim at in each micro-step: all equal, or the first as dear as the dearest example."""
    mean = costs.sum() / world
    equal = np.full(used, mean / used)
    largest = costs.max(initial=0.0)
    if used == 1 or largest <= equal[0]:
        return [equal]
    first = min(largest, mean)
    return [equal, np.array([first] + [(mean - first) / (used - 1)] * (used - 1))]


def _greedy(lengths: np.ndarray, costs: np.ndarray, targets: np.ndarray, cap: int) -> list[list[int]] | None:
    """The dearest example first, each into the pack furthest below its target; None when one does not fit."""
    bins: list[list[int]] = [[] for _ in targets]
    room = [cap] * len(bins)
    heap = [(-target, number) for number, target in enumerate(targets.tolist())]
    heapq.heapify(heap)
    tokens, prices = lengths.tolist(), costs.tolist()
    for item in np.argsort(-costs, kind="stable").tolist():
        full = []
        while heap and bins[heap[0][1]] and tokens[item] > room[heap[0][1]]:
            full.append(heapq.heappop(heap))
        if not heap:
            return None
        level, number = heap[0]
        heapq.heapreplace(heap, (level + prices[item], number))
        bins[number].append(item)
        room[number] -= tokens[item]
        for entry in full:
            heapq.heappush(heap, entry)
    return bins


def _restarts(lengths: np.ndarray, costs: np.ndarray, world: int, cap: int) -> list[Plan]:
    """Plans of one micro-step that start from other orders: costs changed at random, the same on every rank.

    With two or three examples a rank, the dearest first is often not the best order.
    """
    rng, plans = np.random.default_rng(0), []
    for _ in range(RESTARTS):
        noisy = costs * np.exp(0.15 * rng.standard_normal(len(costs)))
        if bins := _greedy(lengths, noisy, np.full(world, noisy.sum() / world), cap):
            plans.append(_refined(lengths, costs, bins, world, 1, cap))
    return plans


def _best_fit(lengths: np.ndarray, cap: int) -> list[list[int]]:
    """Few packs: the longest example first, each into the fullest pack that still holds it."""
    bins: list[list[int]] = []
    rooms: list[tuple[int, int]] = []  # (tokens left, pack), sorted
    tokens = lengths.tolist()
    for item in np.argsort(-lengths, kind="stable").tolist():
        at = bisect_left(rooms, (tokens[item], -1))
        if at == len(rooms):
            bins.append([])
            room, number = cap, len(bins) - 1
        else:
            room, number = rooms.pop(at)
        bins[number].append(item)
        insort(rooms, (room - tokens[item], number))
    return bins


def _refined(
    lengths: np.ndarray, costs: np.ndarray, bins: Sequence[list[int]], world: int, used: int, cap: int
) -> Plan:
    """Packs sorted into micro-steps by their cost, the dearest of each relieved while that is possible."""
    count = world * used
    owner = np.empty(len(costs), np.int64)
    for number, members in enumerate(bins):
        owner[members] = number
    for _ in range(2):  # sorting puts like loads together, which lets the second pass find more
        order = np.argsort(-np.bincount(owner, costs, count), kind="stable")
        owner = np.argsort(order)[owner]
        _relieve(lengths, costs, owner, world, used, cap)
    loads = np.bincount(owner, costs, count).reshape(used, world)
    packs: list[list[list[int]]] = [[[] for _ in range(world)] for _ in range(used)]
    for item, number in enumerate(owner.tolist()):
        packs[number // world][number % world].append(item)
    return Plan(packs, loads)


def _relieve(
    lengths: np.ndarray, costs: np.ndarray, owner: np.ndarray, world: int, used: int, cap: int
) -> None:
    """Change `owner` int [n] (example -> pack) in place: take cost from the dearest pack of a micro-step.

    An example moves to another pack, or two change places, if that makes the micro-step cheaper and no other
    one dearer. Pack p belongs to micro-step p // world.
    """
    count = world * used
    # A move is a swap with an example of no tokens and no cost, of which each pack has one.
    tokens, prices = np.append(lengths, np.zeros(count, int)), np.append(costs, np.zeros(count))
    place = np.append(owner, np.arange(count))
    load, held = np.bincount(place, prices, count), np.bincount(place, tokens, count).astype(np.int64)
    open_ones = list(range(used))
    for _ in range(REFINEMENTS):
        if not open_ones:
            break
        micro = open_ones[0]
        step = slice(micro * world, (micro + 1) * world)
        dearest = micro * world + int(load[step].argmax())
        own = np.flatnonzero(place[: len(owner)] == dearest)
        if load[dearest] <= load[step].mean() * (1 + EVEN) or not len(own):
            open_ones.pop(0)
            continue
        less = prices[own][:, None] - prices[None, :]
        swap = tokens[own][:, None] - tokens[None, :]
        after = load[place][None, :] + less
        same = (place // world == micro)[None, :]
        others = load.reshape(used, world).max(axis=1)[place // world][None, :]
        limit = np.where(same, load[dearest], others)
        fits = (held[place][None, :] + swap <= cap) & (held[dearest] - swap <= cap)
        better = fits & (less > load[dearest] * EVEN / 10) & (after < limit) & (place != dearest)[None, :]
        if not better.any():
            open_ones.pop(0)
            continue
        worst = np.where(same, np.maximum(after, load[dearest] - less), load[dearest] - less)
        row, other = np.unravel_index(np.where(better, worst, np.inf).argmin(), better.shape)
        target, item = int(place[other]), int(own[row])
        load[[dearest, target]] += (-less[row, other], less[row, other])
        held[[dearest, target]] += (-swap[row, other], swap[row, other])
        place[item] = target
        if other < len(owner):
            place[other] = dearest
    owner[:] = place[: len(owner)]
