"""Any sequence of events: no ticket is lost or run twice, every limit holds, and the same events decide the same."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, precondition, rule

from controller.kv.account import KvLimits
from controller.pipeline import BUSY
from controller.settings import ControlSettings
from controller.stages import names
from controller.types import Move, Rejected, Requeued, Result, Scores, Usage, WorkerPhase, WorkerReport, WorkerSpec
from tests.controller.books import PICK, Books
from tests.controller.planes import LARGE, SMALL, plane, ticket

POOLS = tuple(replace(pool, kv_tokens=1_500) for pool in (SMALL, LARGE))

CHOICES = st.fixed_dictionaries(
    {
        "tier": st.sampled_from(["pinned", "static", "threshold", "router", "best_effort"]),
        "order": st.sampled_from(names("order")),
        "fairness": st.sampled_from(names("fairness")),
        "place": st.sampled_from(names("place")),
        "rebalance": st.sampled_from(names("rebalance")),
    }
)
SETTINGS = ControlSettings(
    max_queue=12, max_queue_s=8.0, no_worker_s=1.0, breaker_errors=2, breaker_s=2.0, default_service_rate=50.0
)
SCORES = st.one_of(
    st.none(),
    st.builds(
        Scores,
        st.one_of(st.none(), st.floats(-3, 3)),
        st.one_of(st.none(), st.floats(0, 500)),
        st.one_of(st.none(), st.fixed_dictionaries({"small": st.floats(0, 1), "large": st.floats(0, 1)})),
    ),
)
CHANGES = (*[WorkerPhase.READY] * 4, *WorkerPhase, "join", "join", "leave")


class Machine(Books):
    """Two control planes with the same events: no two decide differently."""

    @initialize(
        choices=CHOICES,
        always=st.booleans(),
        kv=st.sampled_from([None, None, KvLimits(), KvLimits(share=1.0, passes=2, hold_s=1.0, lookahead=2)]),
    )
    def start(self, choices: dict[str, str], always: bool, kv: KvLimits | None) -> None:
        chosen = replace(SETTINGS, score_always=always, kv=kv)
        self.open([plane(choices, pools=POOLS, workers=1, max_inflight=2, settings=chosen) for _ in range(2)])
        self.seen_token: set[str] = set()
        self.retried: set[str] = set()
        self.pool_of: dict[str, str] = {}
        self.attempts: Counter[str] = Counter()
        self.workers = {f"{pool.name}-{index}": pool.name for pool in POOLS for index in range(1)}
        self.joined = 0

    @rule(
        count=st.integers(1, 6),
        model=st.sampled_from(["auto", "auto", "auto", "small", "org/large", "unheard-of"]),
        tenant=st.sampled_from("ab"),
        prompt=st.sampled_from([0, 10, 300, 9000]),
        max_tokens=st.one_of(st.none(), st.integers(1, 400)),
        slack=st.one_of(st.none(), st.none(), st.floats(-1, 10)),
        prefix=st.lists(st.integers(0, 3), max_size=3),
        scores=SCORES,
        streams=st.booleans(),
    )
    def submit(self, count: int, model: str, slack: float | None, scores: Scores | None, **fields: Any) -> None:
        fields["prompt_tokens"] = fields.pop("prompt")
        fields["prefix"] = tuple(fields["prefix"])
        for _ in range(count):
            name = f"t{len(self.submitted)}"
            deadline = None if slack is None else self.now + slack
            if self.admit(ticket(name, model, deadline=deadline, **fields)) is None:
                continue
            queued = {view.ticket for view in self.planes[0].queued()}
            assert len(queued - self.retried) <= SETTINGS.max_queue
            if scores is not None:
                self.both(lambda control, name=name: control.on_scores(name, scores, self.now))
        self.dispatch()

    @precondition(lambda self: self.waiting)
    @rule(pick=PICK, scores=SCORES)
    def score(self, pick: int, scores: Scores | None) -> None:
        name = sorted(self.waiting)[pick % len(self.waiting)]
        self.both(lambda control: control.on_scores(name, scores, self.now))

    @rule()
    def dispatch(self) -> None:
        for dispatch in self.sent():
            self.attempts[dispatch.ticket] += 1
            again = self.continued[dispatch.ticket] + self.moves[dispatch.ticket]
            assert dispatch.attempt == self.attempts[dispatch.ticket] <= SETTINGS.max_attempts + again
            assert self.workers[dispatch.worker] == dispatch.pool
            if again:
                assert dispatch.pool == self.pool_of[dispatch.ticket], "an answer is one model's"
            self.pool_of[dispatch.ticket] = dispatch.pool

    @precondition(lambda self: self.running)
    @rule(pick=PICK, tokens=st.integers(1, 600))
    def progress(self, pick: int, tokens: int) -> None:
        name = self.pick_running(pick)
        self.seen_token.add(name)
        self.produced[name] = max(self.produced[name], tokens)
        self.both(lambda control: control.on_tokens(name, tokens, self.now))

    @precondition(lambda self: self.running)
    @rule(pick=PICK, tokens=st.integers(0, 600), left=st.floats(0.0, 2000.0))
    def remain(self, pick: int, tokens: int, left: float) -> None:
        name = self.pick_running(pick)
        self.both(lambda control: control.on_remaining(name, tokens, left, self.now))

    @precondition(lambda self: self.running)
    @rule(pick=PICK, usage=st.one_of(st.none(), st.builds(Usage, st.integers(0, 900), st.integers(0, 600))))
    def finish(self, pick: int, usage: Usage | None) -> None:
        name = self.pick_running(pick)
        self.both(lambda control: control.on_finish(name, usage, self.now))
        self.end(name, Result.COMPLETED)

    @precondition(lambda self: self.running)
    @rule(pick=PICK, code=st.sampled_from(["reset", "connect", BUSY]), retryable=st.booleans())
    def fail(self, pick: int, code: str, retryable: bool) -> None:
        name = self.pick_running(pick)
        answer = self.both(lambda control: control.on_worker_error(name, code, self.now, retryable=retryable))
        if isinstance(answer, Requeued):
            assert retryable
            assert name not in self.seen_token, "retried after the client saw a token"
            self.retried.add(name)
            self.wait_again(answer, seen=False)
        else:
            assert isinstance(answer, Rejected)
            self.end(name, Result.FAILED)

    @precondition(lambda self: self.running)
    @rule(pick=PICK, code=st.sampled_from(["reset", "connect"]))
    def fail_in_the_middle(self, pick: int, code: str) -> None:
        name = self.pick_running(pick)
        answer = self.both(
            lambda control: control.on_worker_error(name, code, self.now, retryable=False, continues=True)
        )
        if isinstance(answer, Requeued):
            assert name in self.seen_token, "there was nothing to continue"
            self.continued[name] += 1
            assert self.continued[name] <= SETTINGS.max_continuations
            self.retried.add(name)
            self.wait_again(answer)
        else:
            assert isinstance(answer, Rejected)
            self.end(name, Result.FAILED)

    @precondition(lambda self: self.seen_token & set(self.running))
    @rule(pick=PICK, to=PICK)
    def move(self, pick: int, to: int) -> None:
        names = sorted(self.seen_token & set(self.running))
        name = names[pick % len(names)]
        workers = [w for w, pool in sorted(self.workers.items()) if pool == self.running[name].pool] or ["gone"]
        move = Move(name, workers[to % len(workers)], "test")
        self.moves[name] += 1
        answer = self.both(lambda control: control.on_moved(move, self.now))
        assert isinstance(answer, Requeued)
        self.retried.add(name)
        self.wait_again(answer)

    @precondition(lambda self: self.results)
    @rule(pick=PICK)
    def hear_of_an_ended_ticket(self, pick: int) -> None:
        name = sorted(self.results)[pick % len(self.results)]
        self.both(lambda control: control.on_tokens(name, 10, self.now))
        self.both(lambda control: control.on_finish(name, None, self.now))
        assert self.both(lambda control: control.on_worker_error(name, "reset", self.now, retryable=True)) is None

    @rule(step=st.sampled_from([0.001, 0.01, 0.1, 0.5, 1.0, 4.0]))
    def tick(self, step: float) -> None:
        self.now += step
        tick = self.both(lambda control: control.tick(self.now))
        for rejected in tick.rejected:
            self.given_up(rejected)
        assert tick.next_at is None or tick.next_at > self.now - 1e-9

    @rule(pick=PICK, change=st.sampled_from(CHANGES))
    def change_fleet(self, pick: int, change: WorkerPhase | str) -> None:
        names = sorted(self.workers)
        if change == "join":
            self.joined += 1
            pool = POOLS[pick % len(POOLS)].name
            name = f"{pool}-new-{self.joined}"
            self.workers[name] = pool
            self.both(lambda control: control.add_worker(WorkerSpec(name, pool, f"http://{name}", 2), self.now))
        elif names and change == "leave":
            gone = names[pick % len(names)]
            self.both(lambda control: control.remove_worker(gone, self.now))
            del self.workers[gone]
        elif names:
            phase = WorkerPhase(change)
            self.both(lambda control: control.set_phase(names[pick % len(names)], phase, self.now))

    @rule(pick=PICK, running=st.integers(0, 8), age=st.floats(0, 3))
    def report(self, pick: int, running: int, age: float) -> None:
        if self.workers:
            name = sorted(self.workers)[pick % len(self.workers)]
            reading = WorkerReport(self.now - age, running, 0, 0.5)
            self.both(lambda control: control.on_worker_report(name, reading, self.now))

    @invariant()
    def books_agree(self) -> None:
        if not self.opened:
            return
        control = self.control
        view = control.view(self.now)
        assert {ticket.ticket for ticket in control.running()} == set(self.running)
        overdue = self.waiting - {ticket.ticket for ticket in control.queued()}
        assert {r.ticket for r in control._stranded.given_up} == overdue, "only what a tick will report is missing"
        assert view.queued == len(self.waiting) - len(overdue)
        for pool in view.pools:
            waiting = [ticket for ticket in control.queued() if ticket.pool == pool.name]
            assert pool.queued == len(waiting)
            assert (pool.queued_work > 0) == bool(waiting)
            for worker in pool.workers:
                assert worker.inflight <= 2, "in-flight limit"
                assert worker.work >= 0
                assert worker.removed or self.workers[worker.name] == pool.name

    def teardown(self) -> None:
        if not self.opened:
            return
        for _ in range(200):
            for name in sorted(self.running):
                self.both(lambda control, name=name: control.on_finish(name, None, self.now))
                self.end(name, Result.COMPLETED)
            self.tick(1.0)
            self.dispatch()
        self.close()

    def pick_running(self, pick: int) -> str:
        return sorted(self.running)[pick % len(self.running)]


Machine.TestCase.settings = settings(
    max_examples=100, stateful_step_count=60, phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink]
)
TestControlPlane = Machine.TestCase
