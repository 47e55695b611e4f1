"""Recursive least squares over a handful of features, in plain Python: cheap enough to be asked for every worker."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["Recursive"]


class Recursive:
    """Linear regression that learns one row at a time and slowly forgets.

    It starts from the prior mean ``start`` (k,) with the prior standard deviations ``doubt`` (k,), in units of the
    noise of a row: the first rows move it only as far as they should. Rows are weighed by ``forget`` to the power of
    their age; what is known is never forgotten beyond the prior, so that silence of a feature does not blow up its
    doubt.
    """

    __slots__ = ("_forget", "_most", "rows", "spread", "weights")

    def __init__(self, start: Sequence[float], doubt: Sequence[float], forget: float = 0.998) -> None:
        if len(start) != len(doubt) or not start:
            raise ValueError(f"{len(start)} starting values but {len(doubt)} doubts")
        if not 0.0 < forget <= 1.0:
            raise ValueError(f"forget must be in (0, 1], not {forget}")
        self.weights = [float(value) for value in start]
        self._most = [float(value) ** 2 for value in doubt]
        self.spread = [[self._most[i] if i == j else 0.0 for j in range(len(start))] for i in range(len(start))]
        """Covariance of the weights (k, k), in units of the variance of a row's noise."""
        self._forget = forget
        self.rows = 0

    def predict(self, row: Sequence[float]) -> float:
        """Of one row (k,)."""
        return sum([weight * value for weight, value in zip(self.weights, row, strict=True)])

    def learn(self, row: Sequence[float], target: float) -> None:
        """One row (k,) and what came of it."""
        spread, weights = self.spread, self.weights
        gain = [sum([a * value for a, value in zip(line, row, strict=True)]) for line in spread]
        scale = 1.0 + sum([g * value for g, value in zip(gain, row, strict=True)])
        error = target - self.predict(row)
        for i, g in enumerate(gain):
            weights[i] += g * error / scale
            line, share = spread[i], g / scale
            for j, other in enumerate(gain):
                line[j] -= share * other
        self._age()
        self.rows += 1

    def _age(self) -> None:
        """Older rows count for less. Rows and columns are scaled alike, which keeps the matrix positive."""
        spread, grown = self.spread, 1.0 / self._forget
        factors = [
            min(grown, most / line[i]) ** 0.5 if line[i] > 0.0 else 1.0
            for i, (line, most) in enumerate(zip(spread, self._most, strict=True))
        ]
        for line, mine in zip(spread, factors, strict=True):
            for j, theirs in enumerate(factors):
                line[j] *= mine * theirs
