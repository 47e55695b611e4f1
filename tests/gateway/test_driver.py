from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence

import pytest

from controller.pipeline import ControlPlane
from controller.protocols import Resources
from controller.settings import ControlSettings
from controller.stages import build
from controller.types import (
    DecisionRecord,
    PoolSpec,
    Result,
    Scale,
    Scores,
    Ticket,
    Usage,
    WorkerPhase,
    WorkerSpec,
)
from gateway.driver import Driver, Turn
from gateway.errors import ApiError
from gateway.scoring import Budget, Scorer
from predictors.types import Prompt
from tests.gateway.harness import until

PROMPT = Prompt("hello")


class Seen:
    """Remembers everything that the driver says."""

    def __init__(self) -> None:
        self.steps: list[str] = []
        self.records: list[tuple[DecisionRecord, Prompt | None]] = []
        self.scales: list[Scale] = []
        self.suspects: list[tuple[str, str]] = []
        self.members: set[str] = set()

    def decided(self, step: str, seconds: float) -> None:
        assert seconds >= 0
        self.steps.append(step)

    def recorded(self, record: DecisionRecord, prompt: Prompt | None) -> None:
        self.records.append((record, prompt))

    def scale(self, decisions: Iterable[Scale]) -> None:
        self.scales.extend(decisions)

    def suspect(self, worker: str, code: str) -> None:
        self.suspects.append((worker, code))

    def joined(self, spec: WorkerSpec) -> None:
        self.members.add(spec.name)

    def left(self, worker: str) -> None:
        self.members.discard(worker)


