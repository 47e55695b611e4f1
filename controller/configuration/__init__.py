"""The one configuration tree: read once at start-up, checked as a whole, frozen, passed down.

:func:`load` reads a YAML file; every mistake in it is reported at once, each with its file and line, its key, what is
wrong and what would be right. ``HEADWAY_LISTEN__PORT=9000`` in the environment overrides ``listen.port``.
"""

from __future__ import annotations

from controller.configuration.loading import json_schema, load, parse
from controller.configuration.pools import Pool, Price, ProcessActuatorOptions, Replicas, Worker
from controller.configuration.sections import (
    Admin,
    Health,
    Limits,
    Listen,
    PriorityRange,
    Records,
    Retries,
    Scoring,
    StageChoice,
    Stages,
    Tenant,
    Timeouts,
)
from controller.configuration.tree import Configuration

__all__ = [
    "Admin",
    "Configuration",
    "Health",
    "Limits",
    "Listen",
    "Pool",
    "Price",
    "PriorityRange",
    "ProcessActuatorOptions",
    "Records",
    "Replicas",
    "Retries",
    "Scoring",
    "StageChoice",
    "Stages",
    "Tenant",
    "Timeouts",
    "Worker",
    "json_schema",
    "load",
    "parse",
]
