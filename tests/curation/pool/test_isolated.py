"""Workers that die, hang or fail: every item has its result or is lost, and no other item is."""

import os
import signal
import time

import pytest

from curation.pool.isolated import Lost, WorkersFail, run


def odd(item):
    """Does to the process what the item says."""
    if item == "die":
        os.kill(os.getpid(), signal.SIGSEGV)
    if item == "memory":
        os.kill(os.getpid(), signal.SIGKILL)
    if item == "leave":
        os._exit(7)
    if item == "hang":
        time.sleep(600)
    if item == "raise":
        raise KeyError("this is the function's own")
    return item * 2


class Unstartable:
    """Ends the process that unpickles it."""

    def __call__(self, item):
        return item

    def __reduce__(self):
        return os._exit, (3,)


def results(items, workers, **options):
    found = [None] * len(items)
    for start, part in run(odd, items, workers, **options):
        assert found[start : start + len(part)] == [None] * len(part), "yielded twice"
        found[start : start + len(part)] = part
    return found


def test_an_item_that_ends_its_worker_is_lost_alone():
    items = list(range(100))
    items[3], items[4], items[50], items[99] = "die", "leave", "memory", "die"
    found = results(items, 2, chunk=7)
    why = {at: result.why for at, result in enumerate(found) if isinstance(result, Lost)}
    assert why == {
        3: "was ended by SIGSEGV",
        4: "ended with status 7",
        50: "was ended by SIGKILL, for lack of memory perhaps",
        99: "was ended by SIGSEGV",
    }
    assert all(found[at] == 2 * at for at in set(range(100)) - why.keys())


def test_an_item_that_hangs_is_given_up():
    assert results([1, "hang", 3], 1, seconds=0.5) == [2, Lost("took too long"), 6]


def test_an_error_of_the_function_is_raised_here():
    with pytest.raises(KeyError, match="own"):
        results([1, "raise"], 1)


def test_workers_that_never_start_are_no_fault_of_the_items():
    with pytest.raises(WorkersFail, match="ended with status 3 before it did anything, 3 times"):
        list(run(Unstartable(), [1, 2, 3], 1))


def test_no_items_start_no_worker():
    assert list(run(odd, [], 4)) == []


def test_an_abandoned_run_leaves_no_process():
    import multiprocessing

    generator = run(odd, list(range(50)), 2, chunk=1)
    next(generator)
    assert len(multiprocessing.active_children()) == 2
    generator.close()
    assert not multiprocessing.active_children()


def test_ctrl_c_while_a_worker_starts_is_no_other_error(monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("multiprocessing.popen_spawn_posix.Popen._launch", stop)
    with pytest.raises(KeyboardInterrupt):
        list(run(odd, [1, 2, 3], 1))