class Lengths:
    """Says that a prompt's answer is as long as the prompt, after ``seconds``."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds

    def score(self, prompts: Sequence[Prompt]) -> list[Scores]:
        time.sleep(self.seconds)
        return [Scores(length_rank=float(len(p.text)), output_tokens=float(len(p.text))) for p in prompts]


def ticket(name: str, **fields: object) -> Ticket:
    return Ticket(**{"id": name, "model": "auto", "prompt_chars": 5, **fields})  # type: ignore[arg-type]


def plane(order: str = "fcfs", **settings: object) -> ControlPlane:
    specs = (PoolSpec("p", "p-model", 0),)
    chosen = ControlSettings(**{"retry_backoff_s": 0.0, **settings})  # type: ignore[arg-type]
    stages = build({"order": (order, {})}, Resources(specs, chosen))
    return ControlPlane(specs, stages, aliases={"auto": ("p",)}, settings=chosen)


def drive(
    scenario: Callable[[Driver, Seen], Awaitable[None]],
    *,
    control: ControlPlane | None = None,
    workers: int = 1,
    seats: int = 1,
    scorer: Scorer | None = None,
    budget: float = 5.0,
    keep_prompts: bool = False,
) -> Seen:
    seen = Seen()

    async def main() -> None:
        driver = Driver(
            control or plane(),
            seen,
            clock=time.monotonic,
            scorer=scorer,
            budget=Budget(budget),
            keep_prompts=keep_prompts,
        )
        driver.start()
        for i in range(workers):
            driver.add_worker(WorkerSpec(f"w{i}", "p", f"http://w{i}", seats), driver.now())
        try:
            async with asyncio.timeout(10):
                await scenario(driver, seen)
        finally:
            await driver.close()

    asyncio.run(main())
    return seen


def test_a_request_is_dispatched_finished_and_recorded() -> None:
    async def scenario(driver: Driver, seen: Seen) -> None:
        turn = driver.submit(ticket("a"), PROMPT)
        dispatch = await turn.dispatched()
        assert (dispatch.worker, dispatch.model, driver.running) == ("w0", "p-model", 1)
        turn.first_token()
        turn.tokens(2)
        turn.finish(Usage(5, 3))
        assert (driver.running, turn.over) == (0, True)
        await until(lambda: len(seen.records) == 1)

    record, prompt = drive(scenario).records[0]
    assert (record.result, record.usage, prompt) == (Result.COMPLETED, Usage(5, 3), None)


def test_a_seat_goes_to_the_next_as_soon_as_it_is_free() -> None:
    async def scenario(driver: Driver, seen: Seen) -> None:
        first = driver.submit(ticket("a"), PROMPT)
        await first.dispatched()
        second = driver.submit(ticket("b"), PROMPT)
        waiting = asyncio.ensure_future(second.dispatched())
        await asyncio.sleep(0.01)
        assert not waiting.done()
        first.finish(None)
        assert (await waiting).ticket == "b"
        second.abort()

    drive(scenario)


def test_two_requests_at_once_do_not_fill_a_queue_of_one_before_a_free_worker() -> None:
    async def scenario(driver: Driver, seen: Seen) -> None:
        turns = [driver.submit(ticket(name), PROMPT) for name in "ab"]
        with pytest.raises(ApiError, match="queue"):
            driver.submit(ticket("c"), PROMPT)
        turns[0].abort()
        driver.submit(ticket("d"), PROMPT)

    drive(scenario, control=plane(max_queue=1))


def test_an_abort_while_waiting_leaves_nothing_behind() -> None:
    async def scenario(driver: Driver, seen: Seen) -> None:
        turns = [driver.submit(ticket(name), PROMPT) for name in "ab"]
        turns[1].abort()
        turns[1].abort()
        turns[0].abort()
        assert (driver.running, driver.plane.queued()) == (0, ())
        await until(lambda: len(seen.records) == 2)

    assert {record.result for record, _ in drive(scenario).records} == {Result.ABORTED}


def test_a_failure_sends_the_request_to_another_worker() -> None:
    async def scenario(driver: Driver, seen: Seen) -> None:
        turn = driver.submit(ticket("a"), PROMPT)
        first = await turn.dispatched()
        assert turn.fail("connect_error", retryable=True) is None
        second = await turn.dispatched()
        assert {first.worker, second.worker} == {"w0", "w1"}
        assert second.attempt == 2
        turn.finish(None)
        assert seen.suspects == [(first.worker, "connect_error")]

    drive(scenario, workers=2)


def test_a_failure_that_cannot_be_retried_is_an_answer() -> None:
    async def scenario(driver: Driver, seen: Seen) -> None:
        turn = driver.submit(ticket("a"), PROMPT)
        await turn.dispatched()
        verdict = turn.fail("idle_timeout", retryable=False)
        assert verdict is not None
        assert (verdict.status, turn.over, driver.running) == (502, True, 0)

    drive(scenario)


def test_a_deadline_passes_without_any_other_event() -> None:
    async def scenario(driver: Driver, seen: Seen) -> None:
        driver.submit(ticket("a"), PROMPT)
        late = driver.submit(ticket("b", deadline=driver.now() + 0.05), PROMPT)
        with pytest.raises(ApiError, match="deadline") as caught:
            await late.dispatched()
        assert caught.value.status == 504
        assert late.over

    drive(scenario)


def test_scores_order_the_queue() -> None:
    async def scenario(driver: Driver, seen: Seen) -> None:
        first = driver.submit(ticket("a"), PROMPT)
        waiting = {name: driver.submit(ticket(name), Prompt(name * 9)) for name in ("long" * 20, "x")}
        await until(lambda: sum(count for (s, _, o), count in driver.plane.counters().items() if o == "scored") >= 2)
        first.finish(None)
        assert (await waiting["x"].dispatched()).ticket == "x"

    seen = drive(scenario, control=plane("length_rank"), scorer=Lengths())
    assert "score" in seen.steps


def test_where_every_request_is_scored_the_dispatch_follows_its_scores_in_the_same_turn() -> None:
    pools = (PoolSpec("p", "p-model", 0),)
    settings = ControlSettings(score_always=True)
    made = build({"order": ("length_rank", {})}, Resources(pools=pools, settings=settings))
    control = ControlPlane(pools, made, aliases={"auto": ["p"]}, settings=settings)

    async def scenario(driver: Driver, seen: Seen) -> None:
        first = driver.submit(ticket("a"), PROMPT)
        await first.dispatched()
        second = driver.submit(ticket("b"), PROMPT)
        assert second.dispatch is not None
        assert seen.steps.count("score") == 2
        for turn in (first, second):
            turn.finish(Usage(5, 3))
        await until(lambda: len(seen.records) == 2)

    seen = drive(scenario, control=control, seats=4, scorer=Lengths())
    assert all(record.scores is not None for record, _ in seen.records)
    assert control.counters()["score", "length", "scored"] == 2


def test_a_slow_scorer_holds_nobody_beyond_the_budget() -> None:
    async def scenario(driver: Driver, seen: Seen) -> None:
        driver.submit(ticket("a"), PROMPT)
        second = driver.submit(ticket("b"), PROMPT)
        await until(lambda: ("score", "length", "timeout") in driver.plane.fallbacks())
        assert not second.over

    drive(scenario, control=plane("length_rank"), scorer=Lengths(0.2), budget=0.005)


def test_without_a_scorer_the_fallback_is_taken_at_once_and_counted() -> None:
    async def scenario(driver: Driver, seen: Seen) -> None:
        driver.submit(ticket("a"), PROMPT)
        driver.submit(ticket("b"), PROMPT)
        assert driver.plane.fallbacks() == {("score", "length", "no_artifact"): 1}

    drive(scenario, control=plane("length_rank"))


def test_a_worker_that_joins_or_gets_ready_serves_who_waits() -> None:
    async def scenario(driver: Driver, seen: Seen) -> None:
        driver.add_worker(WorkerSpec("new", "p", "http://new"), driver.now(), WorkerPhase.STARTING)
        turn = driver.submit(ticket("a"), PROMPT)
        await asyncio.sleep(0.01)
        assert turn.dispatch is None
        driver.set_phase("new", WorkerPhase.READY, driver.now())
        assert (await turn.dispatched()).worker == "new"
        turn.finish(None)
        assert seen.members == {"new"}
        driver.remove_worker("new", driver.now())
        assert seen.members == set()

    drive(scenario, workers=0)


def test_closing_refuses_who_waits_and_hands_on_the_records() -> None:
    turns: list[Turn] = []

    async def scenario(driver: Driver, seen: Seen) -> None:
        turns.extend(driver.submit(ticket(name), PROMPT) for name in "ab")
        await driver.close()
        with pytest.raises(ApiError, match="shutting down"):
            await turns[1].dispatched()

    seen = drive(scenario, keep_prompts=True)
    assert {(record.code, prompt) for record, prompt in seen.records} == {("shutting_down", PROMPT)}


def test_prompts_are_kept_only_if_asked_for() -> None:
    async def scenario(driver: Driver, seen: Seen) -> None:
        driver.submit(ticket("a"), PROMPT).abort()

    assert drive(scenario, keep_prompts=True).records[0][1] == PROMPT
    assert drive(scenario, keep_prompts=False).records[0][1] is None


def test_what_ends_while_records_are_handed_on_is_handed_on_as_well() -> None:
    async def scenario(driver: Driver, seen: Seen) -> None:
        turns = [driver.submit(ticket(str(number)), PROMPT) for number in range(41)]
        for turn in turns[:-1]:
            await turn.dispatched()
            turn.finish(None)
        await until(lambda: bool(seen.records))
        turns[-1].finish(None)
        await until(lambda: len(seen.records) == 41)

    seen = drive(scenario, seats=64)
    assert [record.ticket for record, _ in seen.records] == [str(number) for number in range(41)]
