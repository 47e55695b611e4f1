"""What a state machine over control planes keeps: where every ticket is by the decisions so far, and how it ended."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import TypeVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from controller.pipeline import ControlPlane
from controller.types import Admitted, Dispatch, Rejected, Requeued, Result, Ticket

PICK = st.integers(0, 1000)

Answer = TypeVar("Answer")


class Books(RuleBasedStateMachine):
    """Drives ``planes`` with the same events; call :meth:`open` first."""

    def open(self, planes: Sequence[ControlPlane]) -> None:
        self.planes = planes
        self.now = 0.0
        self.submitted: list[str] = []
        self.waiting: set[str] = set()
        self.running: dict[str, Dispatch] = {}
        self.produced: Counter[str] = Counter()
        self.moves: Counter[str] = Counter()
        self.continued: Counter[str] = Counter()
        """Times that a stream went on elsewhere after a failure."""
        self.results: dict[str, Result] = {}

    @property
    def opened(self) -> bool:
        return hasattr(self, "planes")

    @property
    def control(self) -> ControlPlane:
        return self.planes[0]

    def both(self, call: Callable[[ControlPlane], Answer]) -> Answer:
        one, *others = (call(control) for control in self.planes)
        assert all(other == one for other in others), "the same events give the same decisions"
        return one

    def admit(self, made: Ticket) -> Admitted | None:
        """A ticket comes; ``None`` if it is refused."""
        self.submitted.append(made.id)
        answer = self.both(lambda control: control.submit(made, self.now))
        if isinstance(answer, Rejected):
            self.end(made.id, Result.REJECTED)
            return None
        self.waiting.add(made.id)
        return answer

    def sent(self) -> list[Dispatch]:
        """What goes now, which is running from here on."""
        found = []
        for dispatch in self.both(lambda control: control.dispatch(self.now)):
            assert dispatch.ticket in self.waiting, "sent twice, or never admitted"
            self.waiting.discard(dispatch.ticket)
            self.running[dispatch.ticket] = dispatch
            found.append(dispatch)
        return found

    @precondition(lambda self: self.waiting or self.running)
    @rule(pick=PICK)
    def abort(self, pick: int) -> None:
        names = sorted(self.waiting | set(self.running))
        name = names[pick % len(names)]
        self.both(lambda control: control.on_abort(name, self.now))
        self.end(name, Result.ABORTED)

    def given_up(self, rejected: Rejected) -> None:
        """A tick has told of one."""
        begun = self.continued[rejected.ticket] + self.moves[rejected.ticket]
        self.end(rejected.ticket, Result.FAILED if begun else Result.REJECTED)

    def wait_again(self, answer: Requeued, *, seen: bool = True) -> None:
        """A running ticket waits for another worker; what of it was ``seen`` still counts."""
        name = answer.ticket
        del self.running[name]
        self.waiting.add(name)
        if seen:
            (view,) = [view for view in self.control.queued() if view.ticket == name]
            assert (view.output_tokens, view.moved) == (self.produced[name], self.moves[name])

    def end(self, name: str, result: Result) -> None:
        assert name not in self.results, "ended twice"
        self.waiting.discard(name)
        self.running.pop(name, None)
        self.results[name] = result

    def close(self) -> None:
        """Nothing is left, and every ticket has one record, which says what the books say."""
        assert not self.waiting, "somebody waits for ever"
        records = self.both(lambda control: control.drain_records())
        assert Counter(record.ticket for record in records) == Counter(self.submitted), "one record for every ticket"
        assert {record.ticket: record.result for record in records} == self.results
        assert {r.ticket: r.continued for r in records if r.continued} == +(self.continued + self.moves)
        view = self.control.view(self.now)
        assert view.queued == 0
        for pool in view.pools:
            assert pool.queued_work == 0
            for one in pool.workers:
                left = one.inflight, one.work, one.homed, one.kv_tokens, one.kv_expected, one.unread
                assert left == (0,) * 6
