"""What the gateway tells of its requests besides metrics: the sections ``access_log`` and ``tracing``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated
from urllib.parse import unquote

from pydantic import Field, SecretStr

from controller.configuration.base import Section, Share

__all__ = ["AccessLog", "Tracing", "trace_headers"]

_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")


class AccessLog(Section):
    """One JSON line for each request that the relay answers, when it has ended."""

    enabled: bool = False
    """Write it."""
    path: Path | None = None
    """File to append to, opened anew at each reload (SIGHUP), so that it can be rotated; null is standard output."""
    sample: Share = 1.0
    """Share of the requests served well that get a line; those that were not always get one."""


class Tracing(Section):
    """OpenTelemetry spans, sent by OTLP over HTTP. Needs the extra ``headway[otel]``."""

    endpoint: Annotated[str, Field(pattern=r"^https?://[^\s/?#]+(/[^\s?#]*)?$")]
    """URL of a collector's traces, such as ``http://collector:4318/v1/traces``."""
    sample_ratio: Share = 1.0
    """Share of the traces begun here that are kept; a client's ``traceparent`` brings its own decision."""
    service_name: str = Field("headway", min_length=1, max_length=256)
    """``service.name`` of the spans."""
    headers_env: str | None = Field(None, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")
    """Name of the environment variable with the headers for the collector, as OpenTelemetry writes them:
    ``key=value,key=value``, percent-encoded."""
    headers: SecretStr | None = None
    """The headers themselves, in the same form; ``headers_env`` keeps them out of the file."""


def trace_headers(tracing: Tracing, environ: Mapping[str, str]) -> Tracing:
    """With the headers in ``headers``. Raises ValueError, which repeats none of them."""
    if tracing.headers_env is None:
        given = tracing.headers
    elif tracing.headers is not None:
        raise ValueError("headers and headers_env say the same thing; keep one of them")
    elif tracing.headers_env in environ:
        given = SecretStr(environ[tracing.headers_env])
    else:
        raise ValueError(f"the environment has no variable {tracing.headers_env}; set it to key=value,key=value")
    if given is not None:
        parsed_headers(given.get_secret_value())
    return tracing.model_copy(update={"headers": given, "headers_env": None})


def parsed_headers(text: str) -> dict[str, str]:
    """``key=value,key=value`` as names in lower case and values. Raises ValueError."""
    found: dict[str, str] = {}
    for pair in filter(None, map(str.strip, text.split(","))):
        name, equals, value = pair.partition("=")
        value = unquote(value.strip())
        if not equals or _TOKEN.fullmatch(name.strip()) is None or not (value.isascii() and value.isprintable()):
            raise ValueError("the headers must be written as key=value,key=value, percent-encoded")
        found[name.strip().lower()] = value
    return found
