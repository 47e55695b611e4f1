"""Which headers pass between client and worker, and which belong to the gateway."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from controller.types import Dispatch
from upstream.types import Header

__all__ = ["from_worker", "request_id", "session", "to_worker"]

_HOP_BY_HOP = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)
_NOT_TO_WORKER = _HOP_BY_HOP | {
    b"host",
    b"content-length",
    b"expect",
    b"accept-encoding",  # the gateway reads the answer's events
    b"cookie",
    b"x-vllm-priority",  # only the gateway's own
    b"x-data-parallel-rank",  # which engine of a worker serves a request is not a client's to choose
    b"x-request-id",
}
_NOT_TO_CLIENT = _HOP_BY_HOP | {b"content-length", b"date", b"server", b"x-request-id"}
_OURS = b"x-headway-"
_RATES = b"x-ratelimit-"
_KEYS = frozenset({b"authorization", b"x-api-key"})
_REQUEST_ID = re.compile(rb"[\x21-\x7e]{1,128}")


def request_id(given: bytes | None, otherwise: str) -> bytes:
    """The client's own id where it is one line of at most 128 visible characters."""
    return given if given is not None and _REQUEST_ID.fullmatch(given) else otherwise.encode()


def session(given: bytes | None) -> str | None:
    """The conversation or program that the client says a request belongs to: at most 128 visible characters.

    Raises ValueError for anything else.
    """
    if given is None:
        return None
    if not _REQUEST_ID.fullmatch(given):
        shown = given[:40].decode("latin-1")
        raise ValueError(f"X-Headway-Session must be 1 to 128 visible ASCII characters, not {shown!r}")
    return given.decode("ascii")


def to_worker(
    headers: Iterable[Header], id_: bytes, dispatch: Dispatch, *, keep_key: bool, key: bytes | None = None
) -> list[Header]:
    """The client's headers without those that are not for the worker, and the gateway's own.

    A further attempt has an id of its own, because the worker of the first may still know that one. ``keep_key`` passes
    the client's ``Authorization`` on; ``key`` goes in its place, whatever ``keep_key`` says.
    """
    keep_key = keep_key and key is None
    kept = [
        (name, value)
        for name, value in headers
        if name not in _NOT_TO_WORKER and not name.startswith(_OURS) and (keep_key or name not in _KEYS)
    ]
    kept.append((b"x-request-id", id_ if dispatch.attempt == 1 else b"%b-%d" % (id_, dispatch.attempt)))
    if key is not None:
        kept.append((b"authorization", key))
    if dispatch.priority is not None:
        kept.append((b"x-vllm-priority", b"%d" % dispatch.priority))
    return kept


def from_worker(
    headers: Iterable[Header], id_: bytes, dispatch: Dispatch, rates: Sequence[Header] = ()
) -> list[Header]:
    """The worker's headers for the client, without the framing, and who answered; ``rates`` in place of a worker's own
    rate limits, where the tenant has some."""
    never = (_OURS, _RATES) if rates else _OURS
    kept = [header for header in headers if header[0] not in _NOT_TO_CLIENT and not header[0].startswith(never)]
    kept += (
        (b"x-request-id", id_),
        (b"x-headway-ticket", dispatch.ticket.encode()),
        (b"x-headway-pool", dispatch.pool.encode()),
        (b"x-headway-worker", dispatch.worker.encode()),
        *rates,
    )
    return kept
