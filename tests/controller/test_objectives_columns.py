from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.objectives import (
    Objective,
    Served,
    ServedColumns,
    attainment,
    availability,
    column_quantile,
    goodput,
    normalised_latency,
    quantile,
)

TIME = st.floats(0.001, 100.0)
SERVED = st.builds(
    lambda ttft, rest, tokens, deadline, ended: Served(
        latency=ttft + rest if ended else None, deadline=deadline, ttft=ttft, output_tokens=tokens
    ),
    TIME,
    TIME,
    st.integers(0, 100),
    st.one_of(st.none(), TIME),
    st.booleans(),
)
LIMIT = st.one_of(st.none(), TIME)


def _columns(requests: list[Served]) -> ServedColumns:
    def column(values: list[float | None], absent: float) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        return np.array([absent if value is None else value for value in values], np.float64)

    return ServedColumns(
        latency=column([request.latency for request in requests], math.nan),
        ttft=column([request.ttft for request in requests], math.nan),
        output_tokens=np.array([request.output_tokens for request in requests], np.int64),
        deadline=column([request.deadline for request in requests], math.inf),
    )


@given(st.lists(SERVED, max_size=30), LIMIT, LIMIT, LIMIT, st.floats(0, 1))
def test_columns_say_what_requests_one_by_one_say(
    requests: list[Served], ttft: float | None, tpot: float | None, e2e: float | None, q: float
) -> None:
    columns, objective = _columns(requests), Objective(ttft, tpot, e2e)
    assert columns.availability() == availability(requests)
    assert columns.attainment(objective) == attainment(requests, objective)
    assert columns.goodput(7.0, objective) == goodput(requests, 7.0, objective)
    assert columns.normalised_latency() == pytest.approx(normalised_latency(requests))
    assert columns.normalised_latency(q) == pytest.approx(normalised_latency(requests, q))


@given(st.lists(st.one_of(st.floats(0, 1e6), st.just(math.inf)), max_size=30), st.floats(0, 1))
def test_quantiles_of_a_column_are_those_of_a_list(values: list[float], q: float) -> None:
    assert column_quantile(np.array(values, np.float64), q) == quantile(values, q)


def test_what_cannot_be() -> None:
    empty = _columns([])
    with pytest.raises(ValueError, match="run"):
        empty.goodput(0.0)
    with pytest.raises(ValueError, match="between"):
        column_quantile(np.ones(3), -0.1)
    with pytest.raises(ValueError, match="one length"):
        ServedColumns(np.ones(2), np.ones(3), np.ones(2, np.int64), np.ones(2))
