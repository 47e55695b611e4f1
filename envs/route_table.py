"""Prompts, what models are expected to make of them, and what they do make of them: what the routing environment plays.

From the task suite and the profiles that ship, or from a routing table of any models (:mod:`predictors.quality.table`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from controller.rates import busy_rate
from controller.settings import ControlSettings
from controller.types import PoolName
from envs.scenarios import Scenario
from envs.scored import ScoredPrompts
from predictors.latency.model import Profile
from predictors.quality.model import KnnQuality, Price, query_usd
from predictors.quality.table import CHARS_PER_TOKEN, RoutingTable

__all__ = ["RouteTable", "prices"]

Floats = npt.NDArray[np.float64]
_HOUR = 3600.0


@dataclass(frozen=True, slots=True)
class RouteTable:
    """n prompts and M models, columns in the order of ``models``; money in US dollars, or in any unit throughout."""

    models: tuple[str, ...]
    expected_quality: Floats
    """(n, M) in [0, 1]: as predicted; the model's mean where ``known`` is false."""
    known: npt.NDArray[np.bool_]
    """(n,): whether there is a prediction for the prompt."""
    expected_usd: Floats
    """(n, M): what an answer is expected to cost."""
    prompt_tokens: npt.NDArray[np.int64]
    """(n,)"""
    quality: Floats
    """(n, M) in [0, 1]: how good the answer is. Only the world knows."""
    usd: Floats
    """(n, M): what the answer costs. Only the world knows."""
    prompts: tuple[str, ...]
    prices: tuple[Price, ...]

    def __post_init__(self) -> None:
        n, m = len(self.prompts), len(self.models)
        if n == 0 or m < 2 or len(self.prices) != m:
            raise ValueError(f"routing needs prompts, and two models or more with a price each; got {n} and {m}")
        for name in ("expected_quality", "expected_usd", "quality", "usd"):
            if getattr(self, name).shape != (n, m):
                raise ValueError(f"{name} has shape {getattr(self, name).shape}, not {(n, m)}")

    def __len__(self) -> int:
        return len(self.prompts)

    @property
    def scale_usd(self) -> float:
        """The mean cost of an answer of the dearest model."""
        return float(self.expected_usd.mean(axis=0).max())

    @classmethod
    def of_prompts(cls, scored: ScoredPrompts, prices: Sequence[Price]) -> RouteTable:
        """Of the task suite: predictions as the gateway's scorer makes them, truth as profiles' skills have it."""
        means = scored.quality.mean(axis=0)
        known = np.array([scores.quality is not None for scores in scored.scores])
        expected = np.array(
            [
                means if scores.quality is None else [scores.quality[pool] for pool in scored.pools]
                for scores in scored.scores
            ]
        )
        typical = float(scored.output_tokens.mean())
        tokens = [typical if scores.output_tokens is None else scores.output_tokens for scores in scored.scores]
        return cls(
            models=scored.pools,
            expected_quality=expected,
            known=known,
            expected_usd=query_usd(prices, scored.prompt_tokens, tokens),
            prompt_tokens=scored.prompt_tokens,
            quality=scored.quality,
            usd=query_usd(prices, scored.prompt_tokens, scored.output_tokens),
            prompts=tuple(task.prompt for task in scored.tasks),
            prices=tuple(prices),
        )

    @classmethod
    def of_table(
        cls, table: RoutingTable, predictor: KnnQuality | None = None, embeddings: npt.NDArray[np.float32] | None = None
    ) -> RouteTable:
        """Of a routing table; give a predictor of its models, fitted on other prompts, and ``embeddings``.

        Without one, each model is expected to be as good as it is on average, and no prompt is known.

        Raises:
            ValueError: the predictor is for other models, or embeddings are missing.
        """
        n = len(table.prompts)
        expected, known = np.tile(table.quality.mean(axis=0, dtype=np.float64), (n, 1)), np.zeros(n, np.bool_)
        if predictor is not None:
            if predictor.models_ != table.models or embeddings is None:
                raise ValueError(f"needs embeddings, and a predictor of {table.models}, not of {predictor.models_}")
            scores = predictor.predict(embeddings)
            expected, known = scores.quality.astype(np.float64), scores.in_distribution
        tokens = np.array([max(1, round(len(prompt) / CHARS_PER_TOKEN)) for prompt in table.prompts], np.int64)
        return cls(
            models=table.models,
            expected_quality=expected,
            known=known,
            expected_usd=table.costs,
            prompt_tokens=tokens,
            quality=table.quality.astype(np.float64),
            usd=table.costs,
            prompts=table.prompts,
            prices=table.prices,
        )


def prices(scenario: Scenario, profiles: Mapping[PoolName, Profile]) -> tuple[Price, ...]:
    """What a token costs on a busy worker of each pool: its price an hour over the tokens it makes in one.

    Reading a prompt token is counted as the control plane counts it, as a share of writing one.
    """
    found = []
    for pool in scenario.pools:
        profile = profiles[pool.name]
        output = profile.usd_per_hour / _HOUR / busy_rate(profile, pool.max_inflight) * 1e6
        found.append(Price(output * ControlSettings().prompt_work, output, ControlSettings().default_output_tokens))
    return tuple(found)
