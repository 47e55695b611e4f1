"""Mid-stream continuation: one unbroken stream for the client, whatever becomes of the worker that began it.

    events of the worker ──▶ Continuation.take ──▶ the client's, without what only the gateway asked for
                                    │ kept, within bounds
    the worker dies ──▶ after_failure ── Ending   only the stream's last events are missing: here they are
                                      ├─ Resume   ask another worker for the rest; take() splices its events
                                      └─ Refused  why it would be wrong; the stream ends with an error event

No sockets and no clocks: the relay brings the events, and carries out what is said here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from controller.types import Dispatch
from gateway.continuation_journal import Journal, Ledger, Produced
from gateway.continuation_requests import Request, again, from_text, from_tokens, holdback, with_ids
from gateway.continuation_rules import Mode, refusal, stops, text_refusal
from gateway.continuation_splice import SeamMismatch, Splice, ending
from gateway.endpoints import Endpoint
from gateway.openai import Call
from upstream import sse

__all__ = ["Continuation", "Continuations", "Ending", "Mode", "Refused", "Resume"]

_ABORTED = re.compile(rb'"finish_reason": ?"abort"')
"""vLLM's word for an answer that it gave up, as it does when it is told to stop."""
_ERROR = re.compile(rb'\A(?:event: ?error\s+)?data: ?\{\s*"error"')


@dataclass(frozen=True, slots=True)
class Ending:
    """The answer was complete but for its last events. ``usage`` is as in OpenAI's objects, where it is known."""

    events: bytes
    usage: Mapping[str, Any] | None


@dataclass(frozen=True, slots=True)
class Resume:
    """The rest can be had of another worker."""

    request: Request
    mode: Mode

    @property
    def path(self) -> str:
        """Where to ask for it."""
        return self.request.path

    def body(self, dispatch: Dispatch) -> bytes:
        """What to ask."""
        return self.request.body(dispatch)


@dataclass(frozen=True, slots=True)
class Refused:
    """The stream cannot go on. ``why`` completes the sentence "it cannot be continued, because …"."""

    why: str


class Continuations:
    """What all streams of a process share. ``stream_bytes`` bounds one stream's journal, ``total_bytes`` all."""

    def __init__(self, mode: Mode, stream_bytes: int, total_bytes: int) -> None:
        self.mode = mode
        self._stream_bytes = stream_bytes
        self._ledger = Ledger(total_bytes)

    @property
    def held(self) -> int:
        """Bytes held for the streams that run."""
        return self._ledger.used

    def open(self, call: Call) -> Continuation | None:
        """Begin to keep a stream; ``None`` for what is no stream, or with continuation switched off."""
        if self.mode is Mode.OFF or not call.streams:
            return None
        why = refusal(call)
        return Continuation(call, self.mode, self._ledger, self._stream_bytes, why)


