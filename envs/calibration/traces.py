"""Sizes of requests from public traces, without what reading them as workloads would import."""

from __future__ import annotations

import csv
import json
from itertools import islice
from pathlib import Path

from envs.calibration.loads import Sizes
from predictors.latency.measurements import MeasurementsError

_AZURE = ("ContextTokens", "GeneratedTokens")
_MOONCAKE = ("input_length", "output_length")
_MOST = 20_000


def read_sizes(path: Path, limit: int = _MOST) -> list[Sizes]:
    """Prompt and answer lengths of an Azure CSV or Mooncake JSON lines, in their order.

    Raises:
        MeasurementsError: unreadable, or neither.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            lines = path.suffix in (".jsonl", ".json")
            rows = (json.loads(line) for line in file if line.strip()) if lines else csv.DictReader(file)
            names = _MOONCAKE if lines else _AZURE
            return [Sizes(max(1, int(row[names[0]])), max(1, int(row[names[1]]))) for row in islice(rows, limit)]
    except OSError as error:
        raise MeasurementsError(f"{path}: {error.strerror}") from error
    except (KeyError, TypeError, ValueError) as error:
        raise MeasurementsError(
            f"{path}: a trace has {_AZURE} as CSV or {_MOONCAKE} as JSON lines: {error!r}"
        ) from error
