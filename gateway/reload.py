"""What a new configuration changes in a running gateway: which workers come and go, and what needs a restart."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from controller.configuration import Configuration, Discovery, Pool
from controller.errors import ConfigurationError, Problem
from controller.types import PoolName, WorkerName, WorkerSpec
from gateway.roster import Roster, Source

__all__ = ["Load", "RestartNeeded", "WorkerChanges", "changed_keys", "searches", "worker_changes"]

Load = Callable[[], Configuration]
"""Reads the configuration again. Raises ConfigurationError."""

_LIVE = frozenset({"aliases", "auth", "health", "limits", "log_level", "retries", "tenants", "timeouts"})
_LIVE_IN_POOLS = frozenset({"workers", "upstream", "discovery"})


class RestartNeeded(Exception):
    """The new configuration cannot be applied to a running gateway. ``keys`` are those that stand in the way."""

    def __init__(self, keys: Iterable[str]) -> None:
        self.keys = tuple(keys)
        super().__init__(f"a restart is needed to change {', '.join(self.keys)}; nothing was changed")


@dataclass(frozen=True, slots=True)
class WorkerChanges:
    """What is to become of the listed workers. One that is replaced is in ``removed`` and in ``added``."""

    added: tuple[WorkerSpec, ...]
    removed: tuple[WorkerName, ...]
    drained: tuple[WorkerName, ...]
    """Not listed any more."""
    resized: tuple[WorkerSpec, ...]
    kept: tuple[WorkerName, ...]
    """The rest of those that are listed now."""


def changed_keys(old: Configuration, new: Configuration) -> tuple[str, ...]:
    """The top-level keys that differ. Raises RestartNeeded if one of them, or of a pool's, cannot change live."""
    before, after = dict(old), dict(new)
    differing = [key for key in type(new).model_fields if before[key] != after[key]]
    fixed = [key for key in differing if key not in _LIVE and key != "pools"]
    fixed += _fixed_in_pools(old.pools, new.pools)
    if fixed:
        raise RestartNeeded(fixed)
    return tuple(differing)


def worker_changes(new: Configuration, roster: Roster) -> WorkerChanges:
    """From the workers that there are to those that are listed.

    A worker is the same if its URL is; one without a name keeps the name it has. Raises ConfigurationError where a name
    or a URL is already that of a worker that was not listed.
    """
    listed = {spec.url: spec for spec, source in roster if source is Source.CONFIG}
    others = [spec for spec, source in roster if source is not Source.CONFIG]
    wanted = _named(new.pools, listed, {spec.name for spec in others})
    _refuse_taken(wanted, others)
    same = {url: spec for url, spec in wanted.items() if url in listed and _identity(spec) == _identity(listed[url])}
    replaced = {name for url, spec in listed.items() if url not in same for name in [spec.name]}
    names = {spec.name for spec in wanted.values()}
    gone = {spec.name for url, spec in listed.items() if url not in wanted} - names
    return WorkerChanges(
        added=tuple(spec for url, spec in wanted.items() if url not in same),
        removed=tuple(sorted(replaced - gone)),
        drained=tuple(sorted(gone)),
        resized=tuple(spec for url, spec in same.items() if spec != listed[url]),
        kept=tuple(spec.name for spec in same.values()),
    )


def searches(configuration: Configuration) -> Mapping[PoolName, Discovery]:
    """The pools whose workers are found by DNS."""
    found = ((pool.name, pool.discovery) for pool in configuration.pools)
    return {name: wanted for name, wanted in found if wanted is not None and wanted.kind == "dns"}


def _fixed_in_pools(old: tuple[Pool, ...], new: tuple[Pool, ...]) -> Iterator[str]:
    known = {pool.name: pool for pool in old}
    for i, pool in enumerate(new):
        if pool.name not in known:
            yield f"pools[{i}] (pool {pool.name!r} is new)"
            continue
        before, after = dict(known.pop(pool.name)), dict(pool)
        yield from (f"pools[{i}].{key}" for key, value in after.items() if _fixed(key, before[key], value))
    yield from (f"pools (pool {name!r} is gone)" for name in known)


def _fixed(key: str, before: Any, after: Any) -> bool:
    return key not in _LIVE_IN_POOLS and bool(before != after)


def _named(pools: Iterable[Pool], listed: Mapping[str, WorkerSpec], taken: set[WorkerName]) -> Mapping[str, WorkerSpec]:
    """URL → what is listed there, with the names that workers without one have already, or with free ones."""
    found: dict[str, WorkerSpec] = {}
    names = set(taken) | {worker.name for pool in pools for worker in pool.workers if worker.name is not None}
    unnamed: list[tuple[Pool, int]] = []
    for pool in pools:
        for i, (worker, spec) in enumerate(zip(pool.workers, pool.worker_specs(), strict=True)):
            known = listed.get(worker.url)
            if worker.name is None and known is not None and known.pool == pool.name and known.name not in names:
                spec = _renamed(spec, known.name)
            elif worker.name is None:
                unnamed.append((pool, i))
                continue
            names.add(spec.name)
            found[spec.url] = spec
    for pool, i in unnamed:
        spec = pool.worker_specs()[i]
        free = (f"{pool.name}-{n}" for n in range(i, i + len(names) + 1) if f"{pool.name}-{n}" not in names)
        spec = _renamed(spec, next(free))
        names.add(spec.name)
        found[spec.url] = spec
    return found


def _renamed(spec: WorkerSpec, name: WorkerName) -> WorkerSpec:
    return WorkerSpec(name, spec.pool, spec.url, spec.max_inflight, spec.priority_scheduling)


def _identity(spec: WorkerSpec) -> tuple[str, str, str]:
    return spec.name, spec.pool, spec.url


def _refuse_taken(wanted: Mapping[str, WorkerSpec], others: Iterable[WorkerSpec]) -> None:
    names = {spec.name: spec for spec in wanted.values()}
    problems = []
    for other in others:
        taken = names.get(other.name) or wanted.get(other.url)
        if taken is not None:
            message = (
                f"worker {other.name!r} at {other.url} is already there, and was not listed; remove it with"
                f" DELETE /admin/workers/{other.name}, or list another one"
            )
            problems.append(Problem("", f"pools ({taken.pool})", message))
    if problems:
        raise ConfigurationError(problems)
