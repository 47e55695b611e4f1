"""What several processes show, as one: their metrics and their fleets added up."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["add_fleets", "add_pages"]

_ADDED = frozenset(
    {
        "headway_queue_depth",
        "headway_inflight",
        "headway_inflight_limit",
        "headway_worker_inflight",
        "headway_upstream_connections",
        "headway_client_connections",
        "headway_continuation_bytes",
    }
)
"""Gauges whose sum means something; of every other one, the answering process's own value is shown."""


@dataclass(slots=True)
class _Family:
    head: list[str] = field(default_factory=list)
    kind: str = "untyped"
    samples: dict[str, float] = field(default_factory=dict)

    def adds(self, name: str) -> bool:
        return self.kind in ("counter", "histogram", "summary") or name in _ADDED


def add_pages(own: bytes, others: Iterable[bytes]) -> bytes:
    """Prometheus pages as one: counters and histograms added, and those gauges that can be."""
    families = _families(own)
    for page in others:
        for name, theirs in _families(page).items():
            mine = families.setdefault(name, _Family(theirs.head, theirs.kind))
            for sample, value in theirs.samples.items():
                if sample not in mine.samples:
                    mine.samples[sample] = value
                elif mine.adds(name):
                    mine.samples[sample] += value
    lines: list[str] = []
    for family in families.values():
        lines += family.head
        lines += [f"{sample} {_number(value)}" for sample, value in family.samples.items()]
    return ("\n".join(lines) + "\n").encode()


def _families(page: bytes) -> dict[str, _Family]:
    families: dict[str, _Family] = {}
    family = _Family()
    for line in page.decode().splitlines():
        if line.startswith(("# HELP ", "# TYPE ")):
            _, what, name, rest = [*line.split(" ", 3), ""][:4]
            family = families.setdefault(name, _Family())
            family.head.append(line)
            if what == "TYPE":
                family.kind = rest
        elif line and not line.startswith("#"):
            sample, _, value = line.rpartition(" ")
            family.samples[sample] = float(value)
    return families


def _number(value: float) -> str:
    if value != value:
        return "NaN"
    if value in (float("inf"), float("-inf")):
        return "+Inf" if value > 0 else "-Inf"
    return repr(value)


def add_fleets(own: dict[str, Any], others: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """``/admin/fleet`` of several processes as one: what is in flight, allowed, queued and dispatched added up; phases
    and reports as the answering process sees them."""
    total = {**own, "pools": [dict(pool) for pool in own["pools"]]}
    pools = {pool["name"]: pool for pool in total["pools"]}
    for pool in pools.values():
        pool["workers"] = [dict(worker) for worker in pool["workers"]]
    for other in others:
        _add(total, other, ("open", "queued", "arrivals_fast", "arrivals_slow"))
        for theirs in other["pools"]:
            pool = pools.get(theirs["name"])
            if pool is None:
                continue
            _add(pool, theirs, ("inflight", "limit", "queued"))
            workers = {worker["name"]: worker for worker in pool["workers"]}
            for worker in theirs["workers"]:
                if worker["name"] in workers:
                    _add(workers[worker["name"]], worker, ("inflight", "limit", "dispatched"))
    return total


def _add(total: dict[str, Any], other: Mapping[str, Any], keys: Iterable[str]) -> None:
    for key in keys:
        total[key] += other[key]
