"""What a request is expected to cost, in output tokens: its mean and its tail."""

from __future__ import annotations

from typing import Final

from controller.protocols import OrderContext

TAIL_SHARE: Final = 0.1
"""Share of the answers that the tail is the mean of: CVaR at 0.9."""
TYPICAL_TAIL: Final = 3.5
"""Tail over mean where no predictor says: that of a log-normal with a coefficient of variation of 1.09, which is what
repeated answers to one prompt have (TIE, arXiv 2604.00499)."""


def expected_cost(context: OrderContext, tail_weight: float) -> float:
    """E[Y] + β·CVaR₀.₉[Y] of the answer's length Y = min(X, ``max_tokens``), with β = ``tail_weight`` (TIE, §4).

    ``expected_output`` is the pool's own: what it says beside the predictor's corrects the tail, too. Of two requests
    with the same mean the one that may run away is the dearer. With a tail, X is taken to have two values, the mean
    below the 0.9 quantile and that beyond it, which says better than min(E[X], ``max_tokens``) what a limit cuts off;
    without one, the tail is :data:`TYPICAL_TAIL` times the mean.
    """
    mean, limit, scores = float(context.expected_output), context.ticket.max_tokens, context.scores
    tail, predicted = (None, None) if scores is None else (scores.output_tail, scores.output_tokens)
    if tail is None or predicted is None or not predicted > 0:
        tail = TYPICAL_TAIL * mean
        return mean + tail_weight * (tail if limit is None else min(tail, limit))
    tail = max(mean, tail * mean / predicted)
    if limit is None or tail <= limit:
        return mean + tail_weight * tail
    body = max(0.0, mean - TAIL_SHARE * tail) / (1.0 - TAIL_SHARE)
    return (1.0 - TAIL_SHARE) * min(body, limit) + (TAIL_SHARE + tail_weight) * limit
