"""W3C Trace Context: the two headers by which a trace goes on from one service to the next.

https://www.w3.org/TR/trace-context/
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

from upstream.types import Header

__all__ = ["TraceParent", "handed_on"]

_FORM = re.compile(rb"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_SAMPLED = 1


class TraceParent(NamedTuple):
    """Where in which trace a request was made."""

    trace_id: int
    span_id: int
    sampled: bool

    @classmethod
    def parse(cls, header: bytes | None) -> TraceParent | None:
        """``None`` for a header that is not there, or that has to be taken as if it were not."""
        found = None if header is None else _FORM.fullmatch(header.strip())
        if found is None:
            return None
        version, trace, span, flags, more = found.groups()
        trace_id, span_id = int(trace, 16), int(span, 16)
        if version == b"ff" or (version == b"00" and more is not None) or not trace_id or not span_id:
            return None
        return cls(trace_id, span_id, bool(int(flags, 16) & _SAMPLED))

    def header(self) -> bytes:
        """As the value of ``traceparent``."""
        return b"00-%032x-%016x-%02x" % (self.trace_id, self.span_id, self.sampled)


def handed_on(headers: Iterable[Header], parent: TraceParent, *, keep_state: bool) -> list[Header]:
    """The headers with this parent in place of theirs. The state goes on where it belongs to the same trace."""
    dropped = (b"traceparent",) if keep_state else (b"traceparent", b"tracestate")
    return [*(header for header in headers if header[0] not in dropped), (b"traceparent", parent.header())]
