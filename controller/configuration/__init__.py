"""The one configuration tree: read once at start-up, checked as a whole, frozen, passed down.

:func:`load` reads a YAML file; every mistake in it is reported at once, each with its file and line, its key, what is
wrong and what would be right. ``HEADWAY_LISTEN__PORT=9000`` in the environment overrides ``listen.port``.
"""

from __future__ import annotations

from controller.configuration.cluster import Cluster
from controller.configuration.continuation import Continuation
from controller.configuration.loading import json_schema, load, parse
from controller.configuration.pools import KvEvents, Pool, Price, ProcessActuatorOptions, Replicas, Worker
from controller.configuration.reaching import Discovery, Upstream
from controller.configuration.sections import (
    Admin,
    Health,
    Limits,
    Listen,
    Probe,
    Records,
    Retries,
    Scoring,
    StageChoice,
    Stages,
    Timeouts,
)
from controller.configuration.telemetry import AccessLog, Tracing
from controller.configuration.tenants import Auth, PriorityRange, Tenant, TenantLimits
from controller.configuration.tree import Configuration

__all__ = [
    "AccessLog",
    "Admin",
    "Auth",
    "Cluster",
    "Configuration",
    "Continuation",
    "Discovery",
    "Health",
    "KvEvents",
    "Limits",
    "Listen",
    "Pool",
    "Price",
    "PriorityRange",
    "Probe",
    "ProcessActuatorOptions",
    "Records",
    "Replicas",
    "Retries",
    "Scoring",
    "StageChoice",
    "Stages",
    "Tenant",
    "TenantLimits",
    "Timeouts",
    "Tracing",
    "Upstream",
    "Worker",
    "json_schema",
    "load",
    "parse",
]
