from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.caches.map import CacheMap
from controller.prefix import BLOCK_CHARS, block_hashes
from tests.controller.caches.engine import Cleared, Engine, Removed, Stored

TOKENS = st.lists(st.integers(0, 1), max_size=9)
WHO = st.sampled_from("ab")
EXTRAS = st.sampled_from([(None, None), (None, None), ("lora", None), (None, "salt"), ("lora", "salt")])
STEPS = st.one_of(
    st.tuples(st.just("start"), WHO, TOKENS, EXTRAS, st.integers(1, 3)),
    st.tuples(st.just("start"), WHO, TOKENS, EXTRAS, st.integers(1, 3)),
    st.tuples(st.just("finish"), WHO),
    st.tuples(st.just("finish"), WHO),
    st.tuples(st.just("clear"), WHO),
    st.tuples(st.just("restart"), WHO),
)


def feed(cached: CacheMap, worker: str, events: Sequence[Any]) -> None:
    for event in events:
        if isinstance(event, Stored):
            cached.stored(
                worker,
                event.hashes,
                event.parent,
                event.tokens,
                event.block_size,
                extra_keys=event.extra_keys,
                session=event.session,
            )
        elif isinstance(event, Removed):
            cached.removed(worker, event.hashes)
        else:
            assert isinstance(event, Cleared)
            cached.cleared(worker)


@given(st.lists(STEPS, max_size=40), st.lists(st.tuples(TOKENS, EXTRAS), min_size=1, max_size=6), st.integers(2, 3))
def test_the_map_is_the_engines_truth(steps: list[Any], asked: list[Any], size: int) -> None:
    cached = CacheMap()
    engines = {"a": Engine(size=2, total=7), "b": Engine(size=size, total=9, seed=100)}
    for worker in engines:
        cached.forget(worker, whole=True)
    for step, who, *rest in steps:
        engine = engines[who]
        if step == "start":
            tokens, (adapter, salt), chunk = rest
            engine.start(tokens, adapter, salt, chunk=chunk)
            asked.append((tokens, (adapter, salt)))
        elif step == "restart":
            engine.restart()
            cached.forget(who, whole=True)
        else:
            getattr(engine, step)()
        feed(cached, who, engine.take())
        for tokens, (adapter, salt) in asked[-8:]:
            truth = {name: engine.lookup(tokens, adapter, salt) for name, engine in engines.items()}
            assert cached.matches(tokens, adapter=adapter, salt=salt) == {n: t for n, t in truth.items() if t}
        for name, engine in engines.items():
            assert cached.blocks(name) == len(set(engine.content.values()))
            assert cached.whole(name)
    for name in engines:
        cached.leave(name)
    assert not any(cached.matches(tokens) for tokens, _ in asked)
    cached.removed("a", [])
    assert len(cached) == 0, "nothing is left behind"


@given(st.lists(STEPS, max_size=40), st.integers(1, 5), st.integers(0, 20))
def test_what_was_not_heard_makes_the_map_say_less_and_never_more(
    steps: list[Any], capacity: int, deaf_until: int
) -> None:
    """A map that joined late, and is too small."""
    cached, engines = CacheMap(capacity), {"a": Engine(), "b": Engine(seed=7)}
    for index, (step, who, *rest) in enumerate(steps):
        engine = engines[who]
        if step == "start":
            tokens, (adapter, salt), chunk = rest
            engine.start(tokens, adapter, salt, chunk=chunk)
        elif step == "restart":
            engine.restart()
            cached.forget(who, whole=True)
        else:
            getattr(engine, step)()
        events = engine.take()
        if index >= deaf_until:
            feed(cached, who, events)
        if step == "start":
            for name, found in cached.matches(tokens, adapter=adapter, salt=salt).items():
                assert 0 < found <= engines[name].lookup(tokens, adapter, salt)
        for name in engines:
            assert cached.blocks(name) <= capacity


def test_a_block_is_there_while_one_copy_is() -> None:
    cached = CacheMap()
    cached.forget("a", whole=True)
    for _ in range(3):
        cached.stored("a", [11], None, [1, 2], 2)
    for _ in range(2):
        cached.removed("a", [11])
        assert cached.matches([1, 2, 3]) == {"a": 2}
    cached.removed("a", [11])
    assert cached.matches([1, 2, 3]) == {}
    cached.removed("a", [11, 99])
    assert (cached.blocks("a"), len(cached)) == (0, 0)


def test_a_large_cache_is_forgotten_at_once_and_dropped_little_by_little() -> None:
    cached = CacheMap()
    for first in range(0, 3000, 100):
        cached.stored("a", range(first, first + 100), None, [first] * 200, 2)
    cached.forget("a")
    assert cached.matches([0] * 201) == {}
    assert cached.blocks("a") == 0
    before = len(cached)
    for _ in range(10):
        cached.removed("a", [1])
        assert 0 <= before - len(cached) <= 600
        before = len(cached)
    assert before == 0


