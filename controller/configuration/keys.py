"""The API keys of upstreams, taken from where the configuration says they are, so that nothing later asks for them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from pydantic import SecretStr

from controller.configuration.pools import Pool
from controller.configuration.reaching import Upstream
from controller.configuration.source import Path as Place
from controller.configuration.source import Source
from controller.configuration.tree import Configuration
from controller.errors import ConfigurationError, Problem


def with_keys(configuration: Configuration, source: Source, environ: Mapping[str, str]) -> Configuration:
    """The configuration with every upstream's key in ``api_key``, and the two ways to name its place empty.

    Raises :class:`ConfigurationError` with every key that cannot be had; no message repeats one.
    """
    problems: list[Problem] = []
    found: dict[Place, Upstream] = {}
    for place, upstream in _upstreams(configuration):
        if upstream.api_key_env is None and upstream.api_key_file is None:
            continue
        try:
            found[place] = _with_key(upstream, environ)
        except ValueError as error:
            which = "api_key_env" if upstream.api_key_env is not None else "api_key_file"
            problems.append(source.problem((*place, which), str(error)))
    if problems:
        raise ConfigurationError(problems)
    return _replaced(configuration, found) if found else configuration


def _upstreams(configuration: Configuration) -> Iterator[tuple[Place, Upstream]]:
    for i, pool in enumerate(configuration.pools):
        yield ("pools", i, "upstream"), pool.upstream
        for j, worker in enumerate(pool.workers):
            if worker.upstream is not None:
                yield ("pools", i, "workers", j, "upstream"), worker.upstream


def _with_key(upstream: Upstream, environ: Mapping[str, str]) -> Upstream:
    key = _read(upstream, environ)
    if not key or not (key.isascii() and key.isprintable() and " " not in key):
        raise ValueError("what stands there is no key; it must be visible ASCII characters without a space")
    return upstream.model_copy(update={"api_key": SecretStr(key), "api_key_env": None, "api_key_file": None})


def _read(upstream: Upstream, environ: Mapping[str, str]) -> str:
    if upstream.api_key_env is not None:
        if upstream.api_key_env not in environ:
            raise ValueError(f"the environment has no variable {upstream.api_key_env}; set it to the key")
        return environ[upstream.api_key_env].strip()
    path = Path(str(upstream.api_key_file))
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no text") from error


def _replaced(configuration: Configuration, found: Mapping[Place, Upstream]) -> Configuration:
    pools: list[Pool] = []
    for i, pool in enumerate(configuration.pools):
        workers = tuple(
            worker.model_copy(update={"upstream": found[place]})
            if (place := ("pools", i, "workers", j, "upstream")) in found
            else worker
            for j, worker in enumerate(pool.workers)
        )
        upstream = found.get(("pools", i, "upstream"), pool.upstream)
        pools.append(pool.model_copy(update={"workers": workers, "upstream": upstream}))
    return configuration.model_copy(update={"pools": tuple(pools)})
