"""The run: every target once a round in a rotating order, so that a busy minute of the machine is everybody's."""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

from rich.console import Console

from cli.bench.gateway_client import closed_loop, is_whole, open_loop, poisson, sample
from cli.bench.gateway_config import Keys, Scored, scored
from cli.bench.gateway_config import launch as launch_headway
from cli.bench.gateway_peers import PEERS, clean_environment, environment_of, launch, version
from cli.bench.gateway_processes import Server, fake_upstream
from cli.bench.gateway_prompts import Requests, prompts, write
from cli.bench.gateway_report import DIRECT, OURS, Delay, Measured, Tables
from cli.bench.gateway_upstream import TEXT
from cli.bench.gateway_wrk import Load, LoadError, run, script, wrk

__all__ = ["MODES", "Bench", "Outcome", "Plan", "Target"]

MODES = ("streaming", "plain")
_UPSTREAMS = 2
_SAMPLE = 8
"""Answers that are looked at before each round, one by one."""
_PEER_START_S = 180.0
_SETTLE_S = 0.3
_HEADROOM = 1.3
"""A target whose closed-loop rate is not so much above the open loop's is not measured at it: it would only queue."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What to measure."""

    peers: tuple[str, ...]
    rounds: int
    connections: tuple[int, ...]
    seconds: int
    rate: float
    processes: int
    seed: int

    def settings(self) -> dict[str, Any]:
        """For the report."""
        return {
            "peers": list(self.peers),
            "rounds": self.rounds,
            "connections": list(self.connections),
            "seconds": self.seconds,
            "rate": self.rate,
            "processes": self.processes,
        }


@dataclass(frozen=True, slots=True)
class Target:
    """What is loaded: one port, or for direct all upstreams'."""

    name: str
    ports: tuple[int, ...]
    server: Server | None


@dataclass(slots=True)
class Outcome:
    """What was found. ``failed`` counts headway's and direct's requests without a whole answer."""

    tables: Tables
    scored: Scored
    settings: dict[str, Any]
    failed: int = 0