def test_the_last_token_is_computed_in_any_case() -> None:
    cached = CacheMap()
    cached.stored("a", [11, 12], None, [1, 2, 3, 4], 2)
    assert cached.matches([1, 2, 3, 4]) == {"a": 2}
    assert cached.matches([1, 2, 3, 4, 5]) == {"a": 4}
    assert cached.matches([]) == {}


def test_hashes_mean_something_within_one_engine_only() -> None:
    cached = CacheMap()
    cached.stored("a", [1], None, [5, 6], 2)
    cached.stored("b", [1], None, [7, 8], 2)
    cached.stored("b", [2], None, [5, 6], 2)
    cached.removed("b", [1])
    assert cached.matches([5, 6, 0]) == {"a": 2, "b": 2}
    assert cached.matches([7, 8, 0]) == {}


def test_a_map_that_began_late_says_so_until_the_cache_is_cleared() -> None:
    cached = CacheMap()
    cached.forget("a")
    cached.stored("a", [2], 1, [3, 4], 2)  # behind a block that nobody told of
    assert not cached.whole("a")
    assert (cached.blocks("a"), cached.matches([1, 2, 3, 4, 5])) == (1, {})
    cached.removed("a", [2])
    assert cached.blocks("a") == 0
    cached.cleared("a")
    assert cached.whole("a")
    assert not cached.whole("unheard of")


def test_one_cache_group_is_followed() -> None:
    cached = CacheMap()
    cached.stored("a", [1], None, [5, 6], 2, group=1)
    cached.stored("a", [2], None, [7, 8], 2, group=2)
    cached.removed("a", [1], group=2)
    assert cached.matches([5, 6, 0]) == {"a": 2}
    assert cached.matches([7, 8, 0]) == {}


def test_an_adapter_counts_where_a_server_sends_no_extra_keys() -> None:
    cached = CacheMap()
    cached.stored("a", [1], None, [5, 6], 2, adapter="lora")
    assert cached.matches([5, 6, 0], adapter="lora") == {"a": 2}
    assert cached.matches([5, 6, 0]) == {}


@pytest.mark.parametrize(
    ("hashes", "tokens", "size", "extra"), [([1, 2], [1, 2], 2, None), ([1], [], 0, None), ([1], [1, 2], 2, [None] * 2)]
)
def test_lengths_that_do_not_agree_are_refused(hashes: list[int], tokens: list[int], size: int, extra: Any) -> None:
    with pytest.raises(ValueError, match=r"tokens do not fill|extra keys"):
        CacheMap().stored("a", hashes, None, tokens, size, extra_keys=extra)


def test_the_bounds_are_checked() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        CacheMap(0)
    with pytest.raises(ValueError, match="at least 1"):
        CacheMap(anchors=0)


# Text. In what follows a word of 4 characters is a token, so a block of text is 64 tokens, and 4 blocks of 16.

WORDS = [f"{word:03d} " for word in range(1000)]
SIZE = 16


def prompt(*words: int) -> tuple[str, list[int]]:
    return "".join(WORDS[word] for word in words), list(words)


def words(seed: int, count: int) -> list[int]:
    return random.Random(seed).choices(range(1000), k=count)


class Served:
    """A map before two engines, and requests that go to them as a gateway sends them."""

    def __init__(self) -> None:
        self.cached = CacheMap()
        self.engines = {"a": Engine(SIZE, 400), "b": Engine(SIZE, 400, seed=9)}
        for worker in self.engines:
            self.cached.forget(worker, whole=True)
        self.requests = 0

    def send(self, worker: str, tokens: list[int], *, counted: bool = True, answer: Sequence[int] = ()) -> None:
        text, _ = prompt(*tokens)
        self.requests += 1
        session = f"request-{self.requests}"
        self.cached.sent(worker, block_hashes(text), len(text), session=session)
        engine = self.engines[worker]
        assert engine.start([*tokens, *answer], session=session, chunk=3)
        feed(self.cached, worker, engine.take())
        if counted:
            self.cached.counted(session, len(tokens))
        engine.finish()

    def ask(self, tokens: list[int]) -> dict[str, int]:
        return self.cached.matches_text(block_hashes(prompt(*tokens)[0]))


def test_text_leads_to_the_tokens_that_its_requests_stored() -> None:
    served = Served()
    system, one, other = words(1, 256), words(2, 128), words(3, 128)
    served.send("a", system + one)
    assert served.ask(system + one) == {"a": 384}
    assert served.ask(system + other) == {"a": 256}, "of another prompt with the same beginning, the beginning"
    assert served.ask(other) == {}
    served.send("b", system + other)
    assert served.ask(system + one) == {"a": 384, "b": 256}
    assert served.ask(system + other) == {"a": 256, "b": 384}


