"""The configuration as one tree, checked as a whole, and what the control plane is told of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from controller.configuration.base import ModelName, Section
from controller.configuration.checks import check
from controller.configuration.cluster import Cluster
from controller.configuration.continuation import Continuation
from controller.configuration.mistakes import LocatedErrors
from controller.configuration.pools import Pool, ProcessActuatorOptions
from controller.configuration.sections import (
    Admin,
    Health,
    Limits,
    Listen,
    Records,
    Retries,
    Scoring,
    Stages,
    Timeouts,
)
from controller.configuration.telemetry import AccessLog, Tracing
from controller.configuration.tenants import Auth, Tenant
from controller.settings import ControlSettings, ReplicaRange, TenantSpec
from controller.types import PoolName, PoolSpec, Scale, WorkerSpec


class Configuration(Section):
    """The whole configuration of a gateway."""

    listen: Listen = Listen()
    """Where requests come in."""
    admin: Admin = Admin()
    """The operator's endpoints."""
    pools: tuple[Pool, ...]
    """The fleet."""
    aliases: Mapping[ModelName, tuple[str, ...]] | None = None
    """Model names that stand for several pools; if not given, ``auto`` stands for all of them."""
    tenants: tuple[Tenant, ...] = ()
    """Tenants with settings of their own."""
    auth: Auth = Auth()
    """How callers prove who they are."""
    stages: Stages = Stages()
    """Implementations of the decision stages."""
    scoring: Scoring = Scoring()
    """Learned predictors."""
    limits: Limits = Limits()
    """Bounds of body and queue."""
    retries: Retries = Retries()
    """After a worker's failure."""
    cluster: Cluster = Cluster()
    """Several gateways as one."""
    continuation: Continuation = Continuation()
    """Streams whose worker fails in the middle."""
    timeouts: Timeouts = Timeouts()
    """Waiting for workers."""
    health: Health = Health()
    """Watching workers."""
    records: Records = Records()
    """The decision log."""
    access_log: AccessLog = AccessLog()
    """A line for each request."""
    tracing: Tracing | None = None
    """OpenTelemetry traces; null makes none."""
    log_level: Literal["critical", "error", "warning", "info", "debug"] = "info"
    """Least severity of what is logged; ``--log-level`` overrides it."""
    home: Path | None = None
    """Writable store of artifacts, their pointers and logs; a file that gives none gets ``HEADWAY_HOME``, or
    ``~/.local/share/headway``."""
    seed: int = Field(0, ge=0)
    """Of every random choice that the control plane makes."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        wrong = check(self)
        if wrong:
            raise LocatedErrors(wrong)
        return self

    def pool(self, name: str) -> Pool:
        """The pool of this name; :class:`KeyError` if there is none."""
        return {pool.name: pool for pool in self.pools}[name]

    def pool_specs(self) -> tuple[PoolSpec, ...]:
        """What the control plane is told of the pools."""
        return tuple(pool.spec() for pool in self.pools)

    def holds_keys(self) -> bool:
        """Whether there are keys of tenants, operators or upstreams that an open ``/admin`` would give away."""
        reached = [access for pool in self.pools for access in (pool.upstream, *pool.upstreams().values())]
        keyed = any(access.api_key or access.api_key_env or access.api_key_file for access in reached)
        return keyed or bool(self.auth.operator_keys) or any(tenant.keys for tenant in self.tenants)

    def worker_specs(self) -> tuple[WorkerSpec, ...]:
        """Every listed worker."""
        return tuple(spec for pool in self.pools for spec in pool.worker_specs())

    def alias_pools(self) -> Mapping[str, tuple[str, ...]]:
        """Alias → pool names; the implied ``auto`` has every pool, lowest tier first."""
        if self.aliases is not None:
            return self.aliases
        return {"auto": tuple(pool.name for pool in sorted(self.pools, key=lambda pool: pool.tier))}

    def tenant(self, name: str) -> Tenant:
        """The tenant's settings, or the defaults."""
        listed = {tenant.name: tenant for tenant in self.tenants}
        return listed.get(name) or Tenant.model_construct(name=name)

    def tenant_specs(self) -> Mapping[str, TenantSpec]:
        """What the control plane is told of the tenants that are listed."""
        default = self.limits.tenant
        return {
            tenant.name: TenantSpec(tenant.weight, tenant.tier_ceiling, tenant.limits.over(default).quota())
            for tenant in self.tenants
        }

    def control_settings(self, service_rates: Mapping[PoolName, float] | None = None) -> ControlSettings:
        """What the control plane itself goes by; ``service_rates`` in token-work per second, where profiles say."""
        limits, retries = self.limits, self.retries
        return ControlSettings(
            max_queue=limits.max_queue,
            max_queue_bytes=limits.max_queue_bytes,
            max_queue_s=limits.max_queue_seconds,
            kv=None if limits.kv_budget is None else limits.kv_budget.limits(),
            drop_late=limits.drop_late,
            scoring_budget_s=self.scoring.budget_ms / 1000.0,
            score_always=self.scoring.when == "always",
            max_attempts=retries.attempts,
            max_continuations=self.continuation.attempts,
            retry_share=retries.budget,
            retry_free_per_s=retries.budget_free_per_s,
            retry_backoff_s=retries.backoff_s,
            breaker_errors=retries.breaker_errors,
            breaker_s=retries.breaker_s,
            breaker_max_s=retries.breaker_max_s,
            no_worker_s=retries.no_worker_s,
            service_rates=dict(service_rates or {}),
            tenants=self.tenant_specs(),
            quota=limits.tenant.quota(),
        )

    def process_actuators(self) -> Mapping[PoolName, ProcessActuatorOptions]:
        """The pools whose workers are started on this machine."""
        return {pool.name: pool.actuator for pool in self.pools if pool.actuator is not None}

    def replica_ranges(self) -> Mapping[PoolName, ReplicaRange]:
        """Bounds of the pools that can be scaled."""
        scalable = self.process_actuators()
        return {p.name: ReplicaRange(p.replicas.min, p.replicas.max) for p in self.pools if p.name in scalable}

    def initial_scale(self) -> tuple[Scale, ...]:
        """The replicas to start with, the listed workers counted."""
        pools = [self.pool(name) for name in self.process_actuators()]
        counts = {pool.name: max(pool.replicas.at_start, len(pool.workers)) for pool in pools}
        return tuple(Scale(name, count, "configured at start-up") for name, count in counts.items())
