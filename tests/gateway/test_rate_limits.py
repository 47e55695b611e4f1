from __future__ import annotations

import pytest

from controller.limits import Allowance, Standing
from gateway.rate_limits import duration, rate_limit_headers


@pytest.mark.parametrize(
    ("seconds", "written"),
    [
        (0.0, b"0s"),
        (1e-6, b"1ms"),
        (0.12, b"120ms"),
        (1.0, b"1s"),
        (1.2, b"1.2s"),
        (59.9994, b"1m0s"),
        (59.999, b"59.999s"),
        (60.0, b"1m0s"),
        (90.2, b"1m31s"),
        (360.0, b"6m0s"),
        (3600.0, b"1h0m0s"),
        (5025.0, b"1h23m45s"),
    ],
)
def test_durations_are_written_as_openai_writes_them(seconds: float, written: bytes) -> None:
    assert duration(seconds) == written


def test_headers_of_what_is_limited() -> None:
    standing = Standing(Allowance(60, 59, 1.0), Allowance(150000, 149984, 0.006))
    assert dict(rate_limit_headers(standing)) == {
        b"x-ratelimit-limit-requests": b"60",
        b"x-ratelimit-remaining-requests": b"59",
        b"x-ratelimit-reset-requests": b"1s",
        b"x-ratelimit-limit-tokens": b"150000",
        b"x-ratelimit-remaining-tokens": b"149984",
        b"x-ratelimit-reset-tokens": b"6ms",
    }


def test_no_headers_of_what_is_not() -> None:
    assert rate_limit_headers(None) == []
    assert [name for name, _ in rate_limit_headers(Standing(None, Allowance(1, 1, 0.0)))] == [
        b"x-ratelimit-limit-tokens",
        b"x-ratelimit-remaining-tokens",
        b"x-ratelimit-reset-tokens",
    ]
