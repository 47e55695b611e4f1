"""The controller's vocabulary: what comes in, what is decided, what happened.

Units everywhere: times are seconds on the caller's monotonic clock, sizes are tokens unless a name says ``chars`` or
``bytes``, money is US dollars. Everything here is frozen; the control plane keeps its own mutable state to itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from controller.values import swift

TicketId = str
PoolName = str
WorkerName = str
Tenant = str


class WorkerPhase(StrEnum):
    """Where a worker stands in its life; only ``READY`` ones are given new requests."""

    STARTING = "starting"
    READY = "ready"
    UNHEALTHY = "unhealthy"
    DRAINING = "draining"
    SLEEPING = "sleeping"


class Task(StrEnum):
    """What a model can be asked to do."""

    GENERATE = "generate"
    EMBED = "embed"
    SCORE = "score"
    RERANK = "rerank"
    CLASSIFY = "classify"
    POOL = "pool"
    """Hidden states, as vLLM's ``/pooling`` gives them."""
    TRANSCRIBE = "transcribe"
    """Speech to text, translated or not."""


@swift
@dataclass(frozen=True, slots=True)
class Needs:
    """What a request requires of a pool beyond plain text generation."""

    tools: bool = False
    structured_output: bool = False
    modalities: frozenset[str] = frozenset()
    """Input modalities besides text, for example ``{"image", "audio"}``."""
    adapter: str | None = None
    """A LoRA adapter, which the request asked for by its name."""
    task: Task | None = Task.GENERATE
    """``None`` for what every pool can do, such as counting tokens."""
    share: float = 1.0
    """Share of the prompt that has to fit into the context at once: less than 1 where the request holds several inputs,
    0 where the worker cuts them."""

    @property
    def generates(self) -> bool:
        """Whether tokens come out, so that length and quality can be predicted, and the tier chosen."""
        return self.task is Task.GENERATE


PLAIN = Needs()
"""Those of text generation and nothing else, as most requests have them."""


@swift
@dataclass(frozen=True, slots=True)
class Ticket:
    """A request while the controller knows it. Never holds the prompt's text.

    ``model`` is what the client asked for: a pool's name, a pool's model name, or an alias such as ``auto``.
    ``prompt_tokens`` is the exact count where a tokenizer was at hand; otherwise the controller estimates it from
    ``prompt_chars``. ``deadline`` is absolute (same clock as ``now``). ``prefix`` is the chain of block hashes of the
    prompt (see :func:`controller.prefix.block_hashes`), longest prefix first block first.
    """

    id: TicketId
    model: str
    tenant: Tenant = "default"
    prompt_chars: int = 0
    prompt_tokens: int | None = None
    max_tokens: int | None = None
    needs: Needs = PLAIN
    prefix: tuple[int, ...] = ()
    deadline: float | None = None
    priority: int = 0
    """The client's own priority, already clamped to its tenant's range; lower is earlier."""
    body_bytes: int = 0
    """Size of the request's body, which the gateway holds while it waits."""
    answers: int = 1
    """Answers asked for at once (``n``)."""
    session: str | None = None
    """What several requests of one conversation or program have in common, where the client says so."""
    streams: bool = True
    """Something is heard of the answer while it is being written; ``False`` for one that comes whole."""


@swift
@dataclass(frozen=True, slots=True)
class Scores:
    """What the learned predictors say of one request. ``None`` where a predictor is absent or out of distribution.

    ``length_rank`` orders requests of any pool by expected output length (higher = longer; unitless).
    ``output_tokens`` is the expected output length in tokens, ``output_high`` its 0.9 quantile, and ``output_tail``
    what is expected beyond that quantile (CVaR at 0.9). ``quality`` maps pool name to the expected quality in [0, 1] of
    that pool's answer.
    """

    length_rank: float | None = None
    output_tokens: float | None = None
    quality: Mapping[PoolName, float] | None = None
    output_high: float | None = None
    output_tail: float | None = None


@dataclass(frozen=True, slots=True)
class WorkerSpec:
    """One OpenAI-compatible server process, as configured."""

    name: WorkerName
    pool: PoolName
    url: str
    max_inflight: int = 32
    priority_scheduling: bool = False
    """The worker runs ``--scheduling-policy priority``, so the queue's order may be passed down to it."""
    kv_tokens: int | None = None
    """Tokens that fit into its KV cache; ``None`` for as many as its pool says."""


@swift
@dataclass(frozen=True, slots=True)
class WorkerReport:
    """One reading of a worker's own metrics. ``at`` is when it was read; it may be stale by then."""

    at: float
    running: int
    waiting: int
    kv_usage: float
    """Share of the KV cache in use, 0 to 1."""


