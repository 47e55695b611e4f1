"""Workers, gateways and load of the demo: everything between the command and the table."""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from cli.demo.policies import DemoPolicy
from cli.demo.results import Outcome, Row, Stages, measured
from cli.demo.unloaded import Unloaded, Worded, ask_unloaded

__all__ = ["DemoError", "DemoRequest", "DemoWorkers", "Demonstration"]

_LEARNED = frozenset({"length", "quality", "best_effort", "router"})
"""Implementations behind which stands a trained artifact."""
_SETTLE_S = 1.0
"""Between two policies, so that the workers are idle again."""


class DemoError(Exception):
    """A process of the demo did not come up. The message says which, and how its log ends."""


@dataclass(frozen=True, slots=True)
class DemoRequest:
    """A task that is asked at a time. ``peak`` is the chance that the best pool answers rightly, where known."""

    at: float
    prompt: str
    max_tokens: int
    deadline_s: float
    in_burst: bool
    peak: float | None
    grade: Callable[[str], bool]

    def worded(self) -> Worded:
        """What is asked, and how the answer is judged."""
        body = {
            "messages": [{"role": "user", "content": self.prompt}],
            "max_tokens": self.max_tokens,
            "temperature": 0,
        }
        return Worded(body, self.grade)


@dataclass(frozen=True, slots=True)
class DemoWorkers:
    """The pools as the configuration has them, and the command that starts a worker of each."""

    pools: Sequence[Mapping[str, Any]]
    commands: Mapping[str, tuple[str, ...]]
    environment: Mapping[str, str] | None = None
    """What the processes inherit; this process's own environment if ``None``."""
    start_timeout_s: float = 60.0
    gpus: Mapping[str, float] = field(default_factory=dict)
    """GPUs that a worker of a pool stands for; 1 where not said."""
    ask_unloaded: bool = False
    """Nobody knows how well the pools answer: each is asked the whole workload beforehand, with nothing waiting."""


