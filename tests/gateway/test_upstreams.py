from __future__ import annotations

import asyncio
import ssl
from pathlib import Path
from typing import Any, Self

import pytest
import trustme

from controller.configuration import Configuration, parse
from controller.errors import ConfigurationError
from gateway.upstreams import Upstreams
from tests.gateway.harness import HELLO, Worker, chat, configured, drive, pool, serving, until


class TlsWorker(Worker):
    """A worker behind TLS; ``clients`` are the authorities whose certificates it wants to be shown."""

    def __init__(self, certificate: trustme.LeafCert, clients: trustme.CA | None = None) -> None:
        super().__init__(chat)
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        certificate.configure_cert(self._context)
        if clients is not None:
            clients.configure_trust(self._context)
            self._context.verify_mode = ssl.CERT_REQUIRED

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self._port, ssl=self._context)
        self._port = self._server.sockets[0].getsockname()[1]

    async def __aenter__(self) -> Self:
        await self.start()
        return self


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def ca_file(authority: trustme.CA, tmp_path: Path) -> str:
    path = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(path)
    return str(path)


def client_files(authority: trustme.CA, folder: Path) -> dict[str, str]:
    issued = authority.issue_cert("gateway.internal")
    issued.private_key_pem.write_to_path(folder / "key.pem")
    issued.cert_chain_pems[0].write_to_path(folder / "cert.pem")
    return {"client_cert": str(folder / "cert.pem"), "client_key": str(folder / "key.pem")}


def quick(worker: Worker, upstream: dict[str, Any]) -> Configuration:
    return configured(pool("p", worker, upstream=upstream), retries={"no_worker_s": 0.01})


def served(worker: Worker, upstream: dict[str, Any]) -> tuple[str, int, str]:
    """The worker's phase after the first look, an answer's status, and what is wrong with the worker."""
    seen: list[Any] = []

    async def scenario() -> None:
        async with worker, serving(quick(worker, upstream)) as gateway:
            status, _ = await gateway.ask(HELLO)
            fleet = await gateway.get("/admin/fleet")
            shown = fleet["pools"][0]["workers"][0]
            seen.extend((shown["phase"], status, shown["error"] or ""))

    drive(scenario)
    return seen[0], seen[1], seen[2]


def test_a_certificate_of_the_pools_own_authority_is_believed(authority: trustme.CA, ca_file: str) -> None:
    worker = TlsWorker(authority.issue_cert("127.0.0.1"))
    assert served(worker, {"ca_file": ca_file}) == ("ready", 200, "")


def test_one_of_an_authority_that_nobody_named_is_not(authority: trustme.CA) -> None:
    phase, status, error = served(TlsWorker(authority.issue_cert("127.0.0.1")), {})
    assert (phase, status) == ("unhealthy", 503)
    assert "certificate" in error


def test_nor_is_one_for_another_name(authority: trustme.CA, ca_file: str) -> None:
    phase, _, error = served(TlsWorker(authority.issue_cert("elsewhere.internal")), {"ca_file": ca_file})
    assert phase == "unhealthy"
    assert "certificate" in error


@pytest.mark.parametrize("how", [{"verify": False}, {"server_name": "elsewhere.internal"}])
def test_unless_the_name_is_given_or_nothing_is_checked(
    authority: trustme.CA, ca_file: str, how: dict[str, Any]
) -> None:
    upstream = how if "verify" in how else {**how, "ca_file": ca_file}
    assert served(TlsWorker(authority.issue_cert("elsewhere.internal")), upstream)[:2] == ("ready", 200)


def test_the_gateway_shows_its_own_certificate(authority: trustme.CA, ca_file: str, tmp_path: Path) -> None:
    certificate = authority.issue_cert("127.0.0.1")
    upstream = {"ca_file": ca_file, **client_files(authority, tmp_path)}
    assert served(TlsWorker(certificate, clients=authority), upstream)[:2] == ("ready", 200)
    assert served(TlsWorker(certificate, clients=authority), {"ca_file": ca_file})[0] == "unhealthy"


def test_a_file_that_cannot_be_used_is_named_before_anything_starts(tmp_path: Path) -> None:
    rubbish = tmp_path / "ca.pem"
    rubbish.write_text("no certificate")
    for path, reason in ((rubbish, "PEM"), (tmp_path / "none.pem", "No such file")):
        with pytest.raises(ConfigurationError, match=r"pools\[0\]\.upstream: its TLS files cannot be used") as error:
            Upstreams(configured(pool("p", "https://127.0.0.1:1", upstream={"ca_file": str(path)})))
        assert reason in str(error.value)


def test_a_key_goes_to_its_own_workers_in_place_of_the_clients_and_is_shown_nowhere(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("file-secret\n")

    async def scenario() -> None:
        async with Worker(chat) as first, Worker(chat) as second, Worker(chat) as third:
            pools = [
                {
                    **pool("p", first, second, upstream={"api_key": "pool-secret"}),
                    "workers": [
                        {"url": first.url},
                        {"url": second.url, "upstream": {"api_key_file": str(tmp_path / "key")}},
                    ],
                },
                pool("q", third, tier=1),
            ]
            records = {"dir": str(tmp_path / "records"), "prompt_text": True}
            async with serving(configured(*pools, records=records)) as gateway:
                shown = {"Authorization": "Bearer the-clients-own", "x-api-key": "the-clients-own"}
                for model in ("p", "p", "q"):
                    assert (await gateway.ask({**HELLO, "model": model}, headers=shown))[0] == 200
                await until(lambda: len(first.asked_for) == len(second.asked_for) == 1)
                pages = [await gateway.get(f"/admin/{page}") for page in ("fleet", "decisions", "summary", "workers")]
                metrics = await gateway.page()
                representation = repr((gateway.app.runtime.configuration, gateway.app.runtime.upstreams.of("p-0", "p")))
        keys = [worker.asked_for[0].headers.get("authorization") for worker in (first, second, third)]
        assert keys == ["Bearer pool-secret", "Bearer file-secret", "Bearer the-clients-own"]
        assert [w.asked_for[0].headers.get("x-api-key") for w in (first, second, third)] == [
            None,
            None,
            "the-clients-own",
        ]
        assert all(exchange.headers["authorization"] == "Bearer pool-secret" for exchange in first.exchanges)
        assert "secret" not in str(pages) + metrics + representation
        assert not any(b"secret" in file.read_bytes() for file in (tmp_path / "records").glob("*"))

    drive(scenario)


def test_an_unchanged_client_stays_over_a_reload_and_a_changed_file_makes_a_new_one(
    authority: trustme.CA, ca_file: str
) -> None:
    def told(url: str) -> Any:
        return parse({"pools": [pool("p", url, upstream={"ca_file": ca_file, "api_key": "k"})]})

    async def scenario() -> None:
        upstreams = Upstreams(told("https://127.0.0.1:1"))
        before = upstreams.of("p-0", "p").client
        upstreams.replace(upstreams.read(told("https://127.0.0.1:2")))
        assert upstreams.of("p-0", "p").client is before
        trustme.CA().cert_pem.write_to_path(ca_file)
        upstreams.replace(upstreams.read(told("https://127.0.0.1:2")))
        assert upstreams.of("p-0", "p").client is not before
        await upstreams.close()

    drive(scenario)
