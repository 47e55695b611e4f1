from __future__ import annotations

import asyncio
import json
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from envs.collection import Target
from envs.ladder.step_time import Load, Round, StepTimeError, _Reading, measure
from tests.envs.ladder.ladder_server import LadderServer
from tests.upstream.servers import Server

PROMPTS = [f"prompt {number}" for number in range(40)]


def run(handler: LadderServer, load: Load) -> list[Round]:
    async def main() -> list[Round]:
        async with Server(handler) as server:
            targets = [Target(server.url, name) for name in handler.answers]
            return await measure(PROMPTS, targets, load, lambda: None)

    return asyncio.run(main())


def test_every_model_gets_the_same_prompts_and_the_same_number_of_tokens() -> None:
    handler = LadderServer({"small": {}, "large": {}})
    rounds = run(handler, Load((1, 6), tokens=9, repeats=3))
    counted = Counter((one.model, one.in_flight) for one in rounds)
    assert counted == {(model, k): 3 for model in ("small", "large") for k in (1, 6)}
    assert all(one.step_s > 0 and one.tokens_per_s > 0 for one in rounds)
    asked = {
        name: Counter(body["messages"][0]["content"] for body in handler.asked if body["model"] == name)
        for name in handler.answers
    }
    assert asked["small"] == asked["large"]
    assert asked["small"].total() == (4 + 6) * 4
    assert all(
        (body["max_tokens"], body["min_tokens"], body["ignore_eos"], body["temperature"]) == (9, 9, True, 0.0)
        for body in handler.asked
    )


def test_models_take_turns_at_being_first() -> None:
    rounds = run(LadderServer({"small": {}, "large": {}}), Load((1,), tokens=8, repeats=4))
    assert [one.model for one in rounds[::2]] == ["small", "large", "small", "large"]


def test_a_server_that_stops_early_is_refused() -> None:
    handler = LadderServer({"small": {}})
    handler.obeys = False
    with pytest.raises(StepTimeError, match=r"sent 2 output tokens, not 8"):
        run(handler, Load((1,), tokens=8, repeats=1))


def test_a_failed_request_ends_the_measurement() -> None:
    with pytest.raises(StepTimeError, match="the engine is dead"):
        run(LadderServer({"small": {}}, frozenset({"small"})), Load((1,), tokens=8, repeats=1))


def read(*events: tuple[float, dict[str, Any]]) -> _Reading:
    reading = _Reading()
    for now, body in events:
        reading.take(f"data: {json.dumps(body)}\n\n".encode(), now)
    return reading


def tokens(number: int) -> dict[str, Any]:
    return {"choices": [{"delta": {"content": ""}, "token_ids": [0] * number}]}


TARGET = Target("http://127.0.0.1:1", "m")
END: dict[str, Any] = {"choices": [], "usage": {"completion_tokens": 10}}


@given(st.lists(st.integers(1, 5), min_size=2, max_size=8), st.floats(0.001, 1.0))
def test_tokens_that_come_together_do_not_change_the_step(groups: list[int], step_s: float) -> None:
    total = sum(groups)
    ends = [sum(groups[: place + 1]) for place in range(len(groups))]
    events = [(step_s * end, tokens(group)) for end, group in zip(ends, groups, strict=True)]
    usage = {"choices": [], "usage": {"completion_tokens": total}}
    timed = read((0.0, {"choices": [{"delta": {"role": "assistant"}}]}), *events, (99.0, usage)).result(TARGET, total)
    assert timed.step_s == pytest.approx(step_s)


def test_tokens_of_one_read_have_no_step() -> None:
    assert read((1.0, tokens(4)), (1.0, tokens(6)), (1.5, END)).result(TARGET, 10).step_s is None
