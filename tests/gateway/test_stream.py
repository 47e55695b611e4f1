from __future__ import annotations

import itertools
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.types import Usage
from gateway.stream import StreamMeter, usage_in
from tests.gateway.harness import DONE, event, usage_event

COUNTED = {"prompt_tokens": 7, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 5}}
EVENTS = st.one_of(
    st.text(max_size=8).map(event),
    st.sampled_from(["usage", '"usage"', '"error"', "data: x\n\n", '{"choices":[],"usage":{}}']).map(event),
    st.just(event("x", usage=COUNTED)),
    st.just(event("x", usage=None)),
    st.just(b": keep-alive\n\n"),
    st.just(b'event: ping\ndata: not json "usage"\n\n'),
)


def cut(stream: bytes, points: list[int]) -> list[bytes]:
    at = sorted({min(point, len(stream)) for point in points} | {0, len(stream)})
    return [stream[a:b] for a, b in itertools.pairwise(at)]


def through(meter: StreamMeter, chunks: list[bytes]) -> bytes:
    return b"".join([meter.feed(chunk) for chunk in chunks]) + meter.end()


@settings(max_examples=1000)
@given(st.lists(EVENTS, max_size=12), st.lists(st.integers(0, 1500), max_size=16), st.booleans(), st.booleans())
def test_events_are_equal_byte_for_byte_once_the_gateways_own_is_removed(
    events: list[bytes], points: list[int], asked: bool, crlf: bool
) -> None:
    def ending(events: list[bytes]) -> bytes:
        return b"".join(e.replace(b"\n\n", b"\r\n\r\n") if crlf else e for e in events)

    meter = StreamMeter(drop_usage=asked)
    sent = ending([*events, usage_event(), DONE])
    kept = ending([*events, DONE]) if asked else sent
    assert through(meter, cut(sent, points)) == kept
    assert meter.usage == Usage(7, 3)
    assert meter.error is None


def test_tokens_are_counted_by_events() -> None:
    meter = StreamMeter(drop_usage=False)
    meter.feed(event("a") + event("b"))
    meter.feed(event("c")[:-1])
    assert meter.tokens == 2
    meter.feed(b"\n")
    assert meter.tokens == 3


@pytest.mark.parametrize("code, status", [(500, 500), (400, 400), ("BadRequestError", 500), (None, 500)])
def test_an_error_inside_the_stream_is_seen(code: object, status: int) -> None:
    meter = StreamMeter(drop_usage=True)
    failed = b"data: " + json.dumps({"error": {"message": "x", "code": code}}).encode() + b"\n\n"
    assert through(meter, [failed]) == failed
    assert meter.error == status


def test_usage_with_and_without_its_details() -> None:
    assert usage_in({"usage": COUNTED}) == Usage(7, 3, 5)
    assert usage_in({"usage": {"prompt_tokens": 7}}) == Usage(7, 0)
    assert usage_in({"usage": None}) is None
    assert usage_in({"usage": {"prompt_tokens": "7"}}) is None
    assert usage_in({"usage": {"prompt_tokens": 7, "completion_tokens": -1}}) is None, "a counter never falls"
    assert usage_in({"usage": {"prompt_tokens": 2**63}}) is None, "no column holds it"
    assert usage_in({"usage": {"prompt_tokens": 1, "prompt_tokens_details": None}}) == Usage(1, 0)
