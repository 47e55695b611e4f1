"""``headway/Route-v0``: which model answers each prompt, when quality costs money.

**Description.** One prompt after the other has to be given to one of several models; better ones cost more. What one
is willing to pay, λ, is part of the observation, so that one policy serves every trade-off (judged as RouterBench
does, arXiv 2403.12031). Nothing queues here: a step is one prompt, and its answer is there with the next. Prompts
come from a table, or are answered by live servers.

**Action space**: ``Discrete(M)``: the model, in the order of the table.

**Observation space**: ``Box(2·M + 3,)`` float32:

===== =============== ================================================================== ============ ==== ===
Index Name            Meaning                                                            Unit         Min  Max
===== =============== ================================================================== ============ ==== ===
0     ``lambda``      λ times the mean cost of an answer of the dearest model            ln           −20  20
1     ``prompt``      tokens of the prompt                                               ln(1+tokens) 0    14
2     ``known``       whether there is a prediction for this prompt                      –            0    1
3+2·m ``quality``     quality expected of model m's answer (its mean, if not known)      share        0    1
4+2·m ``cost``        λ times the expected cost of model m's answer                      quality      0    100
===== =============== ================================================================== ============ ==== ===

**Rewards**: quality − λ·cost of the answer, each as it turned out: quality in [0, 1], cost in dollars, λ in 1/$. An
answer that failed has no quality.

**Starting state**: a seed decides λ and the prompts, whatever the actions are. λ is drawn once an episode,
log-uniform in ``willingness`` over the mean cost of an answer of the dearest model.

**Episode end**: the episode terminates after ``prompts`` prompts. It is never truncated.

**Arguments**

- ``source``: what the table is made of, and the fleet, live; by default the demo's scenario with what ships
- ``table``: a :class:`envs.route_table.RouteTable` instead
- ``prompts``: how many an episode has
- ``willingness``: the range of λ, see above
- ``engine``: ``sim`` (the table) or ``live`` (``urls``: pool → URLs of servers; ``bounds``), where every prompt is
  sent through the control plane to a server of the chosen pool and its answer is checked
- ``render_mode``: ``rgb_array`` or none

``gymnasium.make_vec("headway/Route-v0", n)`` steps n of them as arrays (:mod:`envs.route_vector`), live or with
pictures only with ``vectorization_mode="sync"``.

**Version history**: v0, the first.
"""

from __future__ import annotations

import math
from typing import Any, Final

import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from envs.episode import EpisodeSource
from envs.rendering import RoutePainter
from envs.route_answers import Answer, Answers, LiveAnswers, TableAnswers
from envs.route_table import RouteTable, prices
from envs.sources import default_source
from envs.worlds import EngineKind, LiveBounds, Urls, choose_world

__all__ = ["MODEL_FEATURES", "SHARED_FEATURES", "RouteEnv"]

Observation = npt.NDArray[np.float32]

SHARED_FEATURES: Final = (("lambda", -20.0, 20.0), ("prompt", 0.0, 14.0), ("known", 0.0, 1.0))
"""Name, least and greatest value of the first numbers of an observation."""
MODEL_FEATURES: Final = (("quality", 0.0, 1.0), ("cost", 0.0, 100.0))
"""The same of each model's."""


