"""Made-up labels: two clusters of prompts, of which each model answers one."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from predictors.embedding import DIMENSIONS
from predictors.quality.model import Price
from predictors.quality.table import Labelled

MODELS = ("cheap", "dear", "useless")
PRICES = (Price(0.1, 0.2, 100.0), Price(1.0, 2.0, 200.0), Price(0.5, 0.5, 50.0))
COSTS = np.array([1e-5, 1e-4, 5e-5])


def unit(rows: NDArray[np.floating]) -> NDArray[np.float32]:
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(rows / lengths, dtype=np.float32)


def clusters(n: int = 240, seed: int = 0, noise: float = 0.6, task: int = 0) -> Labelled:
    """Half of the prompts (cluster 0) only ``cheap`` answers rightly, half (cluster 1) only ``dear``.

    Tasks cut across the clusters. Another ``task`` number gives prompts in another corner of the space.
    """
    rng = np.random.default_rng([seed, task])
    centres = np.zeros((2, DIMENSIONS))
    centres[0, 4 * task] = centres[1, 4 * task + 1] = 1.0
    which = np.arange(n) % 2
    rows = centres[which] + noise / np.sqrt(DIMENSIONS) * rng.normal(size=(n, DIMENSIONS))
    quality = np.stack([which == 0, which == 1, np.zeros(n)], axis=1).astype(np.float32)
    return Labelled(
        embeddings=unit(rows),
        quality=quality,
        costs=np.tile(COSTS, (n, 1)),
        tasks=np.array([f"task{task}-{i % 3}" for i in range(n)]),
        keys=rng.integers(2**63, size=n).astype(np.uint64),
    )
