from __future__ import annotations

import math

import pytest

from cli.bench.gateway_report import DIRECT, OURS, RATIO_CONNECTIONS, Delay, Measured, Tables, fill
from cli.report import Report


def tables() -> Tables:
    found = Tables()
    for number, (ours, theirs) in enumerate(((100.0, 50.0), (120.0, 40.0), (90.0, 90.0))):
        for target, rate in ((OURS, ours), ("smg", theirs), (DIRECT, 1000.0)):
            cpu = None if target == DIRECT else 0.2
            for connections in (1, RATIO_CONNECTIONS):
                run = Measured(number, rate if connections == RATIO_CONNECTIONS else 1.0, 0, cpu, cpu and 50.0)
                found.loads.setdefault((target, "plain", connections), []).append(run)
        for target, p99 in ((DIRECT, 1.0 + number), (OURS, 3.0 + number), ("smg", 5.0 + number)):
            found.delays.setdefault((target, "plain"), []).append(Delay(number, 0.5, p99, 0.4, p99 / 2, 0))
    return found


def report(found: Tables) -> dict[str, object]:
    made = Report("bench gateway", 0, {})
    fill(made, found, 0)
    return made.as_dict()


def test_ratios_are_of_the_same_round_and_at_32_connections() -> None:
    ratios = report(tables())["ratios"]
    assert ratios == {"plain": {"smg": {"rps": 2.0, "p99_added": 0.5}}}


def test_ratios_have_intervals_beside_them() -> None:
    found = report(tables())["ratios_ci"]
    assert isinstance(found, dict)
    lo, hi = found["plain"]["smg"]["rps"]
    assert 1.0 <= lo <= 2.0 <= hi <= 3.0


def test_added_latency_is_against_direct_in_the_same_round() -> None:
    found = tables()
    assert found.added(OURS, "plain", "p99") == {0: 2.0, 1: 2.0, 2: 2.0}
    rows = report(found)["results"]
    assert isinstance(rows, list)
    (row,) = [r for r in rows if r["target"] == OURS and r.get("setting") == "open_loop"]
    assert row["metrics"]["p99_added_ms"]["value"] == 2.0
    assert row["metrics"]["p99_ms"]["value"] == 4.0


def test_a_peer_without_measurable_latency_has_no_ratio_of_it() -> None:
    found = tables()
    del found.delays["smg", "plain"]
    ratios = report(found)["ratios"]
    assert ratios == {"plain": {"smg": {"rps": 2.0, "p99_added": None}}}


def test_direct_has_neither_cpu_nor_ratio() -> None:
    made = report(tables())
    rows = made["results"]
    assert isinstance(rows, list)
    direct = [row for row in rows if row["target"] == DIRECT and "connections" in row]
    assert all(row["metrics"]["cpu_s_per_1k"] is None for row in direct)


def test_where_nothing_was_answered_latency_is_infinite() -> None:
    assert math.isinf(Delay.of(0, [], [], 3).p99)
    assert Delay.of(0, [0.001], [0.002], 0).p50 == pytest.approx(2.0)
