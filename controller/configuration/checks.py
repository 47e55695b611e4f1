"""Checks that need more than one section of the configuration: names that must be known, distinct, or in reach."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import SplitResult, urlsplit

from pydantic import BaseModel, ValidationError

from controller import stages
from controller.configuration.mistakes import Located, located, unknown_keys
from controller.configuration.source import Path, dotted
from controller.configuration.tenants import MOST_CLASSES
from controller.errors import StageError, suggestion
from controller.protocols import Resources

if TYPE_CHECKING:
    from controller.configuration.tree import Configuration

_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
_EVERYWHERE = frozenset({"0.0.0.0", "::"})


def check(configuration: Configuration) -> list[Located]:
    """Every contradiction, in the order of the tree."""
    if not configuration.pools:
        return [(("pools",), "there is none; a gateway needs at least one")]
    checks: tuple[Callable[[Configuration], Iterable[Located]], ...] = (
        _pools,
        _workers,
        _ports,
        _aliases,
        _tenants,
        _keys,
        _classes,
        _stages,
    )
    return [found for one in checks for found in one(configuration)]


def _pools(configuration: Configuration) -> Iterator[Located]:
    pools = configuration.pools
    yield from _twice((("pools", i, "name"), pool.name) for i, pool in enumerate(pools))
    yield from _twice((("pools", i, "tier"), pool.tier) for i, pool in enumerate(pools))
    named = {pool.name for pool in pools} | {pool.model for pool in pools}
    for i, pool in enumerate(pools):
        for adapter in sorted(pool.adapters & named):
            yield ("pools", i, "adapters"), f"{adapter!r} is a pool's or a model's name already; choose another"


def _workers(configuration: Configuration) -> Iterator[Located]:
    names: dict[Path, str] = {}
    urls: dict[Path, str] = {}
    heard: dict[tuple[str, str], str] = {}
    pools = [pool.name for pool in configuration.pools]
    for i, pool in enumerate(configuration.pools):
        for j, worker in enumerate(pool.workers):
            at = ("pools", i, "workers", j)
            if worker.name or pools.index(pool.name) == i:  # names implied by a duplicate pool are not a second mistake
                names[(*at, "name") if worker.name else at] = pool.worker_name(j)
            urls[(*at, "url")] = worker.url
            if _is_gateway(configuration, urlsplit(worker.url)):
                yield (*at, "url"), "this is the address the gateway itself listens on"
            if worker.kv_events is not None:
                name, wanted = pool.worker_name(j), (worker.kv_events.endpoint, worker.kv_events.topic)
                if (first := heard.setdefault(wanted, name)) != name:
                    yield (*at, "kv_events", "endpoint"), f"worker {first!r} publishes there; each has one of its own"
    yield from _twice(names.items())
    yield from _twice(urls.items())


def _is_gateway(configuration: Configuration, url: SplitResult) -> bool:
    listen = configuration.listen
    here = _LOOPBACK if listen.host in _LOOPBACK | _EVERYWHERE else {listen.host}
    port = url.port or (443 if url.scheme == "https" else 80)
    return port == listen.port and url.hostname in here


def _ports(configuration: Configuration) -> Iterator[Located]:
    for i, pool in enumerate(configuration.pools):
        if pool.actuator is None:
            continue
        at = ("pools", i, "actuator", "ports")
        ports = pool.actuator.port_range
        if configuration.listen.port in ports:
            yield at, f"the range holds the gateway's own port {configuration.listen.port}"
        wanted = pool.replicas.max - len(pool.workers)
        if len(ports) < wanted:
            yield at, f"{len(ports)} ports are too few for {wanted} workers"


def _aliases(configuration: Configuration) -> Iterator[Located]:
    names = [pool.name for pool in configuration.pools]
    models = {pool.model: pool.name for pool in configuration.pools}
    adapters = {adapter: pool.name for pool in configuration.pools for adapter in pool.adapters}
    for alias, targets in (configuration.aliases or {}).items():
        at = ("aliases", alias)
        if alias in names:
            yield at, f"pool {alias!r} already has this name; choose another"
        elif alias in adapters:
            yield at, f"an adapter of pool {adapters[alias]!r} already has this name; choose another"
        elif alias in models:
            yield at, f"the model of pool {models[alias]!r} already has this name; choose another"
        if not targets:
            yield at, f"names no pool{suggestion('', names)}"
        unknown = [(i, target) for i, target in enumerate(targets) if target not in names]
        yield from (((*at, i), f"no pool is called {target!r}{suggestion(target, names)}") for i, target in unknown)
        yield from _twice(((*at, i), target) for i, target in enumerate(targets))


def _tenants(configuration: Configuration) -> Iterator[Located]:
    yield from _twice((("tenants", i, "name"), tenant.name) for i, tenant in enumerate(configuration.tenants))
    lowest = min(pool.tier for pool in configuration.pools)
    for i, tenant in enumerate(configuration.tenants):
        if tenant.tier_ceiling is not None and tenant.tier_ceiling < lowest:
            message = f"below every pool's tier, so nothing could serve this tenant; the lowest is {lowest}"
            yield ("tenants", i, "tier_ceiling"), message


def _keys(configuration: Configuration) -> Iterator[Located]:
    ids: dict[Path, str] = {}
    for i, tenant in enumerate(configuration.tenants):
        ids.update({("tenants", i, "keys", j): key.id for j, key in enumerate(tenant.stored_keys())})
    ids.update({("auth", "operator_keys", j): key.id for j, key in enumerate(configuration.auth.stored_keys())})
    yield from _twice(ids.items())


def _classes(configuration: Configuration) -> Iterator[Located]:
    seen: set[str] = set()
    for i, tenant in enumerate(configuration.tenants):
        seen.add(tenant.class_)
        if len(seen) > MOST_CLASSES:
            yield ("tenants", i, "class"), f"one more than {MOST_CLASSES} classes; metrics have labels for no more"
            return


def _stages(configuration: Configuration) -> Iterator[Located]:
    resources = Resources(configuration.pool_specs(), replicas=configuration.replica_ranges())
    for stage, (name, options) in configuration.stages.choices().items():
        if (stage, name) in stages.SIMULATION_ONLY:
            yield ("stages", stage, "name"), f"{name!r} needs what simulations alone know; use length_rank"
            continue
        known = tuple(one for one in stages.names(stage) if (stage, one) not in stages.SIMULATION_ONLY)
        if name not in known:
            yield ("stages", stage, "name"), f"no implementation is called {name!r}{suggestion(name, known)}"
            continue
        wrong = _options(stages.options_model(stage, name), options)
        yield from ((("stages", stage, *path), message) for path, message in wrong)
        if not wrong:
            yield from _buildable(stage, name, options, resources)


def _options(model: type[BaseModel], options: Mapping[str, Any]) -> list[Located]:
    wrong = unknown_keys(options, model.model_fields)
    try:
        model.model_validate({key: value for key, value in options.items() if key in model.model_fields})
    except ValidationError as error:
        wrong.extend(located(error))
    return wrong


def _buildable(stage: str, name: str, options: Mapping[str, Any], resources: Resources) -> Iterator[Located]:
    try:
        stages.build({stage: (name, options)}, resources)
    except StageError as error:
        yield ("stages", stage), str(error)


def _twice(values: Iterable[tuple[Path, object]]) -> Iterator[Located]:
    first: dict[object, Path] = {}
    for path, value in values:
        if value in first:
            yield path, f"{value!r} is already taken by {dotted(first[value])}; each must be its own"
        first.setdefault(value, path)
