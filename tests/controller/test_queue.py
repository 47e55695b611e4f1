from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.queue import KeyedHeap, PoolQueue, Timers

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


@given(
    st.lists(st.tuples(st.sampled_from(["push", "push", "discard", "pop"]), st.integers(0, 9), KEYS), max_size=60),
    st.integers(1, 3),
)
@settings(max_examples=300)
def test_a_pools_queue_is_the_same_with_and_without_queues_of_its_own(
    steps: list[tuple[str, int, float]], groups: int
) -> None:
    """One item is kept without a queue; whatever is done, nobody can tell."""
    queue: PoolQueue[int] = PoolQueue()
    model: dict[str, dict[int, tuple[float, int]]] = {}
    for step, item, key in steps:
        group = f"{item % groups}"
        mine = model.get(group, {})
        if step == "push":
            assert queue.push(group, item, key, item) == (group not in model)
            model.setdefault(group, {})[item] = (key, item)
        elif step == "discard":
            assert queue.discard(group, item) == (list(mine) == [item])
            mine.pop(item, None)
        elif mine:
            first = min(mine, key=lambda known, mine=mine: mine[known])
            assert queue.pop(group) == (first, len(mine) == 1)
            del mine[first]
        model = {name: items for name, items in model.items() if items}
        assert len(queue) == sum(map(len, model.values()))
        assert list(queue) == [item for items in model.values() for item in sorted(items, key=lambda i: items[i])]


@given(
    st.lists(st.tuples(st.sampled_from(["push", "discard", "due"]), st.integers(0, 30), st.integers(0, 8)), max_size=80)
)
@settings(max_examples=300)
def test_timers_give_what_is_due_in_order_whether_or_not_it_came_in_order(steps: list[tuple[str, int, int]]) -> None:
    timers: Timers[int] = Timers()
    model: dict[int, tuple[float, int]] = {}
    now = 0.0
    for step, item, wait in steps:
        if step == "push":
            if item not in model:
                timers.push(item, now + wait % 5, item)
                model[item] = (now + wait % 5, item)
        elif step == "discard":
            assert timers.discard(item) == (model.pop(item, None) is not None)
        else:
            now += wait / 4
            due = sorted((known for known in model if model[known][0] <= now), key=lambda known: model[known])
            assert timers.due(now) == due
            for known in due:
                del model[known]
        first = min((at for at, _ in model.values()), default=None)
        assert timers.soonest <= (math.inf if first is None else first)
        assert timers.next_at() == first
        assert (len(timers), set(timers)) == (len(model), set(model))
        assert item not in timers or item in model


def test_timers_that_are_called_off_do_not_pile_up() -> None:
    timers: Timers[int] = Timers()
    for moment in range(10_000):
        timers.push(moment, moment + 60.0, moment)
        timers.discard(moment)
        timers.push(-moment - 1, 1e6 - moment, -moment - 1)
        timers.discard(-moment - 1)
    assert len(timers._line) + len(timers._heap) <= 18
