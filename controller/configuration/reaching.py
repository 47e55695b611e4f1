"""How workers are reached, and found where nobody lists them."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, SecretStr, model_validator

from controller.configuration.base import Count, NotNegative, Port, Positive, Section

_KEYS = ("api_key", "api_key_env", "api_key_file")


class Upstream(Section):
    """The key and the TLS settings with which workers are spoken to. A worker's own stand in place of its pool's."""

    api_key: SecretStr | None = Field(None, min_length=1)
    """Sent as ``Authorization: Bearer KEY`` in place of whatever the client sent. One of the next two keeps it out of
    the file."""
    api_key_env: str | None = Field(None, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")
    """Name of the environment variable that holds the key."""
    api_key_file: Path | None = None
    """File that holds the key; read at start-up and at each reload."""
    ca_file: Path | None = None
    """PEM file of the authorities that may sign a worker's certificate; the system's if not given."""
    client_cert: Path | None = None
    """PEM file of the certificate (and its chain) that the gateway shows to workers."""
    client_key: Path | None = None
    """PEM file of its private key, where that is not in ``client_cert``."""
    verify: bool = True
    """Check the worker's certificate. Off, anybody in between can read and change what is sent."""
    server_name: str | None = Field(None, pattern=r"^[A-Za-z0-9._-]+$", max_length=253)
    """Name that the certificate must be for (and that SNI asks for), where it is not the URL's host."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        given = [key for key in _KEYS if getattr(self, key) is not None]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} say the same thing; keep one of them")
        if self.client_key is not None and self.client_cert is None:
            raise ValueError("client_key needs client_cert, the certificate that it belongs to")
        if not self.verify and self.ca_file is not None:
            raise ValueError("verify: false makes ca_file meaningless; drop one of the two")
        key = None if self.api_key is None else self.api_key.get_secret_value()
        if key is not None and not (key.isascii() and key.isprintable() and " " not in key):
            raise ValueError("api_key must be visible ASCII characters without a space")
        return self

    @property
    def has_tls(self) -> bool:
        """Whether anything here differs from plain TLS with the system's authorities."""
        return not self.verify or any((self.ca_file, self.client_cert, self.server_name))


class Discovery(Section):
    """Where the workers come from that nobody lists."""

    kind: Literal["dns", "admin"] = "dns"
    """``dns``: the addresses that a name stands for, such as a headless service's. ``admin``: they are told by
    ``POST /admin/workers``, which every pool allows; it needs nothing further here."""
    host: str | None = Field(None, pattern=r"^[A-Za-z0-9._-]+$", max_length=253)
    """The name to look up."""
    port: Port | None = None
    """Port of every worker; SRV records bring their own."""
    scheme: Literal["http", "https"] = "http"
    """How workers are spoken to; certificates are checked against ``upstream.server_name``, or else ``host``."""
    record: Literal["A", "AAAA", "SRV"] = "A"
    """Records to ask for. ``SRV`` needs the extra ``headway[dns]``."""
    interval_s: Positive = 5.0
    """Between two look-ups."""
    drain_s: NotNegative = 600.0
    """A worker whose address has gone gets nothing new, and its running requests so long to end."""
    max_inflight: Count = 32
    """As for a worker that is listed."""
    priority_scheduling: bool = False
    """As for a worker that is listed."""

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.kind == "admin":
            if more := sorted(self.model_fields_set - {"kind"}):
                raise ValueError(f"kind admin takes no {', '.join(more)}; POST /admin/workers says it of each worker")
            return self
        if self.host is None:
            raise ValueError("needs host, the name to look up")
        if (self.port is None) != (self.record == "SRV"):
            raise ValueError("record SRV brings its own ports; A and AAAA need port")
        return self
