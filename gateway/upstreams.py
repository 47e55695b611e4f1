"""How each worker is reached: over which client, whose TLS settings are its pool's or its own, and with which key.

Keys are nowhere but here: no spec, record, log line or page of the operator holds one.
"""

from __future__ import annotations

import asyncio
import hashlib
import ssl
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from controller.configuration import Configuration, Pool, Upstream
from controller.errors import ConfigurationError, Problem
from controller.types import PoolName, WorkerName, WorkerSpec
from upstream.client import Client
from upstream.types import Header

__all__ = ["Access", "Upstreams", "Ways"]

_Identity = tuple[object, ...]


@dataclass(frozen=True, slots=True)
class Access:
    """The way to a worker. ``key`` is the whole value of ``Authorization``; ``None`` lets the client's stand."""

    client: Client = field(repr=False)
    key: bytes | None = field(default=None, repr=False)

    @property
    def headers(self) -> tuple[Header, ...]:
        """For requests of the gateway's own."""
        return () if self.key is None else ((b"authorization", self.key),)


@dataclass(frozen=True, slots=True)
class Ways:
    """What one configuration says: a way for each pool, and others for listed workers."""

    pools: Mapping[PoolName, Access]
    urls: Mapping[str, Access]
    clients: Mapping[_Identity, Client]


class Upstreams:
    """The ways of one gateway. Raises ConfigurationError where a certificate or a key file cannot be used."""

    def __init__(self, configuration: Configuration) -> None:
        self.plain = Client()
        """For workers without TLS settings of their own."""
        self._specs: dict[WorkerName, WorkerSpec] = {}
        self._workers: dict[WorkerName, Access] = {}
        self._retired: list[Client] = []
        self._ways = Ways({}, {}, {})
        self._ways = self.read(configuration)

    def of(self, worker: WorkerName, pool: PoolName) -> Access:
        """The way to a worker; its pool's for one that is no longer there."""
        return self._workers.get(worker) or self._ways.pools[pool]

    def joined(self, spec: WorkerSpec) -> None:
        """A worker has joined the fleet."""
        self._specs[spec.name] = spec
        self._workers[spec.name] = self._ways.urls.get(spec.url) or self._ways.pools[spec.pool]

    def left(self, worker: WorkerName) -> None:
        """It has left."""
        self._specs.pop(worker, None)
        self._workers.pop(worker, None)

    def replace(self, ways: Ways) -> None:
        """Go by these, which were read, from now on; exchanges under way end on the connections that they have."""
        before, self._ways = self._ways, ways
        for identity, client in before.clients.items():
            if self._ways.clients.get(identity) is not client:
                client.retire()
                self._retired.append(client)
        self._retired = [client for client in self._retired if client.open_connections]
        for spec in tuple(self._specs.values()):
            self.joined(spec)

    @property
    def open_connections(self) -> int:
        """Sockets that are open to workers, idle ones included."""
        return sum(client.open_connections for client in self._clients())

    async def close(self) -> None:
        """Close every connection."""
        await asyncio.gather(*(client.close() for client in self._clients()))

    def _clients(self) -> Iterator[Client]:
        yield self.plain
        yield from self._ways.clients.values()
        yield from self._retired

    def read(self, configuration: Configuration) -> Ways:
        """Read the files that the configuration names. Raises ConfigurationError. Changes nothing, and may be called in
        another thread, since it takes a while."""
        pools: dict[PoolName, Access] = {}
        urls: dict[str, Access] = {}
        clients: dict[_Identity, Client] = {}
        problems: list[Problem] = []
        for key, pool, url, upstream in _places(configuration):
            try:
                access = self._access(upstream, None if url else _discovered_name(pool), clients)
            except OSError as error:
                problems.append(Problem("", key, f"its TLS files cannot be used: {_reason(error)}"))
                continue
            if url is None:
                pools[pool.name] = access
            else:
                urls[url] = access
        if problems:
            raise ConfigurationError(problems)
        return Ways(pools, urls, clients)

    def _access(self, upstream: Upstream, discovered: str | None, clients: dict[_Identity, Client]) -> Access:
        key = None if upstream.api_key is None else b"Bearer " + upstream.api_key.get_secret_value().encode("ascii")
        name = upstream.server_name or discovered
        if not upstream.has_tls and name is None:
            return Access(self.plain, key)
        files = (upstream.ca_file, upstream.client_cert, upstream.client_key)
        identity: _Identity = (upstream.verify, name, *(path and _digest(path) for path in files))
        if identity not in clients:
            known = self._ways.clients.get(identity)
            clients[identity] = known or Client(tls=_context(upstream), server_name=name)
        return Access(clients[identity], key)


def _places(configuration: Configuration) -> Iterator[tuple[str, Pool, str | None, Upstream]]:
    """(key for messages, pool, URL of a listed worker or none, how it is reached)."""
    for i, pool in enumerate(configuration.pools):
        yield f"pools[{i}].upstream", pool, None, pool.upstream
        for j, worker in enumerate(pool.workers):
            own = worker.upstream is not None
            key = f"pools[{i}].workers[{j}].upstream" if own else f"pools[{i}].upstream"
            yield key, pool, worker.url, worker.upstream or pool.upstream


def _discovered_name(pool: Pool) -> str | None:
    """Addresses have no certificates of their own: the name they were found under is what must be in them."""
    found = pool.discovery
    return found.host if found is not None and found.kind == "dns" and found.scheme == "https" else None


def _context(upstream: Upstream) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=upstream.ca_file)
    if not upstream.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if upstream.client_cert is not None:
        no_question: Any = bytes  # an encrypted key must fail, not ask on the terminal
        context.load_cert_chain(upstream.client_cert, upstream.client_key, password=no_question)
    return context


def _digest(path: Path) -> bytes:
    return hashlib.sha256(path.read_bytes()).digest()


def _reason(error: OSError) -> str:
    if isinstance(error, ssl.SSLError):
        return f"{error.reason or error}; they must be PEM, the private key without a passphrase"
    return f"{error.filename}: {error.strerror}" if error.filename else str(error)