@dataclass(frozen=True, slots=True)
class PoolSpec:
    """The workers that serve one model, and what that model can do. ``tier`` ranks pools by quality, 0 the lowest."""

    name: PoolName
    model: str
    tier: int
    context_length: int = 8192
    tools: bool = True
    structured_output: bool = True
    modalities: frozenset[str] = frozenset()
    adapters: frozenset[str] = frozenset()
    tasks: frozenset[Task] = frozenset({Task.GENERATE})
    prior_quality: float = 0.5
    """Expected quality in [0, 1] where no predictor says better."""
    input_usd_per_mtok: float = 0.0
    output_usd_per_mtok: float = 0.0
    profile: str | None = None
    """Name of the engine profile (``models/profile/NAME``) that describes a worker's timing."""
    kv_tokens: int | None = None
    """Tokens that fit into one worker's KV cache; ``None`` for what its reports tell."""


@swift
@dataclass(frozen=True, slots=True)
class Rejected:
    """The request is not taken. ``status`` is the HTTP status to answer with; ``retry_after`` is in seconds."""

    ticket: TicketId
    status: int
    code: str
    message: str
    retry_after: float | None = None


@swift
@dataclass(frozen=True, slots=True)
class Admitted:
    """The request is queued. ``wants_scores`` asks the driver to score it and call ``on_scores`` within the budget."""

    ticket: TicketId
    wants_scores: bool


@swift
@dataclass(frozen=True, slots=True)
class Dispatch:
    """Send this request to this worker now. ``priority`` is ``None`` where the worker does not schedule by it."""

    ticket: TicketId
    pool: PoolName
    worker: WorkerName
    url: str
    model: str
    priority: int | None
    attempt: int


@swift
@dataclass(frozen=True, slots=True)
class Requeued:
    """After a worker's failure the request waits again, for another worker."""

    ticket: TicketId
    attempt: int


@dataclass(frozen=True, slots=True)
class Scale:
    """Bring a pool to this many replicas. ``reason`` is for the operator."""

    pool: PoolName
    replicas: int
    reason: str


@dataclass(frozen=True, slots=True)
class Move:
    """Move a running request to another worker. ``reason`` is for the operator."""

    ticket: TicketId
    worker: WorkerName | None
    """``None``: it gives its seat up, and waits for its turn again."""
    reason: str


@swift
@dataclass(frozen=True, slots=True)
class Tick:
    """What time alone has brought about."""

    rejected: tuple[Rejected, ...] = ()
    """Tickets that left the queue because a deadline or the queue's time limit passed."""
    scale: tuple[Scale, ...] = ()
    moves: tuple[Move, ...] = ()
    """Running requests that the driver should break off, if they can go on elsewhere, and report by ``on_moved``."""
    next_at: float | None = None
    """When ``tick`` should be called again at the latest; ``None`` if nothing is due."""


class Result(StrEnum):
    """How a request ended."""

    COMPLETED = "completed"
    REJECTED = "rejected"
    FAILED = "failed"
    ABORTED = "aborted"


@swift
@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts as the worker reported them."""

    prompt_tokens: int
    output_tokens: int
    cached_tokens: int | None = None
    """Of the prompt's; ``None`` where the worker does not say, which need not mean that there were none."""


@swift
@dataclass(frozen=True, slots=True)
class Alternative:
    """One choice that a stage weighed. ``score`` is in the stage's own units; higher is better."""

    name: str
    score: float | None
    eligible: bool = True
    why: str = ""


@swift
@dataclass(frozen=True, slots=True)
class Choice:
    """One stage's decision about one ticket."""

    stage: str
    """For example ``tier``."""
    by: str
    """Name of the implementation that decided, for example ``best_effort``; the fallback's name where it stood in."""
    chosen: str
    alternatives: tuple[Alternative, ...] = ()
    propensity: float = 1.0
    fallback: str | None = None
    """Why the configured implementation did not decide: ``no_artifact``, ``timeout``, ``out_of_distribution``, …"""
    features: tuple[float, ...] = ()
    artifact: str | None = None
    """SHA-256 of the artifact's manifest."""


@swift
@dataclass(frozen=True, slots=True)
class DecisionRecord:
    """Everything needed to explain and replay what was decided for one request, and how it ended."""

    ticket: TicketId
    tenant: Tenant
    model: str
    submitted_at: float
    prompt_tokens: int
    max_tokens: int | None
    scores: Scores | None
    choices: tuple[Choice, ...]
    pool: PoolName | None
    worker: WorkerName | None
    attempts: int
    dispatched_at: float | None
    first_token_at: float | None
    finished_at: float
    result: Result
    code: str | None
    usage: Usage | None
    continued: int = 0
    """Times the answer went on with another worker after its first token."""
