"""An engine's profile: its fitted timing, its limits, and how good a model the simulated ladder takes it to be."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Final

from predictors import artifact

KIND: Final = "profile"
FILE: Final = "profile.json"


class ProfileError(ValueError):
    """A profile's values contradict each other or are out of range; the message names the field."""


@dataclass(frozen=True, slots=True)
class Profile:
    """How long an engine takes, what it can hold, and what it costs.

    One iteration takes ``a + b·P + c·B + d·S`` seconds: P prefill tokens, B decoding sequences, S the sum of their
    context lengths (the form of BLIS' black-box model with the attention term added). B is padded to the size of the
    CUDA graph that is run (``graph_step``), and beyond ``wide_batch`` sequences, where the weights' products stop being
    bound by reading them, each one takes ``wide_s`` more. The weights are read while the
    prompt's products are computed, which hides up to ``overlap_s`` of ``b·P`` (the roofline's knee). A prefilling step
    of more than ``graph_tokens`` tokens runs outside the captured CUDA graphs and takes at least ``eager_floor_s``, the
    time to launch its kernels; a smaller one, whose attention alone is launched, at least ``mixed_floor_s``. With
    ``async_scheduling`` (vLLM's default) a step is put together while the one before it runs, so that a request that
    arrives during a step joins the step after the next. The API server adds ``request_overhead_s`` before a request
    reaches the engine, and shows a step's tokens ``token_overhead_s`` times the number of those tokens after its end.
    """

    name: str
    model: str
    a: float
    """Seconds a step."""
    b: float
    """Seconds a prefill token."""
    c: float
    """Seconds a decoding sequence."""
    d: float
    """Seconds a token of context of a decoding sequence."""
    request_overhead_s: float
    token_overhead_s: float
    max_num_seqs: int
    max_num_batched_tokens: int
    kv_blocks: int
    block_size: int
    """Tokens a KV block."""
    max_model_len: int
    cold_start_s: float
    sleep_s: float
    """Seconds to fall asleep (level 1: weights go to host memory)."""
    wake_s: float
    usd_per_hour: float
    graph_tokens: int = 512
    eager_floor_s: float = 0.0
    overlap_s: float = 0.0
    mixed_floor_s: float = 0.0
    async_scheduling: bool = False
    wide_s: float = 0.0
    """Seconds a decoding sequence beyond ``wide_batch`` takes on top of ``c``."""
    wide_batch: int = 128
    graph_step: int = 1
    """CUDA graphs are captured for batches of 1, 2, 4, … below this and for its multiples (8 in vLLM); 1 pads none."""
    warm_up_s: float = 0.0
    """After a cold start or a crash, seconds in which steps take ``warm_up_factor`` times as long."""
    warm_up_factor: float = 1.0
    wake_level2_s: float | None = None
    """Seconds to wake from level 2, at which the weights are gone; ``None`` for those of a cold start."""
    scaled_from: str | None = None
    """The profile this one was computed from; ``None`` for a fitted one."""
    errors: Mapping[str, float] = field(default_factory=dict)
    """Signed relative errors on held-out load, for example ``{"e2e_mean": 0.02}``."""
    skill: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    """Task family to the probability of a right answer at levels 1, 2, …: an assumption of the simulated ladder."""
    verbosity: float = 1.0
    """Multiplies the length of simulated answers."""

    def __post_init__(self) -> None:
        overheads = ("request_overhead_s", "token_overhead_s", "eager_floor_s", "cold_start_s", "warm_up_s")
        for name in ("b", "c", "d", "overlap_s", "mixed_floor_s", "wide_s", *overheads):
            _require(getattr(self, name) >= 0.0, f"{name} must not be negative")
        _require(self.warm_up_factor >= 1.0, "warm_up_factor must be at least 1")
        _require(self.a >= 1e-9, "a must be at least a nanosecond")
        sizes = ("max_num_seqs", "kv_blocks", "block_size", "max_model_len", "graph_tokens", "graph_step", "wide_batch")
        for name in sizes:
            _require(getattr(self, name) >= 1, f"{name} must be at least 1")
        _require(self.max_num_batched_tokens >= self.max_num_seqs, "max_num_batched_tokens must be >= max_num_seqs")
        held = self.kv_blocks * self.block_size
        _require(held >= self.max_model_len, f"kv_blocks · block_size = {held} must hold max_model_len")
        for family, levels in self.skill.items():
            _require(all(0.0 <= p <= 1.0 for p in levels), f"skill[{family!r}] must be probabilities")
        _require(self.verbosity > 0.0, "verbosity must be positive")

    def step_seconds(self, prefill_tokens: int, decoding: int, context: int) -> float:
        """Duration of one iteration."""
        prefill = max(self.b * prefill_tokens - self.overlap_s, 0.0)
        wide = self.wide_s * max(decoding - self.wide_batch, 0)
        seconds = self.a + prefill + self.c * padded(decoding, self.graph_step) + self.d * context + wide
        if not prefill_tokens:
            return seconds
        eager = prefill_tokens + decoding > self.graph_tokens
        return max(seconds, self.eager_floor_s if eager else self.mixed_floor_s)

    def accuracy(self, family: str, level: int) -> float | None:
        """Assumed probability of a right answer at this level (1 = easiest); ``None`` for an unknown family.

        Levels beyond the table count as its hardest one.
        """
        levels = self.skill.get(family)
        return levels[min(max(level, 1), len(levels)) - 1] if levels else None

    def to_json(self) -> str:
        """The profile as a JSON document."""
        return json.dumps(asdict(self), indent=1, sort_keys=True) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes) -> Profile:
        """Read :meth:`to_json`'s document.

        Raises:
            ProfileError: not JSON, a field is missing or unknown, or the values contradict each other.
        """
        try:
            raw = json.loads(text)
            return cls(**_decode(raw))
        except (ValueError, TypeError) as error:
            raise error if isinstance(error, ProfileError) else ProfileError(f"not a profile: {error}") from error

    @classmethod
    def load(cls, path: Path) -> Profile:
        """Read and verify the artifact folder ``path``, for example ``models/profile/h100-8b/1``.

        Raises:
            artifact.ArtifactError: missing, tampered, or not a profile.
        """
        content = artifact.load(path, kind=KIND).read(FILE)
        try:
            return cls.from_json(content)
        except ProfileError as error:
            raise artifact.ArtifactSchema(f"{path / FILE}: {error}") from error


def padded(decoding: int, step: int) -> int:
    """The batch size of the CUDA graph that a step of so many decoding sequences runs; see ``graph_step``."""
    if step == 1 or decoding <= 0:
        return max(decoding, 0)
    return -(-decoding // step) * step if decoding >= step else 1 << (decoding - 1).bit_length()


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ProfileError(message)


def _decode(raw: Any) -> dict[str, Any]:
    _require(isinstance(raw, dict), "the document must be an object")
    known = {f.name for f in fields(Profile)}
    _require(not set(raw) - known, f"unknown fields: {', '.join(sorted(set(raw) - known))}")
    skill = {family: tuple(levels) for family, levels in raw.get("skill", {}).items()}
    return {**raw, "skill": skill}