class Demonstration:
    """One run of the demo. Use in order: workers, then for each policy gateway, replay, stop; close at the end."""

    def __init__(
        self,
        workers: DemoWorkers,
        policies: tuple[DemoPolicy, ...],
        requests: Sequence[DemoRequest],
        *,
        about: Mapping[str, Any],
        seed: int,
        port: int,
        logs: Path | None,
    ) -> None:
        self.policies = policies
        self.requests = requests
        self.seed = seed
        self.logs = logs or Path(tempfile.mkdtemp(prefix="headway-demo-"))
        self._about = about
        self._workers = workers
        self._port = port
        self._urls: dict[str, str] = {}
        self._actuator: Any = None
        self._gateway: str | None = None
        self._unloaded: dict[str, Unloaded] = {}

    @classmethod
    def of(cls, engine: str, *, seed: int | None, scale: float, port: int, logs: Path | None) -> Demonstration:
        """The demo on simulated workers (``sim``) or on vLLM servers on this machine's CPU (``vllm``).

        Raises :class:`DemoError` or :class:`ModuleNotFoundError` where something is missing for that.
        """
        from cli.demo import sim, vllm

        build = sim.build if engine == "sim" else vllm.build
        workers, policies, requests, about = build(seed=seed, scale=scale)
        chosen = int(about["seed"])
        return cls(workers, policies, requests, about=about, seed=chosen, port=port, logs=logs)

    def settings(self) -> dict[str, Any]:
        """What would reproduce the run, and how the pools answered unloaded where they were asked."""
        unloaded = {pool: answers.summary() for pool, answers in self._unloaded.items()}
        return {
            **self._about,
            **({"unloaded": unloaded} if unloaded else {}),
            "requests": len(self.requests),
            "pools": [dict(pool) for pool in self._workers.pools],
            "policies": {p.name: {"stages": dict(p.stages), "scoring": dict(p.scoring)} for p in self.policies},
        }

    async def start_workers(self) -> None:
        """Start one worker a pool, all at once. Raises :class:`DemoError`."""
        from controller.actuators.process import ProcessActuator
        from controller.configuration import ProcessActuatorOptions
        from controller.errors import HeadwayError
        from upstream.probe import answers

        options = {
            pool: ProcessActuatorOptions(
                command=command,
                ports=_worker_ports(os.getpid()),
                start_timeout_s=self._workers.start_timeout_s,
                stop_grace_s=10.0,
            )
            for pool, command in self._workers.commands.items()
        }
        options |= {policy.name: self._gateway_options(policy) for policy in self.policies}
        environ = os.environ if self._workers.environment is None else self._workers.environment
        self._actuator = ProcessActuator(options, logs=self.logs, environ=environ, probe=answers)
        try:
            specs = await asyncio.gather(*(self._actuator.start(pool) for pool in self._workers.commands))
        except HeadwayError as error:
            raise DemoError(str(error)) from error
        self._urls = {spec.pool: spec.url for spec in specs}

    @property
    def unloaded_questions(self) -> int:
        """How many answers :meth:`ask_unloaded` will take; 0 where the peak is known."""
        return len(self.requests) * len(self._workers.pools) if self._workers.ask_unloaded else 0

    async def ask_unloaded(self, advance: Callable[[], None]) -> Mapping[str, Unloaded]:
        """Ask each worker the whole workload, one worker after another and no more at once than it has seats for.

        Whether the highest tier answers a prompt rightly then is that prompt's peak. Raises :class:`DemoError` where a
        worker did not answer.
        """
        from upstream.client import Client

        questions = [request.worded() for request in self.requests]
        async with Client() as client:
            for pool in sorted(self._workers.pools, key=lambda pool: int(pool["tier"])):
                name, model, seats = str(pool["name"]), str(pool["model"]), int(pool["max_inflight"])
                found = await ask_unloaded(client, self._urls[name], model, questions, at_once=seats, on_end=advance)
                if found.failed:
                    raise DemoError(
                        f"pool {name} left {found.failed} of {len(questions)} prompts unanswered; see {self.logs}"
                    )
                self._unloaded[name] = found
        self.requests = [
            replace(request, peak=float(right)) for request, right in zip(self.requests, found.correct, strict=True)
        ]
        return self._unloaded

    async def start_gateway(self, policy: DemoPolicy) -> str:
        """Start the gateway under a policy; its URL. Raises :class:`DemoError`."""
        from controller.errors import HeadwayError

        path = self._configuration_path(policy)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(yaml.safe_dump(self._configuration(policy), sort_keys=False), encoding="utf-8")
        try:
            spec = await self._actuator.start(policy.name)
        except HeadwayError as error:
            raise DemoError(str(error)) from error
        self._gateway = spec.name
        return str(spec.url)

    async def stop_gateway(self) -> None:
        """End the gateway, and let the workers come to rest."""
        if self._gateway is not None:
            await self._actuator.stop(self._gateway)
            self._gateway = None
            await asyncio.sleep(_SETTLE_S)

    async def replay(self, policy: str, advance: Callable[[], None]) -> Row:
        """Send the workload to the running gateway and read its counters; ``advance`` is called at each answer."""
        from envs.replay import replay
        from upstream.client import Client
        from upstream.types import Timeouts

        url = f"http://127.0.0.1:{self._port}"
        loop = asyncio.get_running_loop()
        async with Client() as client:
            started = loop.time()
            replayed = await replay(
                client,
                f"{url}/v1/chat/completions",
                [_as_sent(request) for request in self.requests],
                timeouts=Timeouts(total=120.0),
                on_end=lambda _: advance(),
            )
            seconds = loop.time() - started
            stages = await _stages(client, url)
        outcomes = [self._outcome(*pair) for pair in zip(self.requests, replayed, strict=True)]
        gpus = sum(self._workers.gpus.get(pool, 1.0) for pool in self._workers.commands)
        return measured(policy, outcomes, seconds=seconds, gpu_seconds=gpus * seconds, stages=stages, seed=self.seed)

    async def close(self) -> None:
        """Stop every process."""
        if self._actuator is not None:
            await self._actuator.close()

    def _outcome(self, request: DemoRequest, replayed: Any) -> Outcome:
        exchange = replayed.exchange
        whole = exchange.error is None
        models = {str(pool["model"]): str(pool["name"]) for pool in self._workers.pools}
        return Outcome(
            status=exchange.status,
            whole=whole,
            correct=whole and request.grade(exchange.text),
            ttft=exchange.ttft,
            e2e=exchange.e2e,
            deadline=request.deadline_s,
            in_burst=request.in_burst,
            peak=request.peak,
            pool=models.get(exchange.model or ""),
            late_by=replayed.late_by,
        )

    def _configuration_path(self, policy: DemoPolicy) -> Path:
        return self.logs / f"{policy.name}.yaml"

    def _configuration(self, policy: DemoPolicy) -> dict[str, Any]:
        pools = []
        for pool in self._workers.pools:
            worker = {key: value for key, value in pool.items() if key in ("max_inflight", "priority_scheduling")}
            rest = {key: value for key, value in pool.items() if key not in worker}
            pools.append({**rest, "workers": [{"url": self._urls[str(pool["name"])], **worker}]})
        return {
            "listen": {"host": "127.0.0.1", "port": self._port},
            "pools": pools,
            "stages": dict(policy.stages),
            "scoring": dict(policy.scoring),
            "limits": {"max_queue": self._about["max_queue"]},
            "seed": self.seed,
        }

    def _gateway_options(self, policy: DemoPolicy) -> Any:
        from controller.configuration import ProcessActuatorOptions

        return ProcessActuatorOptions(
            command=headway("serve", "--config", str(self._configuration_path(policy)), "--port", "{port}"),
            ports=f"{self._port}-{self._port}",
            start_timeout_s=60.0,
            stop_grace_s=10.0,
        )


def _worker_ports(pid: int) -> str:
    """A hundred ports that two demos at once hardly share: a server that is still starting does not look taken."""
    first = 18_100 + 100 * (pid % 48)
    return f"{first}-{first + 99}"


def headway(*arguments: str) -> tuple[str, ...]:
    """The command line of this very installation."""
    return (sys.executable, "-m", "cli.main", *arguments)


def _as_sent(request: DemoRequest) -> Any:
    from envs.replay import ReplayRequest

    deadline = str(round(request.deadline_s * 1000)).encode()
    return ReplayRequest(
        request.at, {"model": "auto", **request.worded().body}, ((b"x-headway-deadline-ms", deadline),)
    )


async def _stages(client: Any, url: str) -> Stages:
    """The gateway's own counters of what its learned stages did."""
    from prometheus_client.parser import text_string_to_metric_families

    async with client.stream(b"GET", f"{url}/metrics") as response:
        page = (await response.body()).decode()
    counts = {"scored": 0, "skipped": 0, "fallback": 0}
    for family in text_string_to_metric_families(page):
        for sample in family.samples:
            if sample.name == "headway_stage_total" and sample.labels["implementation"] in _LEARNED:
                counts[sample.labels["outcome"]] += int(sample.value)
    return Stages(counts["scored"], counts["skipped"], counts["fallback"])
