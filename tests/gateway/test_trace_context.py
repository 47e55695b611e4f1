from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.trace_context import TraceParent, handed_on

IDS = st.builds(TraceParent, st.integers(1, 2**128 - 1), st.integers(1, 2**64 - 1), st.booleans())
KNOWN = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@given(IDS)
def test_what_is_written_can_be_read(parent: TraceParent) -> None:
    assert TraceParent.parse(parent.header()) == parent


def test_the_example_of_the_standard() -> None:
    parent = TraceParent.parse(KNOWN)
    assert parent == (0x4BF92F3577B34DA6A3CE929D0E0E4736, 0x00F067AA0BA902B7, True)


def test_a_later_version_may_say_more() -> None:
    assert TraceParent.parse(b"01" + KNOWN[2:] + b"-more") == TraceParent.parse(KNOWN)


@pytest.mark.parametrize(
    "header",
    [
        None,
        b"",
        b"ff" + KNOWN[2:],
        KNOWN + b"-more",
        KNOWN.upper(),
        b"00-" + b"0" * 32 + KNOWN[35:],
        KNOWN[:36] + b"0" * 16 + b"-01",
        KNOWN[:-1],
    ],
)
def test_what_is_no_parent_is_taken_for_none(header: bytes | None) -> None:
    assert TraceParent.parse(header) is None


@given(st.binary(max_size=80))
def test_no_header_can_raise(header: bytes) -> None:
    TraceParent.parse(header)


def test_state_goes_on_only_with_its_own_trace() -> None:
    headers = [(b"a", b"1"), (b"traceparent", b"junk"), (b"tracestate", b"v=1")]
    parent = TraceParent(1, 2, False)
    own = (b"traceparent", b"00-" + b"0" * 31 + b"1-" + b"0" * 15 + b"2-00")
    assert handed_on(headers, parent, keep_state=True) == [(b"a", b"1"), (b"tracestate", b"v=1"), own]
    assert handed_on(headers, parent, keep_state=False) == [(b"a", b"1"), own]
