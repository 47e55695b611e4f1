"""The sections that describe the fleet: pools, their workers, and what starts further ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, field_validator, model_validator

from controller.configuration.base import Count, ModelName, Name, NotNegative, Positive, Section, Share
from controller.configuration.reaching import Discovery, Upstream
from controller.types import PoolSpec, Task, WorkerSpec


def base_url(url: str) -> str:
    """A worker's URL without a slash at its end. Raises ValueError for one that cannot be one."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise ValueError("not a base URL; write it like http://10.0.0.5:8000")
    if not (parts.port is None or 0 < parts.port < 65536):
        raise ValueError("not a port; it must lie between 1 and 65535")
    if "@" in parts.netloc:
        raise ValueError("a URL must hold no user or password; give the key as upstream.api_key_env")
    if parts.path.rstrip("/").endswith("/v1"):
        raise ValueError("leave /v1 out: the gateway appends it")
    return url.rstrip("/")


def zmq_endpoint(endpoint: str) -> str:
    """Where a ZeroMQ socket of another program is found. Raises ValueError for what cannot be connected to."""
    if "*" in endpoint:
        raise ValueError("* is the server's own spelling, for every address; name the host, like tcp://10.0.0.5:5557")
    parts = urlsplit(endpoint)
    if parts.scheme == "ipc" and endpoint.startswith("ipc://") and len(endpoint) > len("ipc://"):
        return endpoint
    if parts.scheme != "tcp" or not parts.hostname or parts.path or parts.query or parts.fragment or "@" in endpoint:
        raise ValueError("not an endpoint; write it like tcp://10.0.0.5:5557, or ipc:///run/vllm.sock on one machine")
    if parts.port is None or not 0 < parts.port < 65536:
        raise ValueError("needs a port between 1 and 65535, like tcp://10.0.0.5:5557")
    return endpoint


Endpoint = Annotated[str, AfterValidator(zmq_endpoint)]


class KvEvents(Section):
    """Where a worker publishes its KV-cache events (vLLM's ``--kv-events-config``), as seen from the gateway.

    Needs the extra ``headway[kv-events]``.
    """

    endpoint: Endpoint
    """``tcp://HOST:PORT``, or ``ipc://PATH`` on the same machine."""
    replay_endpoint: Endpoint | None = None
    """The same for missed events. Without it, each lost connection costs what was known of the worker's cache."""
    topic: str = ""
    """As the worker's own; every topic if not given."""


class Worker(Section):
    """One OpenAI-compatible server that is already running."""

    name: Name | None = None
    """What metrics and decisions call it; ``POOL-INDEX`` if not given."""
    url: str
    """Base URL without ``/v1``, for example ``http://10.0.0.5:8000``."""
    max_inflight: Count = 32
    """Requests the gateway keeps running there at most; the rest wait in the gateway's queue."""
    priority_scheduling: bool = False
    """The server runs ``--scheduling-policy priority``, so the queue's order is passed down to it."""
    upstream: Upstream | None = None
    """Key and TLS settings of its own, in place of all of the pool's."""
    kv_events: KvEvents | None = None
    """Listen to what its KV cache holds, so that placement by prefix knows instead of guessing."""

    @field_validator("url")
    @classmethod
    def _base_url(cls, url: str) -> str:
        return base_url(url)


class Price(Section):
    """What tokens cost, in US dollars per million."""

    input_usd_per_mtok: NotNegative = 0.0
    """Prompt tokens."""
    output_usd_per_mtok: NotNegative = 0.0
    """Generated tokens."""


class Replicas(Section):
    """How many workers the ``scale`` stage may give the pool through its actuator, the listed ones counted."""

    min: int = Field(1, ge=0)
    """Never fewer."""
    max: Count = 1
    """Never more."""
    initial: int | None = Field(None, ge=0)
    """At start-up; ``min`` if not given."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if not self.min <= self.at_start <= self.max:
            raise ValueError(f"needs min <= initial <= max, not {self.min}, {self.at_start}, {self.max}")
        return self

    @property
    def at_start(self) -> int:
        """Replicas to start with."""
        return self.min if self.initial is None else self.initial


class ProcessActuatorOptions(Section):
    """Starts and stops workers as processes on the gateway's machine."""

    kind: Literal["process"] = "process"
    """Which actuator; ``process`` is the one there is."""
    command: tuple[str, ...] = Field(min_length=1)
    """The server's command line. ``{port}`` and ``{name}`` stand for the port chosen and the worker's name."""
    ports: str = Field("8100-8199", pattern=r"^\d{1,5}-\d{1,5}$")
    """Range of ports to choose from, both ends included."""
    environment: Mapping[str, str | None] = Field(default_factory=dict)
    """Variables set for the process, over those it inherits; null takes one away."""
    max_inflight: Count = 32
    """As for a worker that is listed."""
    priority_scheduling: bool = False
    """As for a worker that is listed."""
    start_timeout_s: Positive = 600.0
    """A process that does not answer ``/health`` by then is killed, and its start reported as failed."""
    stop_grace_s: NotNegative = 30.0
    """From SIGTERM to SIGKILL."""

    @field_validator("command")
    @classmethod
    def _has_port(cls, command: tuple[str, ...]) -> tuple[str, ...]:
        if not any("{port}" in word for word in command):
            raise ValueError("no word holds {port}, so the server would not listen where the gateway looks for it")
        return command

    @field_validator("ports")
    @classmethod
    def _port_range(cls, ports: str) -> str:
        first, last = map(int, ports.split("-"))
        if not 1 <= first <= last <= 65535:
            raise ValueError("not a range of ports; write it like 8100-8199, within 1-65535")
        return ports

    @property
    def port_range(self) -> range:
        """The ports to choose from."""
        first, last = map(int, self.ports.split("-"))
        return range(first, last + 1)


