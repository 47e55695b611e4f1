from __future__ import annotations

from typing import Any

import pytest

from cli.demo.results import Outcome, Stages, measured

WHOLE: dict[str, Any] = {
    "status": 200, "whole": True, "correct": True, "ttft": 0.5, "e2e": 2.0, "deadline": 4.0,
    "in_burst": False, "peak": 0.8, "pool": "large", "late_by": 0.001,
}  # fmt: skip


def _outcome(**changes: Any) -> Outcome:
    return Outcome(**{**WHOLE, **changes})


def _row(*outcomes: Outcome) -> Any:
    return measured("p", outcomes, seconds=10.0, gpu_seconds=30.0, stages=Stages(3, 2, 1), seed=1)


def _value(metric: Any) -> float:
    return metric if isinstance(metric, int | float) else metric.value


def test_every_request_counts_whatever_became_of_it() -> None:
    row = _row(
        _outcome(),
        _outcome(e2e=5.0),  # late
        _outcome(correct=False, in_burst=True),
        _outcome(status=429, whole=False, correct=False, ttft=None, pool=None),
        _outcome(status=502, whole=False, correct=False, ttft=None, pool=None),
        _outcome(status=0, whole=False, correct=False, ttft=None, pool=None),
        _outcome(status=200, whole=False, correct=False),  # broke off in the middle
    )
    counts = {name: row.metrics[name] for name in ("requests", "completed", "rejected", "failed", "lost")}
    assert counts == {"requests": 7, "completed": 3, "rejected": 1, "failed": 2, "lost": 1}
    assert row.lost == 1
    assert _value(row.metrics["availability"]) == pytest.approx(2 / 7)
    assert _value(row.metrics["quality"]) == pytest.approx(2 / 7)
    assert _value(row.metrics["share_of_peak"]) == pytest.approx(1 / (7 * 0.8))
    assert row.metrics["goodput_rps"] == pytest.approx(0.2)
    assert _value(row.metrics["burst_availability"]) == 1.0
    assert _value(row.metrics["burst_share_of_peak"]) == 0.0
    assert (row.metrics["scored"], row.metrics["skipped"], row.metrics["fallbacks"]) == (3, 2, 1)
    assert row.mix == "large 4, none 3"


@pytest.mark.parametrize("peaks", [(None, None), (0.5, None), (0.0, 0.0)])
def test_where_no_peak_is_known_there_is_no_share_of_it(peaks: tuple[float | None, ...]) -> None:
    row = _row(*(_outcome(peak=peak) for peak in peaks))
    assert row.metrics["share_of_peak"] is None
    assert _value(row.metrics["quality"]) == 1.0


def test_nothing_answered_has_no_latency() -> None:
    row = _row(_outcome(status=503, whole=False, correct=False, ttft=None, pool=None))
    assert row.metrics["e2e_p99"] is None
    assert row.metrics["ttft_p50"] is None
    assert row.metrics["burst_availability"] is None