@dataclass(slots=True)
class Bench:
    """One run. ``stack`` stops what it starts."""

    plan: Plan
    work: Path
    envs: Path
    console: Console
    stack: ExitStack
    targets: list[Target] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=dict)
    _tags: Any = field(default_factory=lambda: (f"{n:04x}" for n in count(1)))

    def prepare(self, count_: int) -> None:
        """Install what is missing, write the requests, start the upstreams, headway and the peers. Raises LoadError."""
        homes = {}
        for name in self.plan.peers:
            self._say(f"environment of {name} in {self.envs}")
            homes[name] = environment_of(PEERS[name], self.envs)
            self.versions[name] = version(PEERS[name], homes[name])
        self._say(f"{count_} prompts")
        keys = Keys.issue()
        write(self.work / "requests", prompts(count_, self.plan.seed), keys.shown)
        for mode in MODES:
            (self.work / f"{mode}.lua").write_text(script(mode == "streaming"))
        environ = clean_environment()
        upstreams = [self._keep(fake_upstream(i, self.work, environ)) for i in range(_UPSTREAMS)]
        urls = [f"http://127.0.0.1:{server.port}" for server in upstreams]
        self.targets = [Target(DIRECT, tuple(server.port for server in upstreams), None)]
        self._say("starting headway and its peers")
        self._add(launch_headway(urls, self.work, keys, self.plan.processes))
        for name in self.plan.peers:
            self._add(launch(PEERS[name], homes[name], urls, self.work))
        for target in self.targets:
            if target.server is not None:
                target.server.wait(lambda target=target: self._answers(target), _PEER_START_S)  # type: ignore[misc]

    def run(self) -> Outcome:
        """All rounds. Raises LoadError."""
        ours = self._ours()
        tables = Tables()
        self._warm_up()
        before = scored(ours)
        outcome = Outcome(tables, before, {"generator": "wrk" if wrk() else "own (wrk is missing)"})
        outcome.settings["versions"] = self.versions
        for number in range(self.plan.rounds):
            shift = number % len(self.targets)
            for target in [*self.targets[shift:], *self.targets[:shift]]:
                self._say(f"round {number + 1} of {self.plan.rounds}: {target.name}")
                self._check(target)
                self._round(number, target, outcome)
        time.sleep(_SETTLE_S)
        outcome.scored = scored(ours).since(before)
        return outcome

    def _round(self, number: int, target: Target, outcome: Outcome) -> None:
        tables = outcome.tables
        counts = target.name in (OURS, DIRECT)
        for mode in MODES:
            for connections in self.plan.connections:
                measured = self._load(number, target, mode, connections)
                tables.loads.setdefault((target.name, mode, connections), []).append(measured)
                outcome.failed += measured.failed if counts else 0
            if self.plan.rate and self._bears(target.name, mode, tables):
                delay = self._delay(number, target, mode)
                tables.delays.setdefault((target.name, mode), []).append(delay)
                outcome.failed += delay.failed if counts else 0

    def _load(self, number: int, target: Target, mode: str, connections: int) -> Measured:
        before = None if target.server is None else target.server.cost()
        load = self._generate(target, mode, connections)
        time.sleep(_SETTLE_S)
        after = None if target.server is None else target.server.cost()
        expected = len(TEXT.encode()) * load.answers
        if load.bytes < expected:
            raise LoadError(
                f"{target.name} answered {load.answers} times with {load.bytes} bytes in all: they are not whole"
            )
        if before is None or after is None:
            return Measured(number, load.rate, load.failed, None, None)
        each = (after.cpu_s - before.cpu_s) / load.answers * 1000 if load.answers else None
        return Measured(number, load.rate, load.failed, each, after.rss_bytes / 1e6)

    def _generate(self, target: Target, mode: str, connections: int) -> Load:
        requests, tag, seconds = self.work / "requests", next(self._tags), self.plan.seconds
        if wrk() is not None:
            lua = self.work / f"{mode}.lua"
            return run(target.ports, lua, requests, tag, connections=connections, seconds=seconds)
        feed = Requests.read(requests, tag, mode == "streaming")
        return closed_loop(target.ports, feed, connections=connections, seconds=seconds)

    def _delay(self, number: int, target: Target, mode: str) -> Delay:
        """All targets of a round see the same arrivals."""
        due = poisson(self.plan.rate, self.plan.seconds, self.plan.seed * 1009 + number)
        feed = Requests.read(self.work / "requests", next(self._tags), mode == "streaming")
        found = open_loop(target.ports, feed, due)
        return Delay.of(number, found.first, found.whole, found.failed)

    def _bears(self, name: str, mode: str, tables: Tables) -> bool:
        best = max(
            run.rps for (who, how, _), runs in tables.loads.items() if (who, how) == (name, mode) for run in runs
        )
        return best >= _HEADROOM * self.plan.rate

    def _check(self, target: Target) -> None:
        """Every answer of a sample is whole. Raises LoadError."""
        for mode in MODES:
            feed = Requests.read(self.work / "requests", next(self._tags), mode == "streaming")
            for status, body in sample(target.ports, feed, _SAMPLE):
                if status != 200 or not is_whole(body, feed.streams):
                    raise LoadError(f"{target.name}, {mode}: status {status}, and no whole answer: {body[:300]!r}")

    def _answers(self, target: Target) -> bool:
        feed = Requests.read(self.work / "requests", next(self._tags), False)
        try:
            return all(status == 200 for status, _ in sample(target.ports, feed, 2))
        except LoadError:
            return False

    def _warm_up(self) -> None:
        """Some load for each, so that nobody is measured cold."""
        for target in self.targets:
            for mode in MODES:
                feed = Requests.read(self.work / "requests", next(self._tags), mode == "streaming")
                closed_loop(target.ports, feed, connections=8, seconds=min(1.0, 0.2 * self.plan.seconds))

    def _ours(self) -> Server:
        return next(t.server for t in self.targets if t.name == OURS and t.server is not None)

    def _add(self, server: Server) -> None:
        self.targets.append(Target(server.name, (server.port,), self._keep(server)))

    def _keep(self, server: Server) -> Server:
        self.stack.callback(server.stop)
        return server

    def _say(self, what: str) -> None:
        self.console.print(what, highlight=False)
