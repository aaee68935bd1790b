"""Which image a question gets, and how it changes a conversation. The passes are in test_harness."""

import pytest

from evaluation.shuffled import images, ring, with_images


@pytest.mark.parametrize("n", [2, 3, 7, 300])
def test_ring_goes_through_all_questions_and_none_follows_itself(n):
    following = ring("mini_ocr", n)
    assert all(following[i] != i for i in range(n)) and sorted(following) == list(range(n))
    seen, at = [], 0
    for _ in range(n):
        at = following[at]
        seen.append(at)
    assert sorted(seen) == list(range(n)), "one ring, so that who skips questions still comes to another one"


def test_ring_is_a_function_of_benchmark_and_number_of_questions():
    assert ring("mini_ocr", 8) == [1, 5, 6, 7, 0, 3, 4, 2], (
        "a change breaks the comparison with earlier results"
    )
    assert ring("mini_ocr", 300) == ring("mini_ocr", 300) != ring("mini_data", 300)
    assert ring("x", 1) == [0] and ring("x", 0) == []


def _ask(*parts):
    return [
        {
            "role": "user",
            "content": [
                {"type": "image", "url": p} if len(p) == 1 else {"type": "text", "text": p} for p in parts
            ],
        }
    ]


def test_places_are_filled_in_turn_and_the_conversation_is_left_alone():
    own = _ask("A", "first", "B", "second", "C")
    assert images(own) == ["A", "B", "C"]
    assert with_images(own, ["x", "y"]) == _ask("x", "first", "y", "second", "x")
    assert with_images(own, "wxyz") == _ask("w", "first", "x", "second", "y")
    assert own == _ask("A", "first", "B", "second", "C")
