from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.prefix import PrefixIndex, block_hashes

TEXTS = st.text(st.sampled_from("abc"), max_size=60)
CHAINS = st.lists(st.integers(0, 5), max_size=6, unique=True)
STEPS = st.tuples(st.sampled_from(["add", "add", "match", "forget"]), CHAINS, st.sampled_from("abc"))


@given(TEXTS, TEXTS, TEXTS)
def test_two_texts_share_as_many_hashes_as_whole_blocks(common: str, one: str, other: str) -> None:
    first, second = common + one, common + other
    shared = 0
    blocks = min(len(first), len(second)) // 4
    while shared < blocks and first[: 4 * (shared + 1)] == second[: 4 * (shared + 1)]:
        shared += 1
    a, b = block_hashes(first, block_chars=4), block_hashes(second, block_chars=4)
    assert a[:shared] == b[:shared]
    assert not set(a[shared:]) & set(b[shared:])
    assert len(a) == len(first) // 4


def test_hashes_are_the_same_in_another_process() -> None:
    text = "a system prompt that many requests share; " * 20
    code = f"from controller.prefix import block_hashes; print(block_hashes({text!r}))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == repr(block_hashes(text))


def test_a_salt_keeps_tenants_apart_and_long_prompts_are_cut() -> None:
    text = "x" * 1000
    assert not set(block_hashes(text, salt="a")) & set(block_hashes(text, salt="b"))
    assert len(block_hashes("y" * 10_000, block_chars=10, max_blocks=7)) == 7
    assert block_hashes("short") == ()
    assert block_hashes("\ud800" * 256), "a lone surrogate can be hashed too"


def test_the_longest_unbroken_match_counts() -> None:
    index = PrefixIndex(100)
    index.add((1, 2, 3), "a")
    index.add((1, 2), "b")
    index.add((9, 3), "c")
    assert index.matches((1, 2, 3, 4)) == {"a": 3, "b": 2}
    assert index.matches((3,)) == {"a": 1, "c": 1}
    assert index.matches((7, 1)) == {}
    assert index.matches(()) == {}


@given(
    st.lists(st.tuples(st.integers(0, 5), st.integers(1, 10), st.sampled_from("ab")), max_size=40), st.integers(1, 8)
)
def test_the_index_stays_within_its_bound_and_keeps_the_beginnings(
    adds: list[tuple[int, int, str]], capacity: int
) -> None:
    index = PrefixIndex(capacity)
    for start, length, worker in adds:
        chain = tuple(start * 100 + depth for depth in range(length))
        index.add(chain, worker)
        assert len(index) <= capacity
        assert index.matches(chain).get(worker, 0) == min(length, capacity)


@given(st.lists(STEPS, max_size=40))
def test_matches_are_those_of_a_set_of_workers_for_each_block(steps: list[tuple[str, list[int], str]]) -> None:
    index, model = PrefixIndex(100), dict[int, set[str]]()
    for step, chain, worker in steps:
        if step == "add":
            index.add(chain, worker)
            for block in chain:
                model.setdefault(block, set()).add(worker)
        elif step == "forget":
            index.forget(worker)
            model = {block: rest for block, workers in model.items() if (rest := workers - {worker})}
        expected: dict[str, int] = {}
        for depth in range(1, len(chain) + 1):
            seen = set.intersection(*[model.get(block, set()) for block in chain[:depth]])
            expected.update(dict.fromkeys(seen, depth))
        assert index.matches(chain) == expected
        assert len(index) == len(model)


def test_a_worker_is_forgotten() -> None:
    index = PrefixIndex(10)
    index.add((1, 2), "a")
    index.add((1,), "b")
    index.forget("a")
    assert index.matches((1, 2)) == {"b": 1}
    assert len(index) == 1


@given(st.lists(st.tuples(st.integers(0, 7), st.integers(1, 6), st.sampled_from("ab")), max_size=60), st.integers(1, 8))
def test_each_worker_remembers_what_a_cache_of_its_size_would(adds: list[tuple[int, int, str]], capacity: int) -> None:
    index = PrefixIndex(1000, capacity)
    caches: dict[str, list[int]] = {"a": [], "b": []}
    for start, length, worker in adds:
        chain = [start * 100 + depth for depth in range(length)]
        index.add(chain, worker)
        cache = caches[worker]
        for block in reversed(chain):  # as an engine frees them: the end of a chain first
            if block in cache:
                cache.remove(block)
            cache.append(block)
        del cache[: max(0, len(cache) - capacity)]
        for name, held in caches.items():
            for begin in range(8):
                chain = [begin * 100 + depth for depth in range(6)]
                depth = next((n for n, block in enumerate(chain) if block not in held), len(chain))
                assert index.matches(chain).get(name, 0) == depth
    assert len(index) == len(set(caches["a"]) | set(caches["b"]))
    index.forget("a")
    assert len(index) == len(set(caches["b"]))


def test_both_bounds_hold_together() -> None:
    index = PrefixIndex(5, 4)
    for start in range(20):
        index.add((start * 10, start * 10 + 1, start * 10 + 2), "ab"[start % 2])
        assert len(index) <= 5
    index.forget("a")
    index.forget("b")
    assert len(index) == 0


def test_a_capacity_must_be_positive() -> None:
    with pytest.raises(ValueError, match="capacity"):
        PrefixIndex(0)
    with pytest.raises(ValueError, match="capacity"):
        PrefixIndex(10, 0)
