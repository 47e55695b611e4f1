"""The sections of the configuration besides the pools.

Times are seconds, sizes bytes, money US dollars, unless a key's name says otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, Field, field_validator, model_validator

from controller.configuration.base import ArtifactRef, Count, NotNegative, Positive, Section, Share
from controller.configuration.tenants import TenantLimits
from controller.kv.account import KvLimits


class Listen(Section):
    """Where the gateway accepts requests."""

    host: str = "127.0.0.1"
    """Address to bind; ``0.0.0.0`` for every interface."""
    port: int = Field(8080, ge=0, le=65535)
    """TCP port; 0 takes a free one."""
    client_head_s: Positive = 10.0
    """A client has so many seconds for the head of a request; a new connection that says nothing has no more."""
    client_body_s: Positive = 30.0
    """For the body, and a second more for each 16 KiB that have arrived."""
    client_idle_s: Positive = 5.0
    """Between an answer and the next request on the same connection."""
    client_stall_s: Positive = 300.0
    """A client that takes nothing at all of its answer for so long is given up."""
    reuse_port: bool = False
    """Let another gateway process listen on the same port (``SO_REUSEPORT``), so that a new one can take over from an
    old one that drains."""
    drain_delay_s: NotNegative = 0.0
    """After SIGTERM the gateway goes on accepting for so long while ``/ready`` already answers 503, so that load
    balancers take it out before it closes its port."""


class Admin(Section):
    """The operator's endpoints, ``/admin/*``, which the status page reads too."""

    token: str | None = Field(None, min_length=8)
    """Requests to them need ``Authorization: Bearer TOKEN``; null leaves them open. Best set by
    ``HEADWAY_ADMIN__TOKEN``."""


class StageChoice(Section):
    """One implementation of a stage, and its options beside its name; ``tier: threshold`` is the name alone."""

    model_config = ConfigDict(extra="allow")

    name: str
    """Name of the implementation."""

    @model_validator(mode="before")
    @classmethod
    def _name_alone(cls, data: Any) -> Any:
        return {"name": data} if isinstance(data, str) else data

    @property
    def options(self) -> Mapping[str, Any]:
        """Every key but the name."""
        return dict(self.model_extra or {})


class Stages(Section):
    """Who decides what."""

    admit: StageChoice = StageChoice(name="bounded")
    """Whether a request is taken."""
    tier: StageChoice = StageChoice(name="threshold")
    """Which pool answers it."""
    order: StageChoice = StageChoice(name="length_rank")
    """When: its place in the queue."""
    fairness: StageChoice = StageChoice(name="none")
    """Whose turn it is."""
    place: StageChoice = StageChoice(name="least_load")
    """Which worker of the pool."""
    rebalance: StageChoice = StageChoice(name="none")
    """Whether a running request moves."""
    scale: StageChoice = StageChoice(name="none")
    """How many replicas."""

    def choices(self) -> Mapping[str, tuple[str, Mapping[str, Any]]]:
        """Stage → name and options, as :func:`controller.stages.build` takes them."""
        chosen: dict[str, StageChoice] = {stage: getattr(self, stage) for stage in type(self).model_fields}
        return {stage: (choice.name, choice.options) for stage, choice in chosen.items()}


class Scoring(Section):
    """The predictors that score requests before the stages decide."""

    budget_ms: Positive = 5.0
    """Milliseconds that a request may wait for its scores before the stages fall back."""
    when: Literal["useful", "always"] = "useful"
    """``useful`` scores a request where that can change its tier or its place in a queue; ``always`` also where it
    could be sent at once, so that its record and the worker's own scheduler have the scores."""
    length: ArtifactRef | None = "length/fast"
    """Output-length ranker; null turns it off."""
    quality: ArtifactRef | None = "quality/llmrouter"
    """Quality of each pool's answer; null turns it off."""
    remaining: ArtifactRef | None = "length/remaining"
    """Reads running streams and says what is left of them, which the workers' loads and moves go by; null goes by what
    was expected of the prompt, doubled where it is outgrown."""

    @field_validator("length", "quality", "remaining", mode="before")
    @classmethod
    def _kind_and_name(cls, ref: Any) -> Any:
        if isinstance(ref, str) and ref.count("/") != 1:
            raise ValueError("an artifact is named by its kind and its name, as in length/fast")
        return ref


