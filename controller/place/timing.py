"""What the step model of an engine says of a request's time there, and what its worker's answers say of the model.

A step takes ``a + b·P + c·B + d·S`` seconds (:class:`predictors.latency.model.Profile`). Each term is a feature, in
seconds, of the time to the first token and of the time of each further one; the regression learns how far each has to
be stretched on this worker, starting from one. So it is right from the first request where the profile is, and finds
out which worker is slow.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from controller.place.regression import Recursive
from predictors.latency.model import Profile

__all__ = ["Pace", "Situation", "Steps"]

_LEAST, _MOST = 0.05, 20.0
"""Times what the model says; a prediction beyond is not believed."""
_OUTLIER: Final = 10.0
"""Times what the model says; a measurement beyond counts as this."""
_WEIGHT: Final = 0.1
"""Of one answer, in the mean error."""


@dataclass(frozen=True, slots=True)
class Steps:
    """How long an engine's steps take, and what is known of it."""

    a: float
    b: float
    c: float
    d: float
    overhead_s: float
    budget: int
    """Prefill tokens a step at most."""
    known: bool
    """Whether these were measured of such an engine; else they are a rough start that has to be learned."""

    @classmethod
    def of(cls, profile: Profile) -> Steps:
        """Those of a profile."""
        overhead = profile.request_overhead_s + profile.token_overhead_s
        return cls(profile.a, profile.b, profile.c, profile.d, overhead, profile.max_num_batched_tokens, True)


ROUGH: Final = Steps(0.015, 5e-5, 5e-5, 1e-7, 0.005, 8192, False)
"""Of a model of some ten billion weights on a current accelerator."""


@dataclass(frozen=True, slots=True)
class Situation:
    """What a request would meet on a worker. Sizes in tokens."""

    uncached: float
    """Of its prompt, what has to be read."""
    unread: int
    """Of prompts in front of it."""
    others: int
    """Requests there."""
    held: int
    """Context of those."""
    remaining: int
    """Tokens that those are still expected to produce, in all."""
    prompt: int
    output: int
    """Of its answer, as expected."""


Row = list[float]


def first_row(steps: Steps, at: Situation) -> Row:
    """Seconds to the first token (4,): waiting for the step under way, reading, the batch meanwhile, overhead."""
    read = at.uncached + at.unread
    count = 1.0 if read <= steps.budget else math.ceil(read / steps.budget)
    return [
        (count + 0.5) * steps.a,
        steps.b * read,
        count * (steps.c * at.others + steps.d * at.held),
        steps.overhead_s,
    ]


def token_row(steps: Steps, at: Situation) -> Row:
    """Seconds a further token (4,): a step, those that stay beside it, those that end before it, the context."""
    output = at.output if at.output > 1 else 1
    stay = min(at.remaining / output, float(at.others))
    context = at.held + 0.5 * at.remaining + at.prompt + 0.5 * output
    return [steps.a, steps.c * (1.0 + stay), steps.c * (at.others - stay), steps.d * context]


class Pace:
    """One worker's regressions."""

    __slots__ = ("_answers", "_error", "_first", "_steps", "_token")

    def __init__(self, steps: Steps, doubt: float, forget: float) -> None:
        self._steps = steps
        one, doubts = [1.0] * 4, [doubt] * 4
        self._first = Recursive(one, doubts, forget)
        self._token = Recursive(one, doubts, forget)
        self._error = 0.0
        self._answers = 0

    @property
    def answers(self) -> int:
        """Whole answers it has learned from."""
        return self._answers

    @property
    def error(self) -> float:
        """Running mean of ``|log(predicted / measured)|`` of whole answers."""
        return self._error

    def predict(self, at: Situation) -> tuple[float, float] | None:
        """Seconds to the first token, and a further token; ``None`` where the regression is far off its model."""
        found = []
        for regression, row in ((self._first, first_row(self._steps, at)), (self._token, token_row(self._steps, at))):
            model = row[0] + row[1] + row[2] + row[3]
            w = regression.weights
            seconds = w[0] * row[0] + w[1] * row[1] + w[2] * row[2] + w[3] * row[3]
            if not _LEAST * model <= seconds <= _MOST * model:
                return None
            found.append(seconds)
        return found[0], found[1]

    def learn(self, at: Situation, first_s: float | None, whole_s: float) -> None:
        """An answer of ``at.output`` tokens took so long to its first token, and in all. ``first_s`` is ``None`` where
        the answer came whole: nobody saw when it began, and what is predicted of that stands."""
        said = self.predict(at)
        if said is not None and whole_s > 0.0 and at.output > 0:
            expected = said[0] + (at.output - 1) * said[1]
            error = abs(math.log(expected / whole_s))
            self._error += (_WEIGHT if self._answers else 1.0) * (error - self._error)
        if first_s is not None:
            _learn(self._first, first_row(self._steps, at), first_s)
        elif said is None:
            return
        else:
            first_s = min(said[0], whole_s)
        if at.output > 1:
            _learn(self._token, token_row(self._steps, at), (whole_s - first_s) / (at.output - 1))
        self._answers += 1


def _learn(regression: Recursive, row: Row, seconds: float) -> None:
    """In shares of what the model says, so that long and short ones count alike."""
    model = sum(row)
    regression.learn([value / model for value in row], min(seconds / model, _OUTLIER))
