from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.queue import KeyedHeap, PoolQueue

KEYS = st.floats(-100, 100)


@given(st.lists(st.tuples(st.sampled_from(["push", "discard", "pop"]), st.integers(0, 12), KEYS)))
@settings(max_examples=300)
def test_behaves_as_a_sorted_list_whatever_is_done_to_it(steps: list[tuple[str, int, float]]) -> None:
    heap: KeyedHeap[int] = KeyedHeap()
    model: dict[int, tuple[float, int]] = {}
    for step, item, key in steps:
        if step == "push":
            heap.push(item, key, tie=item)
            model[item] = (key, item)
        elif step == "discard":
            assert heap.discard(item) == (model.pop(item, None) is not None)
        elif model:
            first = min(model, key=lambda known: model[known])
            assert heap.first() == (first, model[first][0])
            assert heap.pop() == first
            del model[first]
        assert len(heap) == len(model)
        assert list(heap) == sorted(model, key=lambda known: model[known])


def test_rekeying_moves_an_item_either_way() -> None:
    heap: KeyedHeap[str] = KeyedHeap()
    for key, item in enumerate("abc"):
        heap.push(item, key)
    heap.push("c", -1.0)
    heap.push("a", 9.0)
    assert [heap.pop(), heap.pop(), heap.pop()] == ["c", "b", "a"]


def test_ties_go_to_the_earlier_submission_even_after_rekeying() -> None:
    heap: KeyedHeap[str] = KeyedHeap()
    heap.push("late", 1.0, tie=2)
    heap.push("early", 5.0, tie=1)
    heap.push("early", 1.0, tie=1)
    assert heap.pop() == "early"


def test_dead_entries_do_not_pile_up() -> None:
    heap: KeyedHeap[int] = KeyedHeap()
    for key in range(10_000):
        heap.push(1, float(key))
        heap.push(2, float(-key))
    assert len(heap._heap) <= 2 * len(heap) + 16


def test_an_empty_queue_has_no_first() -> None:
    heap: KeyedHeap[int] = KeyedHeap()
    assert heap.first() is None
    with pytest.raises(IndexError):
        heap.pop()


def test_a_pools_queue_tells_when_a_group_arrives_and_leaves() -> None:
    queue: PoolQueue[str] = PoolQueue()
    assert queue.push("a", "a1", 1.0, 1) is True
    assert queue.push("a", "a2", 0.0, 2) is False
    assert queue.push("b", "b1", 2.0, 3) is True
    assert len(queue) == 3
    assert queue.push("a", "a1", -1.0, 1) is False, "re-keying is no arrival"
    assert len(queue) == 3
    assert queue.pop("a") == ("a1", False)
    assert queue.discard("a", "a2") is True
    assert queue.discard("a", "a2") is False
    assert queue.pop("b") == ("b1", True)
    assert len(queue) == 0
    assert list(queue) == []
