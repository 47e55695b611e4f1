"""Command lines of tiny workers, and a probe that needs no client library."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from controller.configuration import ProcessActuatorOptions

_SERVER = """
import http.server, os, signal, socketserver, subprocess, sys

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response({status} if self.path == "/health" else 404)
        self.end_headers()
    def log_message(self, *_):
        pass

{before}
print("listening", sys.argv[2], flush=True)
class Server(http.server.HTTPServer):
    def server_bind(self):
        socketserver.TCPServer.server_bind(self)

Server(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


def server(before: str = "", status: int = 200) -> tuple[str, ...]:
    """Answers ``/health`` with the status, once it has run the statements before."""
    return (
        sys.executable,
        "-IS",
        "-c",
        _SERVER.replace("{status}", str(status)).replace("{before}", before),
        "{port}",
        "{name}",
    )


def options(command: Sequence[str], ports: str | None = None, **changes: object) -> ProcessActuatorOptions:
    """Options with short times."""
    values = {"start_timeout_s": 20.0, "stop_grace_s": 5.0, **changes}
    return ProcessActuatorOptions.model_validate({"command": tuple(command), "ports": ports or free_ports(2), **values})


def free_ports(count: int) -> str:
    """A range of ports that are free now."""
    for first in range(23_000, 31_000, count):
        if all(_free(port) for port in range(first, first + count)):
            return f"{first}-{first + count - 1}"
    raise AssertionError("no free ports")


def _free(port: int) -> bool:
    with socket.socket() as trial:
        try:
            trial.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


class ProcessInfo(NamedTuple):
    """A process that is no zombie."""

    id: int
    parent: int
    group: int


def processes_alive() -> list[ProcessInfo]:
    """Every process of this machine, as far as it can be seen."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdecimal():
                state, parent, group = (entry / "stat").read_text().rpartition(")")[2].split()[:3]
                found += [] if state == "Z" else [ProcessInfo(int(entry.name), int(parent), int(group))]
    return found


async def probe(url: str) -> bool:
    """Whether a GET answers 200."""
    host, _, path = url.removeprefix("http://").partition("/")
    name, _, port = host.partition(":")
    try:
        reader, writer = await asyncio.open_connection(name, int(port))
    except OSError:
        return False
    try:
        writer.write(f"GET /{path} HTTP/1.0\r\n\r\n".encode())
        return b" 200 " in await reader.readline()
    except OSError:
        return False
    finally:
        writer.close()
