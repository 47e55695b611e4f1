"""A folder of measured loads: one CSV a load, and ``loads.json``, which says what each was and what the server allows.

Written load by load as a worker is measured, and read when a profile is fitted.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from predictors.latency.measurements import Measurements, MeasurementsError, read_measurements

INDEX: Final = "loads.json"
LATE_S: Final = 0.005
"""A client whose 99th percentile of lateness is above this has measured itself."""
_HEAD: Final = (
    *("i", "arrival", "prompt_tokens", "output_tokens", "chunks"),
    *("ttft", "e2e", "itl_p50", "itl_p99", "itl_max", "error"),
)


class Role(StrEnum):
    """What a load is for."""

    FIT = "fit"
    HOLDOUT = "holdout"


@dataclass(frozen=True, slots=True)
class Sample:
    """One request as its client saw it: times in seconds, ``arrival`` from the load's start; ``None`` where unknown.

    ``chunks`` counts pieces of the stream, which may hold several tokens; inter-token times are gaps between pieces.
    """

    arrival: float
    prompt_tokens: int
    output_tokens: int
    chunks: int = 0
    ttft: float | None = None
    e2e: float | None = None
    itl_p50: float | None = None
    itl_p99: float | None = None
    itl_max: float | None = None
    error: str = ""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a server allows; ``None`` where it was not said. Tokens, but for ``max_num_seqs`` and ``kv_blocks``."""

    max_num_seqs: int | None = None
    max_num_batched_tokens: int | None = None
    kv_blocks: int | None = None
    block_size: int | None = None
    max_model_len: int | None = None

    def or_else(self, other: Limits) -> Limits:
        """Each limit, or the other's where this one does not know it."""
        known = {name: value for name, value in asdict(self).items() if value is not None}
        return replace(other, **known)

    @classmethod
    def parse(cls, raw: object, where: str) -> Limits:
        """Read a mapping of some of the fields to positive whole numbers.

        Raises:
            MeasurementsError: an unknown field, or a value that is none.
        """
        fields = set(cls.__dataclass_fields__)
        if not isinstance(raw, dict) or set(raw) - fields:
            raise MeasurementsError(f"{where}: limits are an object of {', '.join(sorted(fields))}")
        for name, value in raw.items():
            if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
                raise MeasurementsError(f"{where}: {name} must be a whole number above 0, not {value!r}")
        return cls(**raw)


@dataclass(frozen=True, slots=True)
class LoadEntry:
    """A load in the index. ``late_p99_s`` is how late the client was; ``concurrency`` is ``None`` of open loads."""

    name: str
    role: Role
    concurrency: int | None
    requests: int
    failed: int
    seconds: float
    late_p99_s: float

    @property
    def usable(self) -> bool:
        """Whether the client kept time, and something was measured."""
        return self.late_p99_s <= LATE_S and self.failed < self.requests


@dataclass(frozen=True, slots=True)
class Campaign:
    """The index of a folder of measured loads."""

    target: str
    model: str
    limits: Limits
    entries: tuple[LoadEntry, ...] = ()

    def with_entry(self, entry: LoadEntry) -> Campaign:
        """With one more load, in place of one of the same name."""
        others = tuple(known for known in self.entries if known.name != entry.name)
        return replace(self, entries=(*others, entry))

    def write(self, folder: Path) -> None:
        """Write the index in one piece."""
        folder.mkdir(parents=True, exist_ok=True)
        _write(folder / INDEX, json.dumps(asdict(self), indent=1) + "\n")

    @classmethod
    def read(cls, folder: Path) -> Campaign:
        """Read a folder's index.

        Raises:
            MeasurementsError: there is none, or it is not one.
        """
        path = folder / INDEX
        try:
            raw: Any = json.loads(path.read_bytes())
            entries = tuple(LoadEntry(**{**entry, "role": Role(entry["role"])}) for entry in raw["entries"])
            return cls(raw["target"], raw["model"], Limits.parse(raw["limits"], str(path)), entries)
        except OSError as error:
            raise MeasurementsError(f"{path}: {error.strerror}") from error
        except (ValueError, KeyError, TypeError) as error:
            if isinstance(error, MeasurementsError):
                raise
            raise MeasurementsError(f"{path}: not an index of measured loads: {error!r}") from error

    def loads(self, folder: Path, role: Role) -> list[Measurements]:
        """The usable measurements of that role, in order."""
        chosen = [entry for entry in self.entries if entry.role is role and entry.usable]
        return [replace(read_measurements(_file(folder, e.name)), concurrency=e.concurrency) for e in chosen]


def write_samples(folder: Path, name: str, samples: Iterable[Sample]) -> Path:
    """Write one load's CSV, in one piece."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_HEAD)
    writer.writerows((i, *_cells(sample)) for i, sample in enumerate(samples))
    folder.mkdir(parents=True, exist_ok=True)
    _write(path := _file(folder, name), text.getvalue())
    return path


def _cells(sample: Sample) -> Sequence[object]:
    return [round(v, 6) if isinstance(v, float) else "" if v is None else v for v in asdict(sample).values()]


def _file(folder: Path, name: str) -> Path:
    return folder / f"{name}.csv"


def _write(path: Path, text: str) -> None:
    staging = path.with_name(path.name + ".part")
    staging.write_text(text, encoding="utf-8")
    staging.replace(path)
