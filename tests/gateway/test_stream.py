from __future__ import annotations

import itertools
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.types import Usage
from gateway.stream import StreamMeter, usage_in
from tests.gateway.harness import DONE, event, usage_event
from upstream.sse import split

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


def finish(index: int = 0, **more: object) -> bytes:
    """The last event of a choice, as vLLM writes it."""
    choice = {"index": index, "delta": {"content": ""}, "finish_reason": "stop"}
    chunk = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "p-model"}
    return b"data: " + json.dumps({**chunk, "choices": [choice], **more}).encode() + b"\n\n"


def usage_with(**more: object) -> bytes:
    return b"data: " + json.dumps({"id": "chatcmpl-1", "choices": [], "usage": COUNTED, **more}).encode() + b"\n\n"


@settings(max_examples=1000)
@given(
    st.lists(EVENTS | st.integers(0, 2).map(finish), max_size=10),
    st.lists(st.integers(0, 2000), max_size=16),
    st.booleans(),
    st.booleans(),
)
def test_the_fingerprint_of_the_event_that_is_taken_out_goes_where_it_would_have_been(
    events: list[bytes], points: list[int], stamped: bool, keep_alive: bool
) -> None:
    """Without ``include_usage`` vLLM writes it on the event with the finish reason."""
    more = {"system_fingerprint": "fp-1"} if stamped else {}
    between = [b": keep-alive\n\n"] if keep_alive else []
    sent = b"".join([*events, finish(), usage_with(**more), *between, DONE])
    kept = b"".join([*events, finish(), *between, DONE])
    passed = through(StreamMeter(drop_usage=True), cut(sent, points))
    if not stamped:
        assert passed == kept
        return
    assert passed.count(b"fp-1") == 1
    assert passed.replace(b',"system_fingerprint":"fp-1"', b"") == kept
    (marked,) = [event for event in split(passed) if b"fp-1" in event]
    assert json.loads(marked.removeprefix(b"data: ")) == json.loads(finish(**more).removeprefix(b"data: "))


@pytest.mark.parametrize("dropped", [False, True])
def test_usage_in_every_event_stays_where_the_client_asked_for_it(dropped: bool) -> None:
    sent = [event(text, usage=COUNTED) for text in "abc"] + [finish(usage=COUNTED)]
    meter = StreamMeter(drop_usage=dropped)
    assert through(meter, [*sent, usage_event(), DONE]) == b"".join([*sent, b"" if dropped else usage_event(), DONE])
    assert meter.usage == Usage(7, 3)


def test_a_stream_that_ends_without_a_usage_keeps_its_last_event() -> None:
    assert through(StreamMeter(drop_usage=True), [event("a"), finish()]) == event("a") + finish()


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


def test_a_screen_sees_whole_events_and_what_it_takes_out_is_not_looked_at() -> None:
    seen: list[bytes] = []

    def screen(events: bytes) -> bytes:
        seen.append(events)
        return events.replace(b'data: {"error":{"code":500}}\n\n', b"")

    meter = StreamMeter(drop_usage=False, screen=screen)
    out = meter.feed(b'data: {"a":1}\n\ndata: {"err')
    out += meter.feed(b'or":{"code":500}}\n\n')
    assert seen == [b'data: {"a":1}\n\n', b'data: {"error":{"code":500}}\n\n']
    assert (out, meter.error) == (b'data: {"a":1}\n\n', None)


def test_the_event_that_was_kept_back_can_be_had_when_the_stream_breaks_off() -> None:
    last = b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n'
    meter = StreamMeter(drop_usage=True)
    assert meter.feed(last + b'data: {"choices":[],"us') == b""
    assert (meter.cut(), meter.cut()) == (last, b"")
