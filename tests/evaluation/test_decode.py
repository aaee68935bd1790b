"""Greedy decoding of a scripted model: tokens, positions, and the work that is saved. Real models:
test_model."""

from types import SimpleNamespace

import pytest
import torch

from evaluation.decode import STRIDE, greedy

END, PAD = 9, 0


class Cache:
    """Remembers which rows of the batch are left."""

    def __init__(self, rows: int) -> None:
        self.rows = list(range(rows))

    def batch_select_indices(self, keep: torch.Tensor) -> None:
        self.rows = [self.rows[i] for i in keep.tolist()]


class Scripted:
    """Row r answers script[r], token by token; `calls` has (rows, positions, mask width) of every forward
    pass."""

    def __init__(self, script: list[list[int]]) -> None:
        self.script, self.calls, self.step = script, [], 0
        self.axis = 0  # of the rows among the positions

    def __call__(self, *, input_ids, attention_mask, position_ids, past_key_values=None, **options):
        cache = past_key_values or Cache(len(input_ids))
        assert options == {"use_cache": True, "logits_to_keep": 1}
        assert len(input_ids) == len(attention_mask) == position_ids.shape[self.axis] == len(cache.rows)
        if self.step:  # every row is fed the token that it generated
            previous = [self.script[row][self.step - 1 : self.step] or [PAD] for row in cache.rows]
            assert input_ids.tolist() == previous
        self.calls.append((list(cache.rows), position_ids.tolist(), attention_mask.shape[1]))
        logits = torch.zeros(len(cache.rows), 1, 10)
        for at, row in enumerate(cache.rows):
            logits[at, 0, (self.script[row][self.step : self.step + 1] or [5])[0]] = 1
        self.step += 1
        return SimpleNamespace(logits=logits, past_key_values=cache)


def decode(script, max_new_tokens, mask=None, stops=None):
    mask = torch.ones(len(script), 2, dtype=torch.int64) if mask is None else torch.tensor(mask)
    model = Scripted(script)
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    batch = {"input_ids": torch.ones_like(mask), "attention_mask": mask, "position_ids": positions}
    out, lengths = greedy(
        model, batch, max_new_tokens=max_new_tokens, ends=torch.tensor([END, 8]), pad=PAD, stops=stops
    )
    for row, length in zip(out.tolist(), lengths.tolist(), strict=True):
        assert PAD not in row[:length] and not any(row[length:])
    return out.tolist(), model.calls


def test_rows_are_padded_after_their_end_and_dropped_from_the_batch():
    out, calls = decode([[1, 2, 3, 4, END], [END], [1, 8], [7, 7, 7, 7, 7]], 5)
    assert out == [[1, 2, 3, 4, END], [END, 0, 0, 0, 0], [1, 8, 0, 0, 0], [7, 7, 7, 7, 7]]
    assert [rows for rows, _, _ in calls] == [[0, 1, 2, 3], [0, 2, 3], [0, 3], [0, 3], [0, 3]]


def test_the_batch_shrinks_at_three_quarters_and_not_before():
    out, calls = decode([[END], *[[1, 1, END]] * 4], 4)
    assert [rows for rows, _, _ in calls] == [[0, 1, 2, 3, 4]] * 3  # 80 % are unfinished until all end
    assert out == [[END, 0, 0, 0], *[[1, 1, END, 0]] * 4]


@pytest.mark.parametrize("length", [1, 2, 3])
def test_no_pass_more_than_tokens_are_needed(length):
    out, calls = decode([[1, 2, 3, 4]], length)
    assert out == [[1, 2, 3, 4][:length]] and len(calls) == length
    _, calls = decode([[1, END], [END]], 10)
    assert len(calls) == 2


def test_positions_count_from_the_first_real_token():
    _, calls = decode([[1, 2, 3], [1, 2, 3]], 3, mask=[[0, 0, 1, 1], [1, 1, 1, 1]])
    assert [positions for _, positions, _ in calls] == [
        [[0, 0, 0, 1], [0, 1, 2, 3]],
        [[2], [4]],
        [[3], [5]],
    ]
    assert [width for _, _, width in calls] == [4, 5, 6]


def test_no_new_tokens_are_an_empty_answer():
    assert decode([[1]], 0)[0] == [[]]


def test_a_row_that_stops_says_is_done_is_dropped():
    asked = []

    def stops(tokens):
        asked.append(tokens.shape[1])
        return (tokens == 3).any(1)

    out, calls = decode([[1] * 5 + [3] + [1] * 30, [1] * 20 + [END], [3] + [2] * 30], 30, stops=stops)
    assert asked == [STRIDE, 2 * STRIDE]  # the third row is done at the first search, and so is the first
    assert [sum(token != PAD for token in row) for row in out] == [STRIDE, 21, STRIDE]
    assert len(calls) == 21 and calls[STRIDE][0] == [1]


def test_multimodal_positions_go_on_from_the_last():
    model = Scripted([[1, 2, 3], [END]])
    batch = {
        "input_ids": torch.ones(2, 3, dtype=torch.int64),
        "attention_mask": torch.ones(2, 3, dtype=torch.int64),
        "position_ids": torch.tensor([[[0, 1, 4], [0, 1, 2]]] * 3),
    }
    model.axis = 1
    greedy(model, batch, max_new_tokens=3, ends=torch.tensor([END]), pad=PAD)
    assert [positions for _, positions, _ in model.calls[1:]] == [[[[5]]] * 3, [[[6]]] * 3]
