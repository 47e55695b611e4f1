from __future__ import annotations

from itertools import product

from hypothesis import given, settings
from hypothesis import strategies as st

from controller.caches.map import CacheMap
from controller.caches.view import CacheView, UsesCacheMaps
from controller.place import LeastLoad, PredictedLatency, PredictedLatencyOptions, Prefix, PrefixOptions
from controller.place.d2lpm import D2lpm, D2lpmOptions
from controller.prefix import BLOCK_CHARS, PrefixIndex, block_hashes
from controller.types import Needs, Ticket

SIZE = 32
"""Tokens to a block; a token is a character here, so a block of text is eight of tokens."""


def ticket(text: str, number: int = 0, adapter: str | None = None) -> Ticket:
    needs = Needs() if adapter is None else Needs(adapter=adapter)
    return Ticket(f"t{number}", "m", "tenant", len(text), needs=needs, prefix=block_hashes(text))


def text(*blocks: str) -> str:
    """So many blocks of text, each of one letter."""
    return "".join(letter * BLOCK_CHARS for letter in blocks)


class Engine:
    """An engine's whole cache as the map hears of it."""

    def __init__(self, cached: CacheMap, name: str) -> None:
        self._cached, self._name = cached, name
        cached.forget(name, whole=True)

    @staticmethod
    def names(prompt: str, adapter: str | None = None) -> list[int]:
        return [hash((prompt[:end], adapter)) for end in range(SIZE, len(prompt) + 1, SIZE)]

    def stores(self, one: Ticket, prompt: str, adapter: str | None = None) -> None:
        """It was sent this prompt, computes all of it, and says so."""
        tokens, session = [ord(letter) for letter in prompt], one.id
        self._cached.sent(self._name, one.prefix, len(prompt), session=session, adapter=adapter)
        names = self.names(prompt, adapter)
        self._cached.stored(self._name, names, None, tokens, SIZE, session=session, adapter=adapter)
        self._cached.counted(session, len(tokens))

    def removes(self, prompt: str, first: int = 0) -> None:
        """All but the ``first`` blocks of text of it."""
        self._cached.removed(self._name, self.names(prompt)[first * BLOCK_CHARS // SIZE :])


def test_without_a_map_it_is_the_guess() -> None:
    view, guess = CacheView(100), PrefixIndex(100)
    for number, (words, worker) in enumerate([("abc", "v"), ("abd", "w"), ("ax", "v")]):
        one = ticket(text(*words), number)
        view.placed(one, worker)
        guess.add(one.prefix, worker)
    for words in ("abcd", "abd", "axy", "b"):
        one = ticket(text(*words))
        assert view.matches(one, "p") == guess.matches(one.prefix)
        assert view.cached(one, "v") == guess.matches(one.prefix).get("v", 0)
    view.forget("v")
    assert set(view.matches(ticket(text("a", "b")), "p")) == {"w"}


def test_what_an_engine_has_given_up_is_not_there_whatever_it_was_sent() -> None:
    cached, view = CacheMap(), CacheView(100)
    v, w = Engine(cached, "v"), Engine(cached, "w")
    view.use("p", cached)
    prompt = text("a", "b", "c")
    for number, (name, engine) in enumerate((("v", v), ("w", w))):
        one = ticket(prompt, number)
        view.placed(one, name)
        engine.stores(one, prompt)
        view.left(one.id, name)
    assert view.matches(ticket(prompt), "p") == {"v": 3, "w": 3}
    v.removes(prompt, first=1)
    assert view.matches(ticket(prompt), "p") == {"v": 1, "w": 3}
    w.removes(prompt)
    assert view.matches(ticket(prompt), "p") == {"v": 1}
    assert (view.cached(ticket(prompt), "v"), view.cached(ticket(prompt), "w")) == (1, 0)
    assert view.matches(ticket(prompt), "another pool") == {"v": 3, "w": 3}, "of which the engines say nothing"


def test_an_engine_may_have_what_was_never_sent_from_here() -> None:
    """Another gateway's requests: the tokens are known, once one of the same text was sent from here."""
    cached, view = CacheMap(), CacheView(100)
    v, w = Engine(cached, "v"), Engine(cached, "w")
    view.use("p", cached)
    prompt = text("a", "b")
    one = ticket(prompt)
    view.placed(one, "v")
    v.stores(one, prompt)
    view.left(one.id, "v")
    w.stores(Ticket("elsewhere", "m", "tenant", 0), prompt)
    assert view.matches(ticket(prompt), "p") == {"v": 2, "w": 2}


def test_the_guess_stays_where_the_map_does_not_know() -> None:
    cached, view = CacheMap(), CacheView(100)
    v = Engine(cached, "v")
    view.use("p", cached)
    known, longer, other = text("a", "b"), text("a", "b", "c", "d"), text("x", "y")
    one = ticket(known)
    view.placed(one, "v")
    v.stores(one, known)
    view.left(one.id, "v")
    view.placed(ticket(longer, 1), "v")
    view.left("t1", "v")
    view.placed(ticket(other, 2), "v")
    view.left("t2", "v")
    assert view.matches(ticket(other), "p") == {"v": 2}, "of this text no tokens were told"
    assert view.matches(ticket(longer), "p") == {"v": 4}, "it has all of the text that is known, so why not the rest"
    cached.forget("v", whole=False)
    assert view.matches(ticket(known), "p") == {"v": 2}, "messages were lost: it may have them"


def test_what_is_being_computed_counts_until_it_is_over() -> None:
    cached, view = CacheMap(), CacheView(100)
    v = Engine(cached, "v")
    view.use("p", cached)
    prompt = text("a", "b")
    one = ticket(prompt)
    v.stores(one, prompt)
    v.removes(prompt)
    view.placed(ticket(prompt, 1), "v")
    view.placed(ticket(prompt, 2), "v")
    for number in (1, 2):
        assert view.matches(ticket(prompt), "p") == {"v": 2}, "it is told of in a moment"
        view.left(f"t{number}", "v")
    assert view.matches(ticket(prompt), "p") == {}
    view.left("t2", "v")


def test_adapters_have_caches_of_their_own() -> None:
    cached, view = CacheMap(), CacheView(100)
    v = Engine(cached, "v")
    view.use("p", cached)
    prompt = text("a", "b")
    one, other = ticket(prompt, 1), ticket(prompt, 2, adapter="lora")
    v.stores(one, prompt)
    v.stores(other, prompt, adapter="lora")
    v.removes(prompt)
    assert view.matches(one, "p") == {}
    assert view.matches(other, "p") == {"v": 2}


@settings(max_examples=50)
@given(
    st.lists(st.text("ab", max_size=3), min_size=5, max_size=5),
    st.lists(st.tuples(st.integers(0, 4), st.sampled_from("vw"), st.booleans())),
)
def test_of_engines_that_hold_nothing_it_says_what_they_are_computing(
    prompts: list[str], steps: list[tuple[int, str, bool]]
) -> None:
    cached, view = CacheMap(), CacheView(1000)
    engines = [Engine(cached, name) for name in "uvw"]
    view.use("p", cached)
    for number, words in enumerate(product("ab", repeat=3)):
        engines[0].stores(ticket(text(*words), 100 + number), text(*words))
    cached.cleared("u")
    running: set[tuple[int, str]] = set()
    for number, worker, ends in steps:
        if ends:
            view.left(f"t{number}", worker)
            running.discard((number, worker))
        else:
            view.placed(ticket(text(*prompts[number]), number), worker)
            running.add((number, worker))
        for asked in ("aaa", "aba", "bb", "b"):
            expected: dict[str, int] = {}
            for there, at in running:
                same = [one == other for one, other in zip(asked, prompts[there], strict=False)]
                expected[at] = max([*same, False].index(False), expected.get(at, 0))
            found = view.matches(ticket(text(*asked)), "p")
            assert found == {at: blocks for at, blocks in expected.items() if blocks}


def test_the_stages_that_go_by_caches_take_a_map() -> None:
    stages = Prefix(PrefixOptions()), PredictedLatency(PredictedLatencyOptions()), D2lpm(D2lpmOptions())
    assert all(isinstance(stage, UsesCacheMaps) for stage in stages)
    assert not isinstance(LeastLoad(), UsesCacheMaps)