class Continuation:
    """One stream."""

    __slots__ = ("_call", "_given", "_journal", "_mode", "_resume", "_splice", "_why", "asks", "broken", "pending")

    def __init__(self, call: Call, mode: Mode, ledger: Ledger, limit: int, why: str | None) -> None:
        self._call = call
        self._why = why
        fields = call.document.fields
        self._given = bool(fields.get("return_token_ids"))
        self._mode = Mode.TEXT if call.ticket.needs.modalities or (self._given and stops(fields)) else mode
        self.asks = why is None and self._mode is Mode.TOKENS and "return_token_ids" not in fields
        """The gateway asks the worker for token ids, and takes them out again."""
        self._journal = None if why else Journal(ledger, limit, holdback(call), strips=self.asks)
        self._splice: Splice | None = None
        self._resume: Resume | None = None
        self.broken: str | None = None
        """The worker itself gave the answer up: a code for the record. What it said of that is held back."""
        self.pending: Resume | None = None
        """What to ask the next worker."""

    @property
    def screen(self) -> Callable[[bytes], bytes] | None:
        """:meth:`take`, where there is anything to it."""
        return None if self._journal is None else self.take

    @property
    def kept(self) -> int:
        """Tokens of earlier workers that the present one goes on from."""
        return 0 if self._resume is None else self._resume.request.kept

    def body(self, body: bytes) -> bytes:
        """The body of the request's first part, asking for what continuation needs."""
        return with_ids(body) if self.asks else body

    def take(self, events: bytes) -> bytes:
        """Whole events of the worker → whole events for the client. After one that ends it badly, see ``broken``."""
        if self._journal is None:
            return events
        if b'"error"' in events or b'"abort"' in events:
            events = self._sound(events)
        if self._splice is None:
            return self._journal.take(events) if events else b""
        try:
            spliced = self._splice.take(events)
        except SeamMismatch:
            self._why, self.broken = "the other worker answered differently", "seam_mismatch"
            return b""
        self._journal.book()
        return spliced

    def finished(self) -> bool:
        """Whether the stream that has ended said that it had: a clean end of the connection proves nothing."""
        if self._journal is None or self._journal.ended or self._journal.full:
            return True
        produced = self._produced()
        return produced.done or produced.finish_reason is not None or not (produced.head or self._splice)

    def after_failure(self) -> Ending | Resume | Refused:
        """What to do, now that the worker is gone."""
        if self._why is not None or self._journal is None:
            return Refused(self._why or "it is no stream")
        self.broken = self.pending = None
        if self._journal.full:
            return Refused("it is too long to be kept")
        produced = self._produced()
        if produced.finish_reason is not None:
            shows = not self._call.adds_usage
            return Ending(*ending(produced, shows_usage=shows and produced.usage is None))
        if produced.kind not in (None, "content"):
            return Refused(f"it was cut inside its {produced.kind}")
        step = self._request(produced)
        self.pending = step if isinstance(step, Resume) else None
        return step

    def answered(self) -> None:
        """A worker has begun to answer what is ``pending``, or the request as such; its events come next."""
        resume, self.pending = self.pending, None
        self.broken = None
        if resume is None:
            if self._journal is not None:
                self._journal.restart()
            return
        self._resume = resume
        chat = self._call.endpoint is Endpoint.CHAT
        self._splice = Splice(self._produced(), resume.request, chat=chat, shows_ids=self._given)

    def declined(self) -> None:
        """Another worker did not understand what is ``pending``: replay of tokens is not for it."""
        self._mode = Mode.TEXT

    def close(self) -> None:
        """The stream is over."""
        if self._journal is not None:
            self._journal.close()

    def _request(self, produced: Produced) -> Resume | Refused:
        if not produced.shown and not (self._given and produced.ids):
            return Resume(again(self._call, ids=self.asks), self._mode)
        why: str | None = None
        if self._mode is Mode.TOKENS:
            found = from_tokens(self._call, produced)
            if isinstance(found, Request):
                return Resume(found, Mode.TOKENS)
            why = found
        text = text_refusal(self._call)
        request = from_text(self._call, produced) if text is None else text
        return Resume(request, Mode.TEXT) if isinstance(request, Request) else Refused(why or request)

    def _produced(self) -> Produced:
        assert self._journal is not None
        return self._journal.produced if self._splice is not None else self._journal.read()

    def _sound(self, events: bytes) -> bytes:
        """The events before one that says that the worker gave up."""
        sound = []
        for event in sse.split(events):
            if _ABORTED.search(event):
                self.broken = "aborted"
                break
            status = _status(event) if _ERROR.match(event) else 0
            if status >= 500:
                self.broken = f"status_{status}"
                break
            sound.append(event)
        return b"".join(sound)


def _status(event: bytes) -> int:
    """HTTP status of an error event; 500 where it has none."""
    try:
        error = orjson.loads(sse.data(event) or b"")["error"]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return 0
    code = error.get("code") if isinstance(error, dict) else None
    return code if type(code) is int else 500