class RouteEnv(gymnasium.Env[Observation, np.int64]):
    """See the module's text."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012 - gymnasium's own declaration

    def __init__(
        self,
        source: EpisodeSource | None = None,
        table: RouteTable | None = None,
        *,
        prompts: int = 100,
        willingness: tuple[float, float] = (0.01, 3.0),
        engine: EngineKind | str = EngineKind.SIM,
        urls: Urls | None = None,
        bounds: LiveBounds | None = None,
        render_mode: str | None = None,
    ) -> None:
        if prompts < 1 or not 0 < willingness[0] <= willingness[1]:
            raise ValueError(f"needs prompts, and an ascending range above 0, not {prompts} and {willingness}")
        if render_mode not in (None, *self.metadata["render_modes"]):
            raise ValueError(f"render_mode is 'rgb_array' or None, not {render_mode!r}")
        self.engine = EngineKind(engine)
        world = choose_world(self.engine, urls, bounds)
        self.render_mode = render_mode
        self.prompts = prompts
        self.willingness = willingness
        self.lambda_usd = 0.0
        """λ of this episode, in 1/$."""
        if table is None or self.engine is EngineKind.LIVE:
            if table is not None:
                raise ValueError("live answers need a source, not a table: only its prompts can be checked")
            source = source or default_source()
            table = RouteTable.of_prompts(source.prompts, prices(source.scenario, source.profiles))
        self.table = table
        self._answers: Answers = TableAnswers(table)
        if self.engine is EngineKind.LIVE and source is not None:
            self._answers = LiveAnswers(source, table, world)
        models = len(table.models)
        bounds_of = (*SHARED_FEATURES, *MODEL_FEATURES * models)
        self._low = np.array([low for _, low, _ in bounds_of], np.float32)
        self._high = np.array([high for _, _, high in bounds_of], np.float32)
        self.observation_space = spaces.Box(self._low, self._high, dtype=np.float32)
        self.action_space = spaces.Discrete(models)
        self._painter: RoutePainter | None = None
        self._given: list[tuple[int, Answer]] = []
        self.rows: npt.NDArray[np.int64]
        """(prompts,): this episode's rows of the table."""
        self.sight: Observation
        """(prompts, numbers): what is seen of each."""

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the observation's numbers, in order."""
        shared = [name for name, _, _ in SHARED_FEATURES]
        return (*shared, *(f"{model}.{name}" for model in self.table.models for name, _, _ in MODEL_FEATURES))

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Draw λ and the prompts; ``options={"lambda_usd": …}`` gives λ instead, in 1/$."""
        super().reset(seed=seed)
        low, high = np.log(self.willingness)
        drawn = float(np.exp(self.np_random.uniform(low, high))) / self.table.scale_usd
        self.lambda_usd = float((options or {}).get("lambda_usd", drawn))
        self.rows = self.np_random.integers(len(self.table), size=self.prompts)
        self.sight = self._observations(self.rows)
        self._place = 0
        self._given = []
        self._answers.begin(int(self.np_random.integers(2**31)))
        return self.sight[0], {"lambda_usd": self.lambda_usd}

    def step(self, action: np.int64 | int) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Give the prompt at hand to a model."""
        model, row = int(action), int(self.rows[self._place])
        answer = self._answers.answer(row, model)
        if self.render_mode is not None:
            self._given.append((model, answer))
        self._place += 1
        over = self._place >= self.prompts or self._answers.over
        reward = answer.quality - self.lambda_usd * answer.usd
        sight = self.sight[min(self._place, self.prompts - 1)]
        return sight, reward, over, False, {"quality": answer.quality, "usd": answer.usd, "row": row}

    def render(self) -> npt.NDArray[np.uint8] | None:
        """What was chosen in this episode, and what came of it (height, width, 3)."""
        if self.render_mode is None:
            return None
        if self._painter is None:
            self._painter = RoutePainter(self.table.models)
        return self._painter.paint(self.lambda_usd * self.table.scale_usd, self._given)

    def close(self) -> None:
        """Let go of live servers."""
        self._answers.close()

    def _observations(self, rows: npt.NDArray[np.int64]) -> Observation:
        """(prompts, numbers): what is seen of each prompt, for this λ."""
        table, models = self.table, len(self.table.models)
        seen = np.empty((len(rows), 3 + 2 * models))
        seen[:, 0] = math.log(max(self.lambda_usd * table.scale_usd, 1e-12))
        seen[:, 1] = np.log1p(table.prompt_tokens[rows])
        seen[:, 2] = table.known[rows]
        seen[:, 3::2] = table.expected_quality[rows]
        seen[:, 4::2] = self.lambda_usd * table.expected_usd[rows]
        clipped: Observation = np.clip(seen, self._low, self._high).astype(np.float32)
        return clipped
