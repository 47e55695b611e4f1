"""The section ``continuation``: streams that outlive their worker."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from controller.configuration.base import Section


def _off(value: object) -> object:
    return "off" if value is False else value


class Continuation(Section):
    """What happens to a stream whose worker fails in the middle of it."""

    mode: Annotated[Literal["off", "text", "tokens"], BeforeValidator(_off)] = "tokens"
    """``tokens`` asks workers for token ids (``return_token_ids``), takes them out of the events again, and lets
    another worker go on from exactly there. ``text`` asks for nothing and has the other worker go on from the text,
    which it tokenises anew, so that what follows may differ; for workers that refuse fields they do not know. ``off``
    ends the stream with an error event."""
    attempts: int = Field(5, ge=0)
    """Times another worker is asked to go on with a stream. More than ``retries.breaker_errors``, so that a stream
    whose last worker is gone waits for it to come back, for ``retries.no_worker_s``."""
    stream_bytes: int = Field(1 << 20, ge=1024)
    """What is kept of one stream: about six bytes a token of the prompt, eight a token of the answer. A stream that
    outgrows it is relayed all the same, and cannot be continued."""
    total_bytes: int = Field(1 << 28, ge=1024)
    """What is kept of all streams of a process together."""
