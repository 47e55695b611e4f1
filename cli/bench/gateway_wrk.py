"""``wrk`` as the load generator: closed loop, with a script that makes every request distinct."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cli.bench.gateway_prompts import PATH, rest
from cli.bench.gateway_upstream import MODEL

__all__ = ["LUA", "Load", "LoadError", "run", "script", "wrk"]

_TIMEOUT_S = 120
"""For one answer: the slowest peer takes seconds at many connections."""

LUA = """
local ports = {}
for port in string.gmatch(os.getenv("BENCH_PORTS"), "%%d+") do ports[#ports + 1] = port end
local threads = 0

function setup(thread)
  thread:set("id", threads)
  thread.addr = wrk.lookup("127.0.0.1", ports[threads %% #ports + 1])[1]
  threads = threads + 1
end

function init(args)
  run = args[2]
  heads, prompts = {}, {}
  for line in io.lines(args[1]) do
    local key, prompt = string.match(line, "^([^\\t]*)\\t(.*)$")
    local size = %(fixed)d + #prompt
    heads[#heads + 1] = "POST %(path)s HTTP/1.1\\r\\nhost: bench\\r\\ncontent-type: application/json\\r\\n"
      .. "authorization: Bearer " .. key .. "\\r\\ncontent-length: " .. size .. "\\r\\n\\r\\n"
      .. '%(before)s' .. prompt .. " [" .. run
  end
  sent = 0
  at = (id * 7919) %% #heads
end

function request()
  sent = sent + 1
  at = at %% #heads + 1
  return heads[at] .. string.format("%%02x%%08x", id, sent) .. '%(after)s'
end

function done(summary, latency, requests)
  local e = summary.errors
  io.write(string.format(
    '\\n{"requests":%%d,"us":%%d,"bytes":%%d,"connect":%%d,"read":%%d,"write":%%d,"status":%%d,"timeout":%%d}\\n',
    summary.requests, summary.duration, summary.bytes, e.connect, e.read, e.write, e.status, e.timeout))
end
"""


class LoadError(Exception):
    """The load could not be run, or its answers were not whole."""


@dataclass(frozen=True, slots=True)
class Load:
    """What one run of a load generator saw: good answers, requests that got none, and the bytes of all answers."""

    answers: int
    seconds: float
    failed: int
    bytes: int

    @property
    def rate(self) -> float:
        """Good answers a second."""
        return self.answers / self.seconds if self.seconds else 0.0


def wrk() -> str | None:
    """The program's path, if it is installed."""
    return shutil.which("wrk")


def script(streams: bool) -> str:
    """The script for this kind of request."""
    before = f'{{"model":"{MODEL}","messages":[{{"role":"user","content":"'
    after = f']"}}],{rest(streams).decode()}}}'
    fixed = len(before) + len(" [") + 4 + 10 + len(after)  # run and tag: four and ten digits
    return LUA % {"fixed": fixed, "path": PATH, "before": before, "after": after}


def run(ports: Sequence[int], lua: Path, requests: Path, tag: str, *, connections: int, seconds: float) -> Load:
    """Load ``ports`` of this machine with so many connections in all. Raises LoadError."""
    threads = min(2, connections)
    program = wrk()
    if program is None:
        raise LoadError("wrk is not installed")
    command = [program, f"-t{threads}", f"-c{connections}", f"-d{round(seconds)}s", f"--timeout={_TIMEOUT_S}s"]
    command += ["-s", str(lua), f"http://127.0.0.1:{ports[0]}{PATH}", "--", str(requests), tag]
    environ = {**os.environ, "BENCH_PORTS": " ".join(map(str, ports))}
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=seconds + 2 * _TIMEOUT_S)
    line = next((line for line in done.stdout.splitlines() if line.startswith('{"requests"')), None)
    if done.returncode != 0 or line is None:
        raise LoadError(f"wrk failed: {(done.stderr or done.stdout).strip()[-400:]}")
    said = json.loads(line)
    failed = sum(said[kind] for kind in ("connect", "read", "write", "status", "timeout"))
    return Load(said["requests"] - said["status"], said["us"] / 1e6, failed, said["bytes"])
