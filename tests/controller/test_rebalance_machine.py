"""Streams move while workers slow down, drain, die and come back: none is lost, doubled, or moved for ever."""

from __future__ import annotations

from collections import Counter

from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from controller.settings import ControlSettings
from controller.types import (
    Admitted,
    Dispatch,
    Move,
    Rejected,
    Requeued,
    Result,
    Scores,
    Usage,
    WorkerPhase,
    WorkerReport,
    WorkerSpec,
)
from tests.controller.planes import plane, ticket

SEATS, MAX_MOVES = 3, 2
SETTINGS = ControlSettings(max_queue=20, max_queue_s=30.0, breaker_errors=2, breaker_s=2.0, default_output_tokens=400)
OPTIONS = {"interval_s": 0.5, "max_moves": MAX_MOVES, "min_gain_s": 0.2, "settle_s": 1.0, "min_remaining": 8}
CHOICES = st.fixed_dictionaries(
    {
        "order": st.sampled_from(["fcfs", "length_rank"]),
        "fairness": st.sampled_from(["none", "vtc"]),
        "place": st.sampled_from(["round_robin", "least_load"]),
        "rebalance": st.just(("migrate", OPTIONS)),
    }
)
PACES = st.sampled_from([0.005, 0.01, 0.02, 0.1])
PICK = st.integers(0, 1000)


