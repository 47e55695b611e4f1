from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Sequence

import pytest

from controller.types import Scores, TicketId
from gateway.scoring import Budget, ScoringDesk
from predictors.types import Prompt
from tests.gateway.harness import until


class Length:
    """Ranks by the prompt's length; waits for ``go`` first, fails on the prompt ``fail``."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.go.set()
        self.seconds_each = 0.0
        self.cpu_each = 0.0
        self.batches: list[list[str]] = []
        self.threads: set[int] = set()

    def score(self, prompts: Sequence[Prompt]) -> list[Scores]:
        self.batches.append([prompt.text for prompt in prompts])
        self.threads.add(threading.get_ident())
        self.go.wait(5)
        time.sleep(self.seconds_each * len(prompts))
        until = time.thread_time() + self.cpu_each * len(prompts)
        while time.thread_time() < until:
            pass
        if any(prompt.text == "fail" for prompt in prompts):
            raise RuntimeError("as asked")
        return [Scores(length_rank=float(len(prompt.text))) for prompt in prompts]


class Desk:
    """A desk, and what it handed out."""

    def __init__(self, budget: float, wanted: Callable[[TicketId], bool] = lambda _: True) -> None:
        self.scorer = Length()
        self.handed: list[tuple[TicketId, Scores | None, str]] = []
        self.timed: list[tuple[int, float]] = []
        self.desk = ScoringDesk(
            self.scorer,
            Budget(budget),
            clock=time.monotonic,
            on_scores=lambda ticket, scores, why: self.handed.append((ticket, scores, why)),
            on_batch=lambda prompts, seconds: self.timed.append((prompts, seconds)),
            wanted=wanted,
        )

    def take(self, *texts: str) -> None:
        for text in texts:
            self.desk.take(text, Prompt(text))


def drive(desk: Callable[[], Desk], scenario: Callable[[Desk], Awaitable[None]]) -> None:
    async def main() -> None:
        running = desk()
        try:
            await scenario(running)
        finally:
            running.scorer.go.set()
            running.desk.close()

    asyncio.run(main())


def test_scores_come_back_for_each_ticket_from_another_thread() -> None:
    async def scenario(desk: Desk) -> None:
        desk.take("a", "bbb")
        await until(lambda: len(desk.handed) == 2)
        assert desk.handed == [("a", Scores(1.0), ""), ("bbb", Scores(3.0), "")]
        assert threading.get_ident() not in desk.scorer.threads
        assert [prompts for prompts, _ in desk.timed] == [2]

    drive(lambda: Desk(5.0), scenario)


def test_what_comes_while_a_batch_is_scored_makes_up_the_next_one() -> None:
    async def scenario(desk: Desk) -> None:
        desk.scorer.go.clear()
        desk.take("a")
        await until(lambda: len(desk.scorer.batches) == 1)
        desk.take("b", "c", "d")
        desk.scorer.go.set()
        await until(lambda: len(desk.handed) == 4)
        assert desk.scorer.batches == [["a"], ["b", "c", "d"]]

    drive(lambda: Desk(5.0), scenario)


def test_a_batch_is_bounded() -> None:
    async def scenario(desk: Desk) -> None:
        desk.take(*map(str, range(100)))
        await until(lambda: len(desk.handed) == 100)
        assert list(map(len, desk.scorer.batches)) == [64, 36]

    drive(lambda: Desk(5.0), scenario)


def test_batches_shrink_to_what_can_be_scored_in_half_the_budget() -> None:
    async def scenario(desk: Desk) -> None:
        desk.scorer.seconds_each = 0.01
        desk.take(*map(str, range(30)))
        await until(lambda: sum(map(len, desk.scorer.batches)) == 30)
        desk.take(*map(str, range(100, 130)))
        await until(lambda: sum(map(len, desk.scorer.batches)) == 60)
        assert len(desk.scorer.batches[0]) == 30
        assert max(map(len, desk.scorer.batches[1:])) <= 5

    drive(lambda: Desk(0.1), scenario)


def test_prompts_within_their_budget_come_before_late_ones() -> None:
    async def scenario(desk: Desk) -> None:
        desk.scorer.go.clear()
        desk.take("first")
        await until(lambda: len(desk.scorer.batches) == 1)
        desk.take("late")
        await until(lambda: len(desk.handed) == 2)
        desk.take("fresh")
        desk.scorer.go.set()
        await until(lambda: len(desk.scorer.batches) == 3)
        assert desk.scorer.batches == [["first"], ["fresh"], ["late"]]

    drive(lambda: Desk(0.2), scenario)


def test_a_ticket_whose_budget_is_over_goes_on_and_late_scores_still_come() -> None:
    async def scenario(desk: Desk) -> None:
        desk.scorer.go.clear()
        desk.take("a")
        await until(lambda: len(desk.handed) == 1)
        assert desk.handed == [("a", None, "timeout")]
        desk.scorer.go.set()
        await until(lambda: len(desk.handed) == 2)
        assert desk.handed[1] == ("a", Scores(1.0), "")

    drive(lambda: Desk(0.01), scenario)


def test_the_event_loop_runs_on_while_prompts_are_scored() -> None:
    async def scenario(desk: Desk) -> None:
        desk.scorer.go.clear()
        desk.take("a")
        await until(lambda: len(desk.scorer.batches) == 1)
        turns = 0
        for _ in range(100):
            await asyncio.sleep(0)
            turns += 1
        assert (turns, desk.handed) == (100, [])

    drive(lambda: Desk(5.0), scenario)


def test_a_scorer_that_fails_costs_its_batch_the_scores_and_nothing_else(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(desk: Desk) -> None:
        desk.take("fail")
        await until(lambda: len(desk.handed) == 1)
        desk.take("fine")
        await until(lambda: len(desk.handed) == 2)
        assert desk.handed == [("fail", None, "error"), ("fine", Scores(4.0), "")]

    drive(lambda: Desk(5.0), scenario)
    assert "go on without scores" in caplog.text


def test_what_nobody_waits_for_any_more_is_not_scored() -> None:
    async def scenario(desk: Desk) -> None:
        desk.take("gone", "here")
        await until(lambda: len(desk.handed) == 1)
        desk.take("gone")
        desk.take("here")
        await until(lambda: len(desk.handed) == 2)
        assert desk.scorer.batches == [["here"], ["here"]]

    drive(lambda: Desk(5.0, lambda ticket: ticket != "gone"), scenario)


def test_a_cheap_prompt_is_scored_at_once_in_the_loop() -> None:
    async def scenario(desk: Desk) -> None:
        desk.take("a")
        await until(lambda: len(desk.handed) == 1)
        desk.take("bb")
        desk.take("ccc")
        assert desk.handed[1:] == [("bb", Scores(2.0), ""), ("ccc", Scores(3.0), "")]
        assert desk.scorer.batches[1:] == [["bb"], ["ccc"]]
        assert threading.get_ident() in desk.scorer.threads
        assert [prompts for prompts, _ in desk.timed] == [1, 1, 1]

    drive(lambda: Desk(5.0), scenario)


def test_a_dear_prompt_is_left_to_the_thread() -> None:
    async def scenario(desk: Desk) -> None:
        desk.scorer.cpu_each = 0.01
        for text in ("a", "b", "c"):
            desk.take(text)
            await until(lambda text=text: desk.handed[-1:] == [(text, Scores(1.0), "")])  # type: ignore[misc]
        assert threading.get_ident() not in desk.scorer.threads

    drive(lambda: Desk(5.0), scenario)


def test_prompts_that_become_dear_go_to_the_thread_and_come_back_when_they_are_cheap_again() -> None:
    async def scenario(desk: Desk) -> None:
        here = threading.get_ident()

        async def score(text: str) -> bool:
            """Whether it was scored in the loop."""
            desk.scorer.threads.clear()
            count = len(desk.handed)
            desk.take(text)
            await until(lambda: len(desk.handed) > count)
            return here in desk.scorer.threads

        await score("first")
        assert await score("cheap")
        desk.scorer.cpu_each = 0.01
        assert await score("suddenly dear")
        assert not await score("dear")
        desk.scorer.cpu_each = 0.0
        assert any([await score(f"cheap {number}") for number in range(12)])

    drive(lambda: Desk(5.0), scenario)


def test_a_prompt_that_fails_in_the_loop_goes_on_without_scores(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(desk: Desk) -> None:
        desk.take("first")
        await until(lambda: len(desk.handed) == 1)
        desk.take("fail")
        assert desk.handed[1] == ("fail", None, "error")
        desk.take("fine")
        assert desk.handed[2] == ("fine", Scores(4.0), "")

    drive(lambda: Desk(5.0), scenario)
    assert "goes on without scores" in caplog.text
