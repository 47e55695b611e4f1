"""What a tenant has left, in OpenAI's headers: ``x-ratelimit-{limit,remaining,reset}-{requests,tokens}``."""

from __future__ import annotations

from math import ceil

from controller.limits import Allowance, Standing
from upstream.types import Header

__all__ = ["duration", "rate_limit_headers"]

_REQUESTS = (b"x-ratelimit-limit-requests", b"x-ratelimit-remaining-requests", b"x-ratelimit-reset-requests")
_TOKENS = (b"x-ratelimit-limit-tokens", b"x-ratelimit-remaining-tokens", b"x-ratelimit-reset-tokens")


def rate_limit_headers(standing: Standing | None) -> list[Header]:
    """One triple a rate that is limited. ``reset`` is how long until all of it is there again."""
    if standing is None:
        return []
    requests, tokens = standing
    headers: list[Header] = []
    if requests is not None:
        headers += _triple(requests, _REQUESTS)
    if tokens is not None:
        headers += _triple(tokens, _TOKENS)
    return headers


def duration(seconds: float) -> bytes:
    """As OpenAI writes it: ``120ms``, ``1.2s``, ``6m0s``, ``1h0m0s``; rounded up."""
    if seconds <= 0:
        return b"0s"
    milliseconds = ceil(seconds * 1000)
    if milliseconds < 1000:
        return b"%dms" % milliseconds
    if milliseconds < 60_000:
        return b"%bs" % (b"%.3f" % (milliseconds / 1000)).rstrip(b"0").rstrip(b".")
    minutes, rest = divmod(-(-milliseconds // 1000), 60)
    hours, minutes = divmod(minutes, 60)
    return b"%dh%dm%ds" % (hours, minutes, rest) if hours else b"%dm%ds" % (minutes, rest)


def _triple(allowance: Allowance, names: tuple[bytes, bytes, bytes]) -> tuple[Header, Header, Header]:
    limit, remaining, reset_s = allowance
    return (names[0], b"%d" % limit), (names[1], b"%d" % remaining), (names[2], duration(reset_s))