class Machine(RuleBasedStateMachine):
    """A control plane that moves streams, workers with paces of their own, and books of what must be true."""

    @initialize(choices=CHOICES, paces=st.lists(PACES, min_size=3, max_size=3))
    def start(self, choices: dict[str, str], paces: list[float]) -> None:
        self.control = plane(choices, workers=3, max_inflight=SEATS, settings=SETTINGS)
        self.paces = {f"small-{index}": pace for index, pace in enumerate(paces)}
        self.phases = dict.fromkeys(self.paces, WorkerPhase.READY)
        self.now = 0.0
        self.joined = 0
        self.lengths: dict[str, int] = {}
        self.produced: Counter[str] = Counter()
        self.waiting: set[str] = set()
        self.running: dict[str, Dispatch] = {}
        self.moves: Counter[str] = Counter()
        self.failures: Counter[str] = Counter()
        self.results: dict[str, Result] = {}

    @rule(
        length=st.sampled_from([5, 50, 400, 4000, 4000]),
        guess=st.sampled_from([0.5, 1.0, 3.0]),
        priority=st.sampled_from([-1, 0, 0, 1]),
        tenant=st.sampled_from("ab"),
        count=st.integers(1, 4),
    )
    def submit(self, length: int, guess: float, priority: int, tenant: str, count: int) -> None:
        for _ in range(count):
            name = f"t{len(self.lengths)}"
            self.lengths[name] = length
            answer = self.control.submit(ticket(name, tenant=tenant, priority=priority), self.now)
            if isinstance(answer, Rejected):
                self.end(name, Result.REJECTED)
                continue
            assert isinstance(answer, Admitted)
            self.waiting.add(name)
            if answer.wants_scores:
                self.control.on_scores(name, Scores(length * guess, length * guess), self.now)
        self.dispatch()

    def dispatch(self) -> None:
        for dispatch in self.control.dispatch(self.now):
            assert dispatch.ticket in self.waiting, "sent twice, or never admitted"
            assert self.phases[dispatch.worker] is WorkerPhase.READY
            self.waiting.discard(dispatch.ticket)
            self.running[dispatch.ticket] = dispatch

    @rule(steps=st.integers(1, 12), refuses=st.integers(0, 3))
    def go_on(self, steps: int, refuses: int) -> None:
        """Quarters of a second: answers grow at their workers' paces and end, moves are made or refused."""
        for _ in range(steps):
            self.now += 0.25
            for name, dispatch in list(self.running.items()):
                total = self.produced[name] + max(1, round(0.25 / self.paces[dispatch.worker]))
                self.produced[name] = min(total, self.lengths[name])
                if self.produced[name] == self.lengths[name]:
                    self.control.on_finish(name, Usage(100, self.lengths[name]), self.now)
                    self.end(name, Result.COMPLETED)
                else:
                    self.control.on_tokens(name, self.produced[name], self.now)
            self.tick(refuses)
            self.dispatch()

    def tick(self, refuses: int) -> None:
        seats = {one.name: one for pool in self.control.view(self.now).pools for one in pool.workers}
        tick = self.control.tick(self.now)
        for rejected in tick.rejected:
            begun = self.moves[rejected.ticket] + self.failures[rejected.ticket] > 0
            self.end(rejected.ticket, Result.FAILED if begun else Result.REJECTED)
        arriving: Counter[str] = Counter()
        for move in tick.moves:
            source = self.running[move.ticket].worker
            assert self.produced[move.ticket] > 0, "nothing of it was seen"
            if move.worker is not None:
                arriving[move.worker] += 1
                assert move.worker != source
                assert seats[move.worker].serves
                assert seats[move.worker].inflight + arriving[move.worker] <= seats[move.worker].limit == SEATS
            if len(move.ticket) % 4 < refuses and self.lengths[move.ticket] != 400:
                continue
            self.make(move)

    def make(self, move: Move) -> None:
        self.moves[move.ticket] += 1
        assert self.moves[move.ticket] <= MAX_MOVES, "ping-pong"
        assert isinstance(self.control.on_moved(move, self.now), Requeued)
        del self.running[move.ticket]
        self.waiting.add(move.ticket)
        (seen,) = [one for one in self.control.queued() if one.ticket == move.ticket]
        assert (seen.output_tokens, seen.moved) == (self.produced[move.ticket], self.moves[move.ticket])

    @rule(pick=PICK, change=st.sampled_from(["drain", "ready", "ready", "kill", "leave", "join", "slow"]), pace=PACES)
    def change_fleet(self, pick: int, change: str, pace: float) -> None:
        names = sorted(self.phases)
        name = names[pick % len(names)]
        if change == "join":
            self.joined += 1
            name = f"new-{self.joined}"
            self.phases[name], self.paces[name] = WorkerPhase.READY, pace
            self.control.add_worker(WorkerSpec(name, "small", f"http://{name}", SEATS), self.now)
        elif change == "leave" and len(names) > 1:
            del self.phases[name]
            self.control.remove_worker(name, self.now)
        elif change == "slow":
            self.paces[name] = pace
        elif change == "kill":
            self.lose(name)
        elif change in ("drain", "ready"):
            self.phases[name] = WorkerPhase(change if change == "ready" else "draining")
            self.control.set_phase(name, self.phases[name], self.now)
        self.dispatch()

    def lose(self, worker: str) -> None:
        """Everything that runs there fails at once."""
        for name in [name for name, dispatch in self.running.items() if dispatch.worker == worker]:
            begun = self.produced[name] > 0
            answer = self.control.on_worker_error(name, "reset", self.now, retryable=not begun, continues=begun)
            if isinstance(answer, Requeued):
                self.failures[name] += begun
                del self.running[name]
                self.waiting.add(name)
            else:
                self.end(name, Result.FAILED)

    @precondition(lambda self: self.waiting or self.running)
    @rule(pick=PICK)
    def abort(self, pick: int) -> None:
        names = sorted(self.waiting | set(self.running))
        name = names[pick % len(names)]
        self.control.on_abort(name, self.now)
        self.end(name, Result.ABORTED)

    @rule(pick=PICK, others=st.integers(0, 3), kv=st.floats(0, 1))
    def report(self, pick: int, others: int, kv: float) -> None:
        names = sorted(self.phases)
        name = names[pick % len(names)]
        ours = sum(dispatch.worker == name for dispatch in self.running.values())
        self.control.on_worker_report(name, WorkerReport(self.now, ours + others, 0, kv), self.now)

    @invariant()
    def books_agree(self) -> None:
        if not hasattr(self, "control"):
            return
        running = {one.ticket: one for one in self.control.running()}
        assert set(running) == set(self.running)
        assert {name: one.worker for name, one in running.items()} == {n: d.worker for n, d in self.running.items()}
        assert all(one.output_tokens == self.produced[name] for name, one in running.items()), "tokens fell or grew"
        for pool in self.control.view(self.now).pools:
            for one in pool.workers:
                assert one.work >= 0
                assert one.inflight <= SEATS

    def teardown(self) -> None:
        if not hasattr(self, "control"):
            return
        for _ in range(400):
            if not (self.waiting or self.running):
                break
            self.go_on(1, 0)
        for name in sorted(self.running):
            self.control.on_finish(name, None, self.now)
            self.end(name, Result.COMPLETED)
        for _ in range(5):
            self.now += 10.0
            self.tick(0)
            self.dispatch()
            for name in sorted(self.running):
                self.control.on_finish(name, None, self.now)
                self.end(name, Result.COMPLETED)
        assert not self.waiting, "somebody waits for ever"
        records = {record.ticket: record for record in self.control.drain_records()}
        assert {name: record.result for name, record in records.items()} == self.results
        assert set(self.results) == set(self.lengths), "one end for every ticket"
        again = {name: self.moves[name] + self.failures[name] for name in self.lengths}
        assert {name: record.continued for name, record in records.items()} == again
        view = self.control.view(self.now)
        assert view.queued == 0
        assert all(
            pool.queued_work == 0 and one.work == one.inflight == 0 for pool in view.pools for one in pool.workers
        )

    def end(self, name: str, result: Result) -> None:
        assert name not in self.results, "ended twice"
        self.waiting.discard(name)
        self.running.pop(name, None)
        self.results[name] = result


Machine.TestCase.settings = settings(
    max_examples=120,
    stateful_step_count=30,
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink],
)
TestMigration = Machine.TestCase
