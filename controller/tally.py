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


class Tally:
    """Counters by (stage, implementation, outcome), and of the reasons for falling back. They only grow."""

    def __init__(self) -> None:
        self._outcomes: Counter[tuple[str, str, str]] = Counter()
        self._reasons: Counter[tuple[str, str, str]] = Counter()

    def expect(self, stage: str, by: str) -> None:
        """Show this implementation's counters from the start, at zero."""
        for outcome in Outcome:
            self._outcomes[stage, by, outcome.value] += 0

    def count(self, stage: str, by: str, outcome: Outcome, reason: str | None = None) -> None:
        """One more."""
        self._outcomes[stage, by, outcome._value_] += 1  # ``value`` is a property in Python, four times as slow
        if reason is not None:
            self._reasons[stage, by, reason] += 1

    def outcomes(self) -> Mapping[tuple[str, str, str], int]:
        """(stage, implementation, outcome) → times."""
        return dict(self._outcomes)

    def reasons(self) -> Mapping[tuple[str, str, str], int]:
        """(stage, implementation, reason for falling back) → times."""
        return dict(self._reasons)
