"""How often each implementation scored, was skipped, or fell back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from enum import StrEnum


class Outcome(StrEnum):
    """What became of one chance to decide."""

    SCORED = "scored"
    SKIPPED = "skipped"
    """Nothing to decide: one pool only, or nothing queued."""
    FALLBACK = "fallback"


class Count:
    """One counter, for those who count often: nothing has to be looked up."""

    __slots__ = ("times",)

    def __init__(self) -> None:
        self.times = 0


class Tally:
    """Counters by (stage, implementation, outcome), and of the reasons for falling back. They only grow."""

    def __init__(self) -> None:
        self._outcomes: dict[tuple[str, str, str], Count] = {}
        self._reasons: Counter[tuple[str, str, str]] = Counter()

    def expect(self, stage: str, by: str) -> None:
        """Show this implementation's counters from the start, at zero."""
        for outcome in Outcome:
            self.counter(stage, by, outcome)

    def counter(self, stage: str, by: str, outcome: Outcome) -> Count:
        """The counter of this outcome; there is one from now on."""
        return self._outcomes.setdefault((stage, by, outcome.value), Count())

    def count(self, stage: str, by: str, outcome: Outcome, reason: str | None = None) -> None:
        """One more."""
        self.counter(stage, by, outcome).times += 1
        if reason is not None:
            self._reasons[stage, by, reason] += 1

    def outcomes(self) -> Mapping[tuple[str, str, str], int]:
        """(stage, implementation, outcome) → times."""
        return {key: count.times for key, count in self._outcomes.items()}

    def reasons(self) -> Mapping[tuple[str, str, str], int]:
        """(stage, implementation, reason for falling back) → times."""
        return dict(self._reasons)
