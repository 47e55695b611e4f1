from __future__ import annotations

import math
from itertools import accumulate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.objectives import (
    Deadlines,
    FluidityForm,
    Stream,
    fluid_token_rate,
    fluidity_index,
    miss_quantile,
    share_fluid,
)

PAPER, CODE = FluidityForm.PAPER, FluidityForm.CODE
GAPS = st.lists(st.floats(0.0, 2.0), min_size=1, max_size=30)
LIMIT = st.floats(0.01, 3.0)
FORM = st.sampled_from(FluidityForm)


def _stream(*gaps: float) -> Stream:
    return Stream(tuple(accumulate(gaps)))


def _both(stream: Stream, first_s: float, next_s: float) -> tuple[float, float]:
    deadlines = Deadlines(first_s, next_s)
    return fluidity_index(stream, deadlines, PAPER), fluidity_index(stream, deadlines, CODE)


def test_tokens_at_their_deadlines_are_met() -> None:
    assert _both(_stream(0.3, *[0.1] * 20), 0.3, 0.1) == (1.0, 1.0)


def test_slack_of_early_tokens_pays_for_a_late_one() -> None:
    # 0.2 s left by the first, 0.05 s by the second: the third may take 0.1 + 0.25 s, the fourth then only 0.1 s.
    assert _both(_stream(0.1, 0.05, 0.35, 0.1), 0.3, 0.1) == (1.0, 1.0)
    # Without that slack the third is late: one token of four; 0.36 - 0.25 = 0.11 s is one deadline of the code's.
    assert _both(_stream(0.1, 0.05, 0.36, 0.1), 0.3, 0.1) == (0.75, 0.75)


def test_a_long_stall_misses_one_token_and_many_deadlines() -> None:
    # No slack; 0.55 s without a token are five deadlines of 0.1 s. Met: three tokens.
    paper, code = _both(_stream(0.3, 0.55, 0.1, 0.1), 0.3, 0.1)
    assert paper == pytest.approx(3 / 4)
    assert code == pytest.approx(3 / (3 + 5))


def test_a_late_first_token_by_hand() -> None:
    # 0.25 s late: its own deadline and two of the tokens that should have followed.
    paper, code = _both(_stream(0.55, 0.1), 0.3, 0.1)
    assert paper == pytest.approx(1 / 2)
    assert code == pytest.approx(1 / (1 + 3))
    assert _both(_stream(0.55), 0.3, 0.1) == (0.0, 0.0)


def test_a_miss_takes_the_slack_away_and_deadlines_start_from_the_late_token() -> None:
    # Slack 0.2; the second is late (0.31 > 0.3) and leaves nothing, so the third at 0.11 s is late as well.
    assert _both(_stream(0.1, 0.31, 0.11), 0.3, 0.1)[0] == pytest.approx(1 / 3)


def test_a_prompt_may_have_a_deadline_of_its_own() -> None:
    stream = Stream((0.5, 0.6), first_s=0.5)
    assert fluidity_index(stream, Deadlines(0.1, 0.1)) == 1.0


def test_whoever_got_no_complete_answer_had_no_fluidity() -> None:
    for form in FluidityForm:
        assert fluidity_index(Stream((0.1, 0.2), complete=False), Deadlines(1.0, 1.0), form) == 0.0
        assert fluidity_index(Stream(()), Deadlines(1.0, 1.0), form) == 0.0


@pytest.mark.parametrize("wrong", [(-0.1, 0.1), (0.1, 0.0), (math.nan, 0.1)])
def test_deadlines_are_times(wrong: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="next_s must be above 0"):
        Deadlines(*wrong)


@given(GAPS, LIMIT, LIMIT, st.floats(0, 1), st.floats(0, 1), FORM)
def test_later_deadlines_never_make_it_worse(
    gaps: list[float], first_s: float, next_s: float, more_first: float, more_next: float, form: FluidityForm
) -> None:
    tight = fluidity_index(_stream(*gaps), Deadlines(first_s, next_s), form)
    loose = fluidity_index(_stream(*gaps), Deadlines(first_s + more_first, next_s + more_next), form)
    assert 0.0 <= tight <= loose <= 1.0


@given(GAPS, LIMIT, LIMIT)
def test_the_code_is_never_kinder_than_the_paper_and_agrees_on_who_is_perfect(
    gaps: list[float], first_s: float, next_s: float
) -> None:
    paper, code = _both(_stream(*gaps), first_s, next_s)
    assert code <= paper + 1e-12
    assert (paper == 1.0) == (code == 1.0)


def test_the_token_rate_is_that_of_the_slowest_steady_stream_in_a_hundred() -> None:
    streams = [_stream(0.1, *[0.02] * 30)] * 99
    # Nine in ten of the tokens of each: with slack 0 the slowest 2 of 31 gaps may be late, none differ here.
    assert fluid_token_rate([*streams, _stream(0.1, *[5.0] * 30)], 0.1) == pytest.approx(50.0, rel=1e-4)
    assert fluid_token_rate([*streams[:50], _stream(0.1, *[0.05] * 30)], 0.1) == pytest.approx(20.0, rel=1e-4)


def test_failed_requests_take_the_token_rate_away() -> None:
    good, failed = _stream(0.1, 0.02, 0.02), Stream((), complete=False)
    assert fluid_token_rate([good] * 99 + [failed], 0.1) == pytest.approx(50.0, rel=1e-4)
    assert fluid_token_rate([good] * 98 + [failed] * 2, 0.1) is None
    assert fluid_token_rate([failed], 0.1) is None
    assert fluid_token_rate([], 0.1) is None


@pytest.mark.parametrize("form", FluidityForm)
def test_a_first_token_that_is_late_may_be_beyond_repair(form: FluidityForm) -> None:
    assert fluid_token_rate([_stream(0.5, 0.02, 0.02)], 0.1, form=form) is None


def test_answers_of_one_token_have_any_rate() -> None:
    assert fluid_token_rate([_stream(0.1)], 0.1) == math.inf


@given(st.lists(st.lists(st.floats(0.001, 1.0), min_size=2, max_size=12), min_size=1, max_size=6), FORM)
def test_the_token_rate_is_kept_and_a_higher_one_is_not(streams: list[list[float]], form: FluidityForm) -> None:
    served = [_stream(0.0, *gaps) for gaps in streams]
    rate = fluid_token_rate(served, 0.0, form=form)
    assert rate is not None

    def kept(rate: float) -> bool:
        return all(fluidity_index(stream, Deadlines(0.0, 1.0 / rate), form) >= 0.9 for stream in served)

    assert kept(rate)
    assert not kept(1.001 * rate)


def test_a_load_is_judged_by_its_worst_requests() -> None:
    indices = [1.0] * 99 + [0.0]
    assert share_fluid(indices) == 0.99
    assert miss_quantile(indices, 0.5) == 0.0
    assert miss_quantile(indices, 1.0) == 1.0
    assert share_fluid([]) is None
    assert miss_quantile([]) is None
