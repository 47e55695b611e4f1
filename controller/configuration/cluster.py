"""The section ``cluster``: several gateways as one control plane."""

from __future__ import annotations

from typing import Self
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, model_validator

from controller.configuration.base import Name, Section


class Cluster(Section):
    """Gateways of several machines that share workers, tenants' limits and fairness through Redis. The processes of one
    machine (``headway serve --processes N``) need none of this."""

    redis: SecretStr | None = None
    """URL of the Redis server (``redis://``, ``rediss://`` or ``unix://``) that all of them use; null is a gateway of
    its own. Best set by ``HEADWAY_CLUSTER__REDIS``."""
    prefix: Name = "headway"
    """Of the keys there; gateways with the same one are one control plane."""
    member: Name | None = None
    """This gateway's own name there, the same after a restart; null is the host's name and ``listen.port``."""
    lease_s: float = Field(120.0, ge=5, le=3600)
    """A gateway that has not reached the others for so long gives up half of what it was allowed, and half of that
    after as long again; only then do the others use it. Requests should not take longer than this."""

    @model_validator(mode="after")
    def _known_scheme(self) -> Self:
        if self.redis is not None:
            scheme = urlsplit(self.redis.get_secret_value()).scheme
            if scheme not in ("redis", "rediss", "unix"):
                raise ValueError("redis must be a URL like redis://HOST:6379/0 (or rediss://, or unix://)")
        return self
