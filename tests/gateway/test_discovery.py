from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import dns.asyncresolver
import dns.message
import dns.rrset
import pytest

from gateway.discovery import Address, LookupFailed, SystemResolver
from tests.gateway.harness import HELLO, STREAM, Gateway, Worker, chat, configured, drive, held_until, serving, until


class Names:
    """A resolver that the test tells what to answer."""

    def __init__(self, *workers: Worker) -> None:
        self.found: frozenset[Address] | None = None
        self.asked: list[tuple[str, int | None, str]] = []
        self.are(*workers)

    def are(self, *workers: Worker) -> None:
        self.found = frozenset(("127.0.0.1", worker.port) for worker in workers)

    def fail(self) -> None:
        self.found = None

    async def resolve(self, host: str, port: int | None, record: str) -> frozenset[Address]:
        self.asked.append((host, port, record))
        if self.found is None:
            raise LookupFailed("no such name")
        return self.found

    async def asked_again(self) -> None:
        count = len(self.asked)
        await until(lambda: len(self.asked) >= count + 2)


def found_pool(**more: Any) -> dict[str, Any]:
    search = {"kind": "dns", "host": "workers.internal", "record": "SRV", "interval_s": 0.02, **more}
    return {"name": "p", "model": "p-model", "tier": 0, "discovery": search}


async def shown(gateway: Gateway) -> tuple[dict[str, tuple[str, str]], str | None]:
    pool = (await gateway.get("/admin/fleet"))["pools"][0]
    return {w["url"]: (w["source"], w["phase"]) for w in pool["workers"]}, pool["discovery_error"]


def test_addresses_join_as_they_appear_and_serve() -> None:
    async def scenario() -> None:
        async with Worker(chat) as first, Worker(chat) as second:
            names = Names(first)
            async with serving(configured(found_pool(max_inflight=3)), resolver=names) as gateway:
                assert names.asked[0] == ("workers.internal", None, "SRV")
                assert (await gateway.ask(HELLO))[0] == 200  # the first look came before the first request
                names.are(first, second)
                await until(lambda: gateway.app.runtime.ready_workers() == {"p": 2})
                workers, error = await shown(gateway)
                assert workers == {w.url: ("dns", "ready") for w in (first, second)}
                assert error is None
                assert {s.max_inflight for s, _ in gateway.app.runtime.roster} == {3}

    drive(scenario)


def test_an_address_that_vanishes_is_drained_not_cut_and_may_come_back() -> None:
    go_on = asyncio.Event()

    held = held_until(go_on)

    async def scenario() -> None:
        async with Worker(held) as leaves, Worker(chat) as stays:
            names = Names(leaves)
            async with serving(configured(found_pool()), resolver=names) as gateway:
                stream = await gateway.post({**HELLO, "stream": True})
                names.are(stays)
                await until(lambda: gateway.app.runtime.ready_workers() == {"p": 1} and stays.port > 0)
                await names.asked_again()
                await until(lambda: gateway.app.runtime.roster.source(f"p@127.0.0.1:{stays.port}") is not None)
                assert (await shown(gateway))[0][leaves.url] == ("dns", "draining")
                names.are(leaves, stays)
                await until(lambda: gateway.app.runtime.ready_workers() == {"p": 2})
                names.are(stays)
                await names.asked_again()
                go_on.set()
                assert await stream.body() == STREAM
                await until(lambda: gateway.app.runtime.roster.source(f"p@127.0.0.1:{leaves.port}") is None)

    drive(scenario)


def test_a_failed_look_up_keeps_what_was_known_and_is_shown() -> None:
    async def scenario() -> None:
        async with Worker(chat) as worker:
            names = Names(worker)
            async with serving(configured(found_pool()), resolver=names) as gateway:
                names.fail()
                await names.asked_again()
                assert (await gateway.ask(HELLO))[0] == 200
                workers, error = await shown(gateway)
                assert workers == {worker.url: ("dns", "ready")}
                assert error == "looking up workers.internal: no such name"
                names.are(worker)
                await names.asked_again()
                assert (await shown(gateway))[1] is None

    drive(scenario)


