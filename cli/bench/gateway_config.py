"""The headway that is measured: a real ``headway serve`` with its whole pipeline on, and what its metrics say of it."""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from prometheus_client.parser import text_string_to_metric_families

from cli.bench.gateway_peers import clean_environment
from cli.bench.gateway_processes import Server, free_port, page
from cli.bench.gateway_upstream import MODEL
from cli.bench.gateway_wrk import LoadError

__all__ = ["Keys", "Scored", "configuration", "launch", "scored"]

TENANTS = 4
_INFLIGHT = 512
"""Above what the bench keeps in flight: what is measured is the way through the gateway, not waiting in it."""
_START_S = 60.0


@dataclass(frozen=True, slots=True)
class Keys:
    """Tenants' API keys, as clients present them and as the configuration keeps them."""

    shown: tuple[str, ...]
    stored: tuple[str, ...]

    @classmethod
    def issue(cls, count: int = TENANTS) -> Keys:
        """New ones."""
        from controller.configuration.credentials import RANDOM_BYTES, StoredKey

        issued = [StoredKey.issue(secrets.token_bytes(RANDOM_BYTES)) for _ in range(count)]
        return cls(tuple(key for key, _ in issued), tuple(str(stored) for _, stored in issued))


def configuration(upstreams: Sequence[str], port: int, folder: Path, keys: Keys) -> dict[str, Any]:
    """Everything on: keys, limits (counted, and far above what comes), scoring of every request, ranking, fairness,
    prefix placement, and records on disk."""
    plenty = {"requests_per_minute": 60_000_000, "tokens_per_minute": 60_000_000_000, "concurrency": 100_000}
    weights = (4.0, 2.0, 1.0, 1.0)
    return {
        "listen": {"host": "127.0.0.1", "port": port},
        "pools": [
            {
                "name": "bench",
                "model": MODEL,
                "tier": 0,
                "context_length": 131072,
                "workers": [{"url": url, "max_inflight": _INFLIGHT, "priority_scheduling": True} for url in upstreams],
            }
        ],
        "tenants": [
            {"name": f"tenant-{i}", "weight": weights[i % len(weights)], "keys": [stored], "limits": plenty}
            for i, stored in enumerate(keys.stored)
        ],
        "stages": {"order": "length_rank", "fairness": "vtc", "place": "prefix"},
        "scoring": {"when": "always", "length": "length/fast", "quality": None},
        "records": {"dir": str(folder / "records")},
        "home": str(folder / "home"),
    }


def launch(upstreams: Sequence[str], folder: Path, keys: Keys, processes: int = 1) -> Server:
    """Start it; it may not be ready yet."""
    port = free_port()
    path = folder / "headway.yaml"
    path.write_text(yaml.safe_dump(configuration(upstreams, port, folder, keys)), encoding="utf-8")
    command = [sys.executable, "-m", "cli.main", "serve", "--config", str(path), "--log-level", "warning"]
    if processes > 1:
        command += ["--processes", str(processes), *(["--pin"] if hasattr(os, "sched_setaffinity") else [])]
    root = Path(__file__).resolve().parents[2]
    server = Server.start("headway", port, command, folder / "headway.log", clean_environment(), root)
    return server.wait(lambda: page(f"http://127.0.0.1:{port}/ready") is not None, _START_S)


@dataclass(frozen=True, slots=True)
class Scored:
    """What became of the requests' scoring, by the length ranker."""

    scored: int
    skipped: int
    fallback: int
    reasons: Mapping[str, int]
    """Why it fell back, and how often."""

    @property
    def share(self) -> float:
        """Of all requests, those that were scored; 0 where there were none."""
        everything = self.scored + self.skipped + self.fallback
        return self.scored / everything if everything else 0.0

    def since(self, before: Scored) -> Scored:
        """What has come since."""
        return Scored(
            self.scored - before.scored,
            self.skipped - before.skipped,
            self.fallback - before.fallback,
            {reason: times - before.reasons.get(reason, 0) for reason, times in self.reasons.items()},
        )


def scored(gateway: Server) -> Scored:
    """Read from the gateway's own metrics. Raises LoadError if they cannot be read."""
    found = page(f"http://127.0.0.1:{gateway.port}/metrics", timeout=30)
    if found is None:
        raise LoadError("headway's metrics cannot be read")
    counts = dict.fromkeys(("scored", "skipped", "fallback"), 0)
    reasons: dict[str, int] = {}
    for family in text_string_to_metric_families(found.decode()):
        for one in family.samples:
            labels = one.labels
            if (labels.get("stage"), labels.get("implementation")) != ("score", "length"):
                continue
            if one.name == "headway_stage_total":
                counts[labels["outcome"]] += int(one.value)
            elif one.name == "headway_fallbacks_total":
                reasons[labels["reason"]] = int(one.value)
    return Scored(**counts, reasons=reasons)
