"""Conversations: each turn begins with all that was said, and says so in its prefix."""

from __future__ import annotations

from collections import defaultdict
from itertools import islice, pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from envs.workloads import (
    Arrival,
    Conversations,
    Lengths,
    LengthSource,
    LogNormalLengths,
    Pace,
    Poisson,
    TaskSource,
    Transcript,
    conversations,
)
from tests.envs.workloads.memory import growth

SIZES = LogNormalLengths(120.0, 90.0)
STYLE = Conversations(SIZES, turns=4.0, pace=Pace(5.0), system=200, longest=4000, prefix_block=16)


def talks(rows: list[Arrival]) -> dict[str, list[tuple[float, Lengths]]]:
    found = defaultdict(list)
    for row in rows:
        assert row.session is not None
        assert row.lengths is not None
        found[row.session].append((row.at, row.lengths))
    return found


def drawn(style: Conversations = STYLE, count: int = 800, seed: int = 1, rate: float = 2.0) -> list[Arrival]:
    return list(conversations(Poisson(rate), style, seed, count=count))


def test_a_later_turn_starts_with_the_chain_of_the_earlier_and_its_answer() -> None:
    many = [turns for turns in talks(drawn()).values() if len(turns) > 2]
    assert many
    for turns in many:
        for (_, one), (_, two) in pairwise(turns):
            assert two.prefix[: len(one.prefix)] == one.prefix
            assert two.prompt_tokens > one.prompt_tokens + one.output_tokens
            assert len(one.prefix) == (one.prompt_tokens + one.output_tokens) // 16
            assert one.prompt_prefix == one.prefix[: one.prompt_tokens // 16]


def test_conversations_share_the_blocks_of_the_system_prompt_and_nothing_else() -> None:
    firsts = [turns[0][1].prefix for turns in talks(drawn()).values()]
    assert len({prefix[:12] for prefix in firsts}) == 1, "200 tokens hold 12 full blocks of 16"
    own = [block for prefix in firsts for block in prefix[12:]]
    assert len(set(own)) == len(own)


def test_tenants_have_system_prompts_of_their_own() -> None:
    one, two = (next(conversations(Poisson(1.0), STYLE, 1, tenant=name)).lengths for name in "ab")
    assert one is not None
    assert two is not None
    assert not set(one.prefix) & set(two.prefix)


def test_turns_come_in_order_of_time_after_the_answer_and_the_thought() -> None:
    style = Conversations(SIZES, pace=Pace(5.0, 0.0, first_token_s=1.0, token_s=0.1))
    rows = drawn(style)
    assert all(a.at <= b.at for a, b in pairwise(rows))
    for turns in talks(rows).values():
        for (at, one), (then, _) in pairwise(turns):
            assert then - at == pytest.approx(6.0 + 0.1 * one.output_tokens)


def test_the_number_of_turns_is_as_asked_and_the_context_keeps_to_its_limit() -> None:
    style = Conversations(LengthSource((Lengths(10, 10),)), turns=4.0, pace=Pace(1.0, token_s=0.0))
    rows = list(conversations(Poisson(20.0), style, 2, count=12_000))
    lengths = [len(turns) for turns in talks(rows[:10_000]).values()]
    assert np.mean(lengths) == pytest.approx(4.0, rel=0.1)
    assert max(one.lengths.prompt_tokens + one.lengths.output_tokens for one in drawn() if one.lengths) <= 4000


def test_a_first_turn_longer_than_the_context_is_cut_to_it() -> None:
    style = Conversations(LengthSource((Lengths(9000, 700),)), system=100, longest=1000)
    assert next(conversations(Poisson(1.0), style, 1)).lengths is not None
    rows = list(conversations(Poisson(1.0), style, 1, count=5))
    assert {(row.lengths.prompt_tokens, row.lengths.output_tokens) for row in rows if row.lengths} == {(300, 700)}


def test_the_same_seed_is_the_same_workload_and_thinking_longer_leaves_what_is_said() -> None:
    assert drawn(seed=3) == drawn(seed=3)
    assert drawn(seed=3) != drawn(seed=4)
    slow = Conversations(SIZES, turns=4.0, pace=Pace(50.0), system=200, longest=4000, prefix_block=16)
    fast, late = talks(drawn(seed=3)), talks(drawn(slow, seed=3))
    for name, turns in late.items():
        said = [one for _, one in fast.get(name, [])]
        assert [one for _, one in turns][: len(said)] == said[: len(turns)]


def test_a_workload_ends_at_its_duration_with_turns_still_to_come() -> None:
    rows = list(conversations(Poisson(2.0), STYLE, 1, duration=60.0, max_tokens=9, deadline_s=3.0))
    assert rows[-1].at < 60.0
    assert {(row.max_tokens, row.deadline_s, row.tenant) for row in rows} == {(9, 3.0, "default")}


@given(turns=st.lists(st.tuples(st.integers(1, 90), st.integers(1, 90)), max_size=8), system=st.integers(0, 100))
@settings(max_examples=50)
def test_a_transcript_has_a_hash_for_each_full_block_and_never_takes_one_back(
    turns: list[tuple[int, int]], system: int
) -> None:
    text, total = Transcript("a", 16, shared="s", system=system), system
    before: tuple[int, ...] = ()
    for question, answer in turns:
        lengths = text.turn(question, answer)
        total += question + answer
        assert lengths.prompt_tokens + lengths.output_tokens == total
        assert len(lengths.prefix) == len(set(lengths.prefix)) == total // 16
        assert lengths.prefix[: len(before)] == before
        assert all(0 <= block < 2**63 for block in lengths.prefix)
        before = lengths.prefix


def test_hashes_are_the_same_in_every_process() -> None:
    assert Transcript("a", 16, shared="s").turn(16, 16).prefix == (4681665781835383343, 6859008564303806020)


def test_what_is_held_is_the_conversations_that_are_going_on() -> None:
    style = Conversations(SIZES, turns=3.0, pace=Pace(1.0, 0.2, token_s=0.0), longest=2000)
    assert growth(conversations(Poisson(5.0), style, 1), warm=2000, then=6000) < 400_000


@pytest.mark.parametrize(
    "make",
    [
        lambda: Conversations(SIZES, turns=0.5),
        lambda: Pace(think_s=-1.0),
        lambda: Conversations(SIZES, prefix_block=0),
        lambda: Conversations(SIZES, system=100, longest=101),
    ],
)
def test_senseless_settings_are_refused(make: object) -> None:
    with pytest.raises(ValueError):
        make()  # type: ignore[operator]


def test_tasks_cannot_be_held_as_a_conversation() -> None:
    with pytest.raises(TypeError, match="lengths"):
        list(islice(conversations(Poisson(1.0), Conversations(TaskSource(1)), 1), 1))
