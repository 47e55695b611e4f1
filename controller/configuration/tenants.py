"""The sections about who asks: tenants, their keys and limits, and how callers prove who they are."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from controller.configuration.base import Count, Name, Positive, Section
from controller.configuration.credentials import StoredKey
from controller.limits import Quota

MOST_CLASSES = 16
"""Classes of tenants; each multiplies the time series of the histograms."""


class PriorityRange(Section):
    """A client's own ``priority`` is clamped to this range; lower is earlier."""

    min: int = 0
    """The most urgent allowed."""
    max: int = 0
    """The least urgent allowed."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.min > self.max:
            raise ValueError(f"needs min <= max, not {self.min} and {self.max}")
        return self

    def clamp(self, priority: int) -> int:
        """The nearest priority inside the range."""
        return min(max(priority, self.min), self.max)


class TenantLimits(Section):
    """What one tenant may take; null is no limit."""

    requests_per_minute: Positive | None = None
    """Requests admitted; one more is refused with 429."""
    tokens_per_minute: Positive | None = None
    """Tokens of prompts and answers: estimated when a request comes, settled with the worker's count when it ends."""
    burst_seconds: Positive = 60.0
    """Seconds' worth of both rates that may be taken at once after a time of rest."""
    concurrency: Count | None = None
    """Requests that wait or run at once."""
    max_queue: Count | None = None
    """Requests that wait."""
    max_queue_bytes: Count | None = None
    """Bytes of the bodies of those that wait."""
    max_tokens: Count | None = None
    """The longest answer that a request may ask for; more is refused with 400, and a request that does not say gets
    this."""

    def quota(self) -> Quota:
        """What the control plane is told."""
        return Quota(
            requests_per_s=None if self.requests_per_minute is None else self.requests_per_minute / 60.0,
            tokens_per_s=None if self.tokens_per_minute is None else self.tokens_per_minute / 60.0,
            burst_s=self.burst_seconds,
            concurrency=self.concurrency,
            max_queue=self.max_queue,
            max_queue_bytes=self.max_queue_bytes,
        )

    def over(self, others: TenantLimits) -> TenantLimits:
        """These, and the others' where a key is not given here."""
        given = {name: getattr(self, name) for name in self.model_fields_set}
        return others.model_copy(update=given)


class Tenant(Section):
    """Who is billed, and what they may use. Requests of tenants that are not listed are held to the defaults here."""

    name: Name
    """As the request names it."""
    keys: tuple[str, ...] = Field((), repr=False)
    """API keys, salted and hashed, as ``headway tenants key NAME`` prints them."""
    weight: Positive = 1.0
    """Share of the fleet under contention, relative to the other tenants."""
    priority: PriorityRange = PriorityRange()
    """Range of the client's own priorities; by default clients cannot change theirs."""
    tier_ceiling: int | None = Field(None, ge=0)
    """The highest tier that may serve this tenant."""
    limits: TenantLimits = TenantLimits()
    """Keys that are not given are those of ``limits.tenant``."""
    cache_isolation: bool = False
    """Salt the workers' prefix cache with the tenant, so that no other one can find out by timing what it has asked."""
    class_: Name = Field("standard", alias="class")
    """What metrics call this kind of tenant; at most 16 different ones altogether."""

    @field_validator("keys")
    @classmethod
    def _stored(cls, keys: tuple[str, ...]) -> tuple[str, ...]:
        for line in keys:
            StoredKey.parse(line)
        return keys

    def stored_keys(self) -> tuple[StoredKey, ...]:
        """The keys, parsed."""
        return tuple(StoredKey.parse(line) for line in self.keys)


class Auth(Section):
    """How callers prove who they are; ``auth: optional`` is the mode alone."""

    mode: Literal["required", "optional"] = "required"
    """Where any key is configured: whether a request without one is refused with 401, or is served as a tenant that has
    no keys. Where none is configured, nobody has to prove anything."""
    operator_keys: tuple[str, ...] = Field((), repr=False)
    """Keys, hashed like tenants', whose holders may name any tenant in ``X-Headway-Tenant``: for a proxy that has
    proved already who asks."""
    cache_secret: str | None = Field(None, min_length=16, repr=False)
    """What the salts of ``cache_isolation`` are derived from; gateways that share workers must share it. If not given,
    one is made and kept in ``home``. Best set by ``HEADWAY_AUTH__CACHE_SECRET``."""

    @model_validator(mode="before")
    @classmethod
    def _mode_alone(cls, data: Any) -> Any:
        return {"mode": data} if isinstance(data, str) else data

    @field_validator("operator_keys")
    @classmethod
    def _stored(cls, keys: tuple[str, ...]) -> tuple[str, ...]:
        for line in keys:
            StoredKey.parse(line)
        return keys

    def stored_keys(self) -> tuple[StoredKey, ...]:
        """The operators' keys, parsed."""
        return tuple(StoredKey.parse(line) for line in self.operator_keys)