def test_a_conversation_is_followed_where_its_answers_are_long() -> None:
    served = Served()
    turn, answer = words(1, 192), words(2, 128)
    served.send("a", turn, answer=answer)
    assert served.ask(turn) == {"a": 192}
    assert served.ask(turn + answer + words(3, 64)) == {"a": 192}, "of the answer's text nothing is known yet"
    served.send("a", turn + answer + words(3, 64))
    assert served.ask(turn + answer + words(4, 64)) == {"a": 320}


def test_what_the_engine_drops_is_gone_for_text_too() -> None:
    served = Served()
    tokens = words(1, 256)
    served.send("a", tokens)
    assert served.engines["a"].clear()
    feed(served.cached, "a", served.engines["a"].take())
    assert served.ask(tokens) == {}
    served.send("b", tokens)
    assert served.ask(tokens) == {"b": 256}


def test_matches_are_told_in_blocks_of_text_too() -> None:
    served = Served()
    system, one, other = words(1, 256), words(2, 128), words(3, 128)
    served.send("a", system + one)
    served.send("b", system + other)
    blocks = served.cached.matches_blocks
    assert blocks(block_hashes(prompt(*system, *one)[0])) == {"a": 6, "b": 4}
    assert blocks(block_hashes(prompt(*system)[0])) == {"a": 4, "b": 4}
    assert blocks(block_hashes(prompt(*words(7, 128))[0])) == {}


def test_nothing_told_is_not_the_same_as_nothing_cached() -> None:
    served = Served()
    chain = block_hashes(prompt(*words(1, 256))[0])
    assert served.cached.told(chain) == 0
    served.send("a", words(1, 256))
    assert served.cached.told((*chain, 12345)) == 4
    served.engines["a"].clear()
    feed(served.cached, "a", served.engines["a"].take())
    assert (served.cached.told(chain), served.cached.matches_text(chain)) == (4, {})
    assert served.cached.whole("a")


def test_before_a_request_is_counted_its_length_is_estimated() -> None:
    served = Served()
    tokens = words(1, 256)
    served.send("a", tokens, counted=False)
    assert 0 < served.ask(tokens)["a"] <= 256


def test_tokens_that_the_caller_knows_serve_as_well() -> None:
    served = Served()
    text, tokens = prompt(*words(1, 256))
    served.send("b", words(5, 64))  # so that the size of blocks is known
    engine = served.engines["b"]
    engine.start(tokens)
    feed(served.cached, "b", engine.take())
    chain = block_hashes(text)
    assert served.cached.matches_text(chain) == {}
    served.cached.sent("b", chain, len(text), tokens=tokens)
    assert served.cached.matches_text(chain) == {"b": 256}
    assert served.cached.matches_text(chain, adapter="lora") == {}


def test_a_session_of_another_worker_or_of_nobody_is_passed_over() -> None:
    cached = CacheMap()
    text, tokens = prompt(*words(1, 64))
    chain = block_hashes(text)
    for worker in "ab":
        cached.forget(worker, whole=True)
    cached.sent("a", chain, len(text), session="s")
    cached.sent("nobody", chain, len(text), session="t")
    cached.stored("b", [1, 2, 3, 4], None, tokens, SIZE, session="s")
    cached.stored("b", [5, 6, 7, 8], None, tokens, SIZE, session="u")
    cached.counted("s", 64)
    cached.counted("t", 64)
    assert cached.matches_text(chain) == {}
    assert cached.matches([*tokens, 0]) == {"b": 64}


def test_the_text_remembered_is_bounded() -> None:
    served = Served()
    served.cached = CacheMap(anchors=4)
    served.cached.forget("a", whole=True)
    first, second = words(1, 256), words(2, 256)
    served.send("a", first)
    served.send("a", second)
    assert served.ask(second) == {"a": 256}
    assert served.ask(first) == {}
    assert len(prompt(*first)[0]) == 4 * BLOCK_CHARS


def test_what_requests_use_is_remembered_for_longest() -> None:
    cached = CacheMap(capacity=3)
    cached.stored("a", [1, 2], None, [1, 1, 2, 2], 2)
    cached.stored("a", [3], None, [3, 3], 2)
    cached.sent("a", (), 0, tokens=[1, 1, 2, 2, 0])
    cached.stored("a", [4], None, [4, 4], 2)
    assert cached.matches([1, 1, 2, 2, 0]) == {"a": 4}
    assert cached.matches([3, 3, 0]) == {}
    assert not cached.whole("a")
