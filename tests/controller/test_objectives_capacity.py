from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.objectives import CapacitySearch, search_capacity


def _tried(limit: float, search: CapacitySearch) -> tuple[list[float], float | None]:
    asked: list[float] = []

    def passes(rate: float) -> bool:
        asked.append(rate)
        return rate <= limit

    return asked, search_capacity(passes, search)


def test_bisection_by_hand() -> None:
    # Bounds 0–8; 4 passes (not above 0.8·8); 6 fails; 5 passes (above 0.8·6, but 6 has failed); 5.5 fails;
    # 5.25 fails and leaves 5–5.25, which is less than 5 % of it.
    asked, capacity = _tried(5.2, CapacitySearch(4.0))
    assert asked == [4.0, 6.0, 5.0, 5.5, 5.25]
    assert capacity == 5.0


def test_the_upper_bound_doubles_where_it_was_too_low() -> None:
    asked, capacity = _tried(30.0, CapacitySearch(1.0, iterations=20))
    # 1 of 2, 1.5, then 1.75 > 0.8·2 doubles the bound to 4, and so on.
    assert asked[:4] == [1.0, 1.5, 1.75, 2.88]
    assert capacity == pytest.approx(30.0, rel=0.06)
    assert capacity is not None
    assert capacity <= 30.0


def test_it_ends_after_so_many_rates() -> None:
    asked, _ = _tried(1e9, CapacitySearch(1.0, iterations=3))
    assert len(asked) == 3


def test_it_ends_where_rounding_leaves_nothing_to_try() -> None:
    asked, capacity = _tried(0.0, CapacitySearch(0.02, iterations=50))
    assert asked == [0.02, 0.01]
    assert capacity is None


def test_known_results_are_not_asked_for_again() -> None:
    first = CapacitySearch(4.0)
    asked, capacity = _tried(5.2, first)
    again, same = _tried(5.2, CapacitySearch(4.0, known=first.results))
    assert (again, same) == ([], capacity)
    partly, same = _tried(5.2, CapacitySearch(4.0, known={4.0: True, 6.0: False}))
    assert (partly, same) == (asked[2:], capacity)


def test_nothing_can_be_recorded_after_the_end() -> None:
    search = CapacitySearch(1.0, iterations=1)
    search.record(True)
    assert search.next_rate is None
    with pytest.raises(ValueError, match="ended"):
        search.record(True)


@pytest.mark.parametrize(
    ("start", "options"),
    [(0.0, {}), (float("inf"), {}), (1.0, {"granularity": 0.0}), (1.0, {"iterations": 0})],
)
def test_settings_out_of_range(start: float, options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"search starts|granularity"):
        CapacitySearch(start, **options)  # type: ignore[arg-type]


@given(st.floats(0.5, 200.0), st.floats(0.5, 50.0))
def test_what_it_finds_passed_and_lies_close_below_the_truth(limit: float, start: float) -> None:
    asked, capacity = _tried(limit, CapacitySearch(start, iterations=60))
    assert len(set(asked)) == len(asked)
    assert capacity is not None
    assert capacity <= limit
    assert capacity >= 0.9 * limit - 0.02