class Pool(Section):
    """The workers that serve one model, and what that model can do."""

    name: Name
    """What decisions and metrics call it; clients may ask for it by this name too."""
    model: ModelName
    """The model's name as its workers know it (``--served-model-name``)."""
    tier: int = Field(ge=0)
    """Rank in the quality ladder, 0 the lowest; no two pools share one."""
    context_length: Count = 8192
    """Prompt and output tokens together (``--max-model-len``)."""
    tools: bool = True
    """Serves requests with tools."""
    structured_output: bool = True
    """Serves requests with a response format or a grammar."""
    modalities: frozenset[Name] = frozenset()
    """Input besides text, for example ``image`` or ``audio``."""
    adapters: frozenset[str] = frozenset()
    """LoRA adapters that its workers have loaded; clients may ask for each by its name."""
    tasks: frozenset[Task] = Field(frozenset({Task.GENERATE}), min_length=1)
    """What its model is asked to do; requests for anything else never go there."""
    prior_quality: Share = 0.5
    """Expected quality of its answers, 0 to 1, where no predictor says better."""
    quality_model: str | None = None
    """The model of the quality predictor's artifact that stands for this pool; ``model`` if not given."""
    price: Price = Price()
    """What its tokens cost."""
    profile: Name | None = None
    """Engine profile (``models/profile/NAME``) that describes a worker's timing."""
    kv_tokens: Count | None = None
    """Tokens that fit into one worker's KV cache, as vLLM logs them at its start; null learns it from what the workers
    report."""
    workers: tuple[Worker, ...] = ()
    """Servers that are already running."""
    discovery: Discovery | None = None
    """Where further workers come from: ``kind: dns``, or ``kind: admin`` where the admin API brings them."""
    upstream: Upstream = Upstream()
    """The key and the TLS settings with which its workers are spoken to."""
    replicas: Replicas = Replicas()
    """Bounds for the actuator, which is needed if they are given."""
    actuator: ProcessActuatorOptions | None = None
    """Starts and stops further workers."""

    @model_validator(mode="after")
    def _served(self) -> Self:
        if not self.workers and self.actuator is None and self.discovery is None:
            raise ValueError("nothing serves this pool; list its workers, or give it discovery or an actuator")
        if "replicas" in self.model_fields_set and self.actuator is None:
            raise ValueError("replicas need an actuator that starts them; add one, or leave replicas out")
        if self.actuator is not None and self.replicas.max < len(self.workers):
            raise ValueError(f"replicas.max counts the {len(self.workers)} listed workers too, so it cannot be lower")
        return self

    def spec(self) -> PoolSpec:
        """What the control plane is told of the pool."""
        return PoolSpec(
            name=self.name,
            model=self.model,
            tier=self.tier,
            context_length=self.context_length,
            tools=self.tools,
            structured_output=self.structured_output,
            modalities=frozenset(self.modalities),
            adapters=self.adapters,
            tasks=self.tasks,
            prior_quality=self.prior_quality,
            input_usd_per_mtok=self.price.input_usd_per_mtok,
            output_usd_per_mtok=self.price.output_usd_per_mtok,
            profile=self.profile,
            kv_tokens=self.kv_tokens,
        )

    def worker_name(self, index: int) -> str:
        """The name of the worker at this place in ``workers``."""
        return self.workers[index].name or f"{self.name}-{index}"

    def worker_specs(self) -> tuple[WorkerSpec, ...]:
        """The listed workers, in order."""
        return tuple(
            WorkerSpec(self.worker_name(i), self.name, worker.url, worker.max_inflight, worker.priority_scheduling)
            for i, worker in enumerate(self.workers)
        )

    def upstreams(self) -> Mapping[str, Upstream]:
        """How each listed worker is reached, by its name."""
        return {self.worker_name(i): worker.upstream or self.upstream for i, worker in enumerate(self.workers)}