def test_a_gateway_starts_without_dns_and_finds_its_workers_later() -> None:
    async def scenario() -> None:
        async with Worker(chat) as worker:
            names = Names()
            names.fail()
            async with serving(configured(found_pool()), resolver=names) as gateway:
                assert gateway.app.runtime.ready_workers() == {"p": 0}
                names.are(worker)
                await until(lambda: gateway.app.runtime.ready_workers() == {"p": 1})

    drive(scenario)


def test_a_drain_by_the_operator_is_not_undone_by_the_next_look_up() -> None:
    async def scenario() -> None:
        async with Worker(chat) as worker:
            names = Names(worker)
            async with serving(configured(found_pool()), resolver=names) as gateway:
                roster = gateway.app.runtime.roster
                ((spec, _),) = tuple(roster)
                roster.drain(spec.name)
                await names.asked_again()
                assert (await shown(gateway))[0][worker.url] == ("dns", "draining")

    drive(scenario)


def test_a_reload_changes_what_is_looked_for_and_how_much_the_workers_take() -> None:
    async def scenario() -> None:
        async with Worker(chat) as worker:
            names = Names(worker)
            told = [
                configured(found_pool(max_inflight=3)),
                configured(found_pool(max_inflight=8, host="others.internal")),
            ]
            async with serving(told[0], resolver=names, load=lambda: told[1]) as gateway:
                await gateway.app.runtime.reload()
                assert names.asked[-1][0] == "others.internal"
                assert {spec.max_inflight for spec, _ in gateway.app.runtime.roster} == {8}
                assert gateway.app.runtime.ready_workers() == {"p": 1}

    drive(scenario)


# The system's resolver.


def test_a_name_of_this_machine_by_the_system() -> None:
    async def scenario() -> None:
        assert await SystemResolver().resolve("localhost", 8000, "A") == {("127.0.0.1", 8000)}
        with pytest.raises(LookupFailed, match="not a host name"):
            await SystemResolver().resolve("workers..internal", 8000, "A")

    drive(scenario)


class DnsServer(asyncio.DatagramProtocol):
    """Answers with the records that it was given, over UDP."""

    def __init__(self, *records: dns.rrset.RRset) -> None:
        self._records = {(record.name, record.rdtype): record for record in records}

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: Any = transport

    def datagram_received(self, data: bytes, address: Any) -> None:
        query = dns.message.from_wire(data)
        answer = dns.message.make_response(query)
        asked = query.question[0]
        if (asked.name, asked.rdtype) in self._records:
            answer.answer.append(self._records[asked.name, asked.rdtype])
        else:
            answer.set_rcode(dns.rcode.NXDOMAIN)
        self.transport.sendto(answer.to_wire(), address)


@contextmanager
def udp_socket() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as found:
        found.bind(("127.0.0.1", 0))
        found.setblocking(False)
        yield found


def test_services_by_a_real_dns_server_only_of_the_best_priority() -> None:
    async def scenario() -> None:
        name = "_http._tcp.workers.internal."
        records = dns.rrset.from_text(
            name, 60, "IN", "SRV", "10 1 8001 a.internal.", "10 1 8002 b.internal.", "20 1 8003 c.internal."
        )
        with udp_socket() as place:
            transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
                lambda: DnsServer(records), sock=place
            )
            resolver = dns.asyncresolver.Resolver(configure=False)
            resolver.nameservers, resolver.port = ["127.0.0.1"], place.getsockname()[1]
            system = SystemResolver(resolver)
            found = await system.resolve("_http._tcp.workers.internal", None, "SRV")
            assert found == {("a.internal", 8001), ("b.internal", 8002)}
            with pytest.raises(LookupFailed, match="does not exist"):
                await system.resolve("_http._tcp.others.internal", None, "SRV")
            transport.close()

    drive(scenario)
