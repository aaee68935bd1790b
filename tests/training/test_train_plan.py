import numpy as np
import pytest

from training.loader import Examples
from training.packing import PackRule
from training.plan import PlannedBatches, even_chunks, global_batches
from training.render import IGNORE


@pytest.mark.parametrize("lengths", [None, np.arange(103) % 17])
def test_an_epoch_sees_every_example_once_in_an_order_of_its_own(lengths):
    epochs = [global_batches(103, 8, seed=5, epoch=e, lengths=lengths) for e in (0, 1)]
    for batches in epochs:
        assert sorted(np.concatenate(batches).tolist()) == list(range(103))
        assert sorted(map(len, batches)) == [7] + [8] * 12
    assert not np.array_equal(np.concatenate(epochs[0]), np.concatenate(epochs[1]))
    again = global_batches(103, 8, seed=5, epoch=0, lengths=lengths)
    assert all(np.array_equal(a, b) for a, b in zip(epochs[0], again, strict=True))


def test_grouping_by_length_pads_less():
    lengths = np.random.default_rng(0).integers(20, 400, 1000)

    def padded(batches):
        return sum(len(b) * lengths[b].max() for b in batches)

    grouped = padded(global_batches(1000, 8, 0, 0, lengths))
    assert grouped < 1.05 * lengths.sum() < 0.8 * padded(global_batches(1000, 8, 0, 0))


@pytest.mark.parametrize(("world", "accumulation"), [(1, 1), (2, 1), (2, 3), (4, 2)])
def test_ranks_share_each_global_batch_whatever_their_number(world, accumulation):
    plan = dict(count=21, batch_size=8, seed=3)
    expected = [sorted(b.tolist()) for b in global_batches(21, 8, 3, 0)]
    ranks = [
        list(PlannedBatches(**plan, rank=r, world=world, accumulation=accumulation)) for r in range(world)
    ]
    assert {len(batches) for batches in ranks} == {3 * accumulation}
    for step, wanted in enumerate(expected):
        part = slice(step * accumulation, (step + 1) * accumulation)
        seen = [i for batches in ranks for micro in batches[part] for i in micro]
        assert all(micro for batches in ranks for micro in batches[part])
        assert sorted(i for i in seen if i >= 0) == wanted
        assert all(-1 - i in wanted for i in seen if i < 0)


def test_fillers_carry_no_loss(renderer, samples):
    data = Examples([renderer.encode(s) for s in samples[:3]], lazy=False, max_length=None)
    row, filler = data[-3]
    assert row == -3 and (filler.labels == IGNORE).all()
    assert np.array_equal(filler.input_ids, data[2][1].input_ids) and data[2][0] == 2


def test_batches_by_modality_follow_llavas_rule():
    has_image = np.random.default_rng(0).random(203) < 0.7
    batches = global_batches(203, 8, seed=5, epoch=0, has_image=has_image)
    assert sorted(np.concatenate(batches).tolist()) == list(range(203))
    kinds = has_image.sum(), (~has_image).sum()
    pure = sum(-(-int(n) // 8) - 1 for n in kinds)  # the last batch of each kind is held back
    assert all(len(set(has_image[b])) == 1 and len(b) == 8 for b in batches[:pure])
    assert {bool(has_image[b[0]]) for b in batches[:pure]} == {True, False}
    rest = np.concatenate(batches[pure:])
    assert rest.tolist() == sorted(rest.tolist()) and 2 <= len(rest) <= 16
    first = [bool(has_image[b[0]]) for b in batches[:pure]]
    assert first != sorted(first, reverse=True)  # kinds are mixed over the epoch
    other = global_batches(203, 8, seed=5, epoch=1, has_image=has_image)
    assert not np.array_equal(np.concatenate(batches), np.concatenate(other))


def test_batches_of_one_modality_are_the_random_ones():
    one = global_batches(30, 8, 1, 0, has_image=np.ones(30, dtype=bool))
    random = global_batches(30, 8, 1, 0)
    assert all(np.array_equal(a, b) for a, b in zip(one, random, strict=True))
    with pytest.raises(ValueError, match="not both"):
        global_batches(3, 2, 0, 0, np.ones(3), np.ones(3, dtype=bool))


def test_drop_last_leaves_the_smaller_batch_out():
    plan = PlannedBatches(21, 8, 0, drop_last=True)
    assert plan.steps == 2 and [len(s) for s in plan.steps_of(0)] == [8, 8]
    assert PlannedBatches(16, 8, 0, drop_last=True).steps == 2
    mixed = PlannedBatches(21, 8, 0, has_image=np.arange(21) % 3 > 0, drop_last=True)
    assert [len(s) for s in mixed.steps_of(0)] == [8, 8]
    with pytest.raises(ValueError, match="drop_last leaves nothing"):
        PlannedBatches(5, 8, 0, drop_last=True)


def test_even_chunks_deal_longest_first_into_the_shortest_chunk():
    lengths = np.array([9, 1, 7, 3, 5, 2])
    chunks = even_chunks(np.arange(6), lengths, 2)
    # 9 | 7; 5 to the second (12); 3 to the first (12), 2 to the first (equal sums), 1 to the second
    assert [c.tolist() for c in chunks] == [[0, 3, 5], [2, 4, 1]]
    uneven = even_chunks(np.arange(5), lengths, 2)
    assert [c.tolist() for c in uneven] == [[0, 4, 1], [2, 3]]


@pytest.mark.parametrize("world", [1, 2, 4])
def test_packed_ranks_share_each_global_batch(world):
    lengths = np.random.default_rng(0).integers(20, 400, 85)
    rule = PackRule(lengths, lengths.astype(float), 900)
    plan = dict(count=85, batch_size=16, seed=3, packs=rule, world=world)
    accumulation = PlannedBatches(**plan).micro_steps(epochs=2)
    ranks = [PlannedBatches(**plan, rank=r, accumulation=accumulation) for r in range(world)]
    for epoch in (0, 1):
        for sampler in ranks:
            sampler.epoch = epoch
        seen = [list(sampler) for sampler in ranks]
        assert {len(batches) for batches in seen} == {6 * accumulation}
        for step, wanted in enumerate(global_batches(85, 16, 3, epoch)):
            part = slice(step * accumulation, (step + 1) * accumulation)
            packs = [micro for batches in seen for micro in batches[part]]
            assert all(lengths[micro].sum() <= 900 for micro in packs if micro[0] >= 0)
            assert sorted(i for micro in packs for i in micro if i >= 0) == sorted(wanted.tolist())
            cheapest = wanted[lengths[wanted].argmin()]
            assert all(lengths[-1 - micro[0]] == lengths[cheapest] for micro in packs if micro[0] < 0)


def test_micro_steps_are_known_for_packs_only():
    with pytest.raises(ValueError, match="give packs"):
        PlannedBatches(21, 8, 0).micro_steps(1)