class KvBudget(Section):
    """Requests wait where the KV cache of no worker has room for prompt and predicted answer."""

    share: Positive = 2.0
    """Of a worker's KV cache that is given away; more than 1 counts on it that answers are not at their longest at
    once."""
    high: bool = False
    """Reserve the 0.9 quantile of an answer's length in place of its expectation."""
    passes: Annotated[int, Field(ge=0)] = 32
    """Requests that may pass one that does not fit …"""
    hold_s: NotNegative = 10.0
    """… and seconds in which they may; then a worker is kept for it."""
    lookahead: Count = 16
    """Requests that do not fit that are looked past at one moment."""

    def limits(self) -> KvLimits:
        """The same for the control plane."""
        return KvLimits(self.share, self.high, self.passes, self.hold_s, self.lookahead)


class Limits(Section):
    """What the gateway holds at most."""

    max_body_bytes: Count = 32 * 1024 * 1024
    """A larger request is refused with 413."""
    max_json_depth: Annotated[int, Field(ge=8, le=500)] = 100
    """A body with more brackets inside each other is refused with 400."""
    max_queue: Count = 1024
    """Requests waiting; one more is refused with 429."""
    max_queue_bytes: Count = 1024 * 1024 * 1024
    """Bytes of the bodies of those that wait; a request that would exceed them is refused with 429."""
    max_queue_seconds: Positive = 60.0
    """A request that waited so long is answered with 503."""
    kv_budget: KvBudget | None = None
    """Admission against the workers' KV caches; null sends as many as the in-flight limits allow."""
    deadline_seconds: Positive | None = None
    """Deadline of requests that bring none; null for none."""
    drop_late: bool = True
    """Answer with 504 a request that is still waiting when its deadline passes."""
    tenant: TenantLimits = TenantLimits()
    """Limits of each tenant, where ``tenants`` does not say otherwise."""


class Records(Section):
    """The decision log: one Parquet row a request."""

    dir: Path | None = None
    """Folder to write to; null writes none."""
    max_bytes: Annotated[int, Field(ge=1_000_000)] = 1_000_000_000
    """The folder's files together; the oldest are deleted."""
    file_bytes: Annotated[int, Field(ge=10_000)] = 64_000_000
    """A file is closed at about this size."""
    file_seconds: Positive = 300.0
    """A file is closed at this age."""
    prompt_text: bool = False
    """Write the prompts too. Off, no record holds any text of a user."""

    @model_validator(mode="after")
    def _several_files(self) -> Self:
        if self.max_bytes < 2 * self.file_bytes:
            raise ValueError(f"max_bytes must be at least twice file_bytes, which is {self.file_bytes}")
        return self


class Retries(Section):
    """What happens when a worker fails before the first token."""

    attempts: Count = 3
    """Times a request is sent in all, each time to another worker where there is one."""
    budget: Share | None = 0.2
    """Further attempts that all requests together may take, as a share of their number: a failing fleet is not asked
    over and over. null sets no bound."""
    budget_free_per_s: NotNegative = 10.0
    """So many attempts a second are not counted. The unused ones of the last half minute, about, are saved."""
    backoff_s: NotNegative = 0.05
    """A worker that failed is given nothing for so long; doubles with each failure in a row."""
    breaker_errors: Count = 3
    """Failures in a row, of different requests, after which a worker counts as unhealthy."""
    breaker_s: Positive = 5.0
    """And for how long at first; doubles with each further failure."""
    breaker_max_s: Positive = 60.0
    """Up to so long."""
    no_worker_s: NotNegative = 2.0
    """A request waits so long for a pool that has no worker alive; then it is answered with 503."""


class Timeouts(Section):
    """How long the gateway waits for a worker."""

    connect_s: Positive = 2.0
    """For the connection."""
    first_byte_s: Positive = 600.0
    """From the request to the response's head, and from there to the first byte of its body."""
    idle_s: Positive = 120.0
    """Between two chunks of a stream."""
    total_s: Positive | None = None
    """For the whole answer, from sending the request; one that takes longer is broken off (a stream with an error as
    its last event) and not tried again. null for none."""


class Probe(Section):
    """A completion of one token, asked for to see that the engine still answers."""

    every_s: Positive = 30.0
    """Between two of them on one worker."""
    timeout_s: Positive = 30.0
    """A probe that takes longer has failed. It waits behind the worker's other requests, so allow for those."""


class Health(Section):
    """How workers are watched."""

    interval_s: Positive = 1.0
    """Between two looks at ``/health``."""
    timeout_s: Positive = 2.0
    """For one look."""
    failures: Count = 2
    """Looks in a row that must fail before a worker is taken out; one good look brings it back."""
    report_interval_s: Positive = 0.5
    """Between two readings of ``/metrics``."""
    probe: Probe | None = None
    """Ask each worker for a token from time to time; null does not. ``/health`` answers while an engine hangs: without
    a probe, only requests that time out show that."""
    restart_after: Count | None = 30
    """A worker that the gateway has started itself is ended and started anew after so many failed looks in a row;
    null leaves it."""
