"""Streams move while workers slow down, drain, die and come back: none is lost, doubled, or moved for ever."""

from __future__ import annotations

from collections import Counter

from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, rule

from controller.settings import ControlSettings
from controller.types import Move, Requeued, Result, Scores, Usage, WorkerPhase, WorkerReport, WorkerSpec
from tests.controller.books import PICK, Books
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


class Machine(Books):
    """A control plane that moves streams, and workers with paces of their own."""

    @initialize(choices=CHOICES, paces=st.lists(PACES, min_size=3, max_size=3))
    def start(self, choices: dict[str, str], paces: list[float]) -> None:
        self.open([plane(choices, workers=3, max_inflight=SEATS, settings=SETTINGS)])
        self.paces = {f"small-{index}": pace for index, pace in enumerate(paces)}
        self.phases = dict.fromkeys(self.paces, WorkerPhase.READY)
        self.joined = 0
        self.lengths: dict[str, int] = {}

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
            answer = self.admit(ticket(name, tenant=tenant, priority=priority))
            if answer is not None and answer.wants_scores:
                self.control.on_scores(name, Scores(length * guess, length * guess), self.now)
        self.dispatch()

    def dispatch(self) -> None:
        for dispatch in self.sent():
            assert self.phases[dispatch.worker] is WorkerPhase.READY

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
            self.given_up(rejected)
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
        answer = self.control.on_moved(move, self.now)
        assert isinstance(answer, Requeued)
        self.wait_again(answer)

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
                self.continued[name] += begun
                self.wait_again(answer, seen=begun)
            else:
                self.end(name, Result.FAILED)

    @rule(pick=PICK, others=st.integers(0, 3), kv=st.floats(0, 1))
    def report(self, pick: int, others: int, kv: float) -> None:
        names = sorted(self.phases)
        name = names[pick % len(names)]
        ours = sum(dispatch.worker == name for dispatch in self.running.values())
        self.control.on_worker_report(name, WorkerReport(self.now, ours + others, 0, kv), self.now)

    @invariant()
    def books_agree(self) -> None:
        if not self.opened:
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
        if not self.opened:
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
        self.close()


Machine.TestCase.settings = settings(
    max_examples=120,
    stateful_step_count=30,
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink],
)
TestMigration = Machine.TestCase
