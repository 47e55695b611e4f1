"""Stage ``tier``, implementation ``best_effort``: a reinforcement-learned choice of quality under load.

After Learned Best-Effort LLM Serving (Jha et al. 2024): a value network over the observation of
:mod:`controller.observation`; the action is the pool.
"""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import Field

from controller.dense_policy import OUTSIDE, DensePolicy
from controller.errors import HeadwayError, UnknownArtifact
from controller.observation import Codec, Mask, Observation
from controller.policy import Policy, PolicyDecision, PolicyFailed, TrainedPolicy, load_policy
from controller.protocols import ArtifactResolver, Options, Resources, Signal, TierContext, TierStage
from controller.tier import Threshold, ThresholdOptions, stand_in
from controller.types import Alternative, Choice
from predictors.artifact import ArtifactError, ArtifactMissing

_SIGNALS = frozenset({Signal.QUALITY, Signal.LENGTH})
_OUT_OF_DISTRIBUTION = "out_of_distribution"


class BestEffortOptions(Options):
    """Options of ``best_effort``."""

    artifact: str | None = "policy/best-effort"
    """The trained policy; null for none."""
    fallback: ThresholdOptions = Field(default=ThresholdOptions())
    """Stands in where the policy cannot decide."""


@dataclass(frozen=True, slots=True)
class Problem:
    """Why there is no policy: the reason that is counted, and a sentence for the operator."""

    reason: str
    message: str


class BestEffort:
    """Asks a policy, and ``threshold`` where there is none, where scores are missing, or outside the range of training.

    ``policy`` may be a trained one, or any callable together with the ``codec`` whose observations it takes.
    """

    name = "best_effort"

    def __init__(
        self,
        policy: TrainedPolicy | Policy | None,
        fallback: TierStage,
        *,
        codec: Codec | None = None,
        problem: Problem | None = None,
    ) -> None:
        self._trained = policy if isinstance(policy, TrainedPolicy) else None
        self._policy = policy.policy if isinstance(policy, TrainedPolicy) else policy
        self._dense = self._trained.dense() if self._trained else None
        self._sha256 = self._trained.sha256 if self._trained else None
        self._fallback = fallback
        self.codec = self._trained.codec if self._trained else codec or Codec(3)
        self.problem = None if policy else problem or Problem("no_artifact", "no policy is configured")
        """Why there is no policy; ``None`` if there is one."""

    @classmethod
    def create(cls, options: BestEffortOptions, resources: Resources) -> BestEffort:
        loaded = _load(resources.artifacts, options.artifact)
        fallback = Threshold(options.fallback)
        if isinstance(loaded, Problem):
            return cls(None, fallback, problem=loaded)
        return cls(loaded, fallback)

    @property
    def needs(self) -> frozenset[Signal]:
        return self._fallback.needs if self._policy is None else _SIGNALS

    def observe(self, context: TierContext) -> tuple[Observation, Mask]:
        """What the policy sees of a decision, and which actions it may take."""
        return self.codec.encode(context), self.codec.mask(context)

    def choose(self, context: TierContext) -> Choice:
        decided = self._decide(context)
        return stand_in(self._fallback.choose(context), decided) if isinstance(decided, str) else decided

    def _decide(self, context: TierContext) -> Choice | str:
        """The policy's choice, or why it cannot make one."""
        if self._policy is None:
            return self.problem.reason if self.problem else "no_artifact"
        if not self.codec.fits(context):
            return "too_many_pools"
        scores = context.scores
        if scores is None:
            return context.why or "no_scores"
        if scores.quality is None and scores.output_tokens is None:
            return "no_prediction"
        return self._ask(context, self._policy) if self._dense is None else self._ask_at_once(context, self._dense)

    def _ask(self, context: TierContext, policy: Policy) -> Choice | str:
        observation, mask = self.observe(context)
        if self._trained is not None and self._trained.outside(observation, self.codec.used(context)):
            return _OUT_OF_DISTRIBUTION
        try:
            decision = policy(observation, mask)
        except PolicyFailed as error:
            return _failed(error)
        allowed: list[bool] = mask.tolist()
        if not (0 <= decision.action < len(context.ladder) and allowed[decision.action]):
            raise ValueError(f"the policy chose action {decision.action}, which the mask {allowed} forbids")
        return self._choice(context, observation.tolist() if context.recorded else [], allowed, decision)

    def _ask_at_once(self, context: TierContext, policy: DensePolicy) -> Choice | str:
        """The same choice, without arrays and calls in between."""
        allowed = self.codec.allowed(context)
        action, observation, scores = policy.decide(self.codec.values(context), allowed, len(context.ladder))
        if action < 0:
            return _OUT_OF_DISTRIBUTION if action == OUTSIDE else _failed(PolicyFailed("not_finite"))
        return self._choice(context, observation, allowed, PolicyDecision(action, tuple(scores)))

    def _choice(
        self, context: TierContext, observation: list[float], allowed: list[bool], decision: PolicyDecision
    ) -> Choice:
        if not context.recorded:
            chosen = context.ladder[decision.action]
            return Choice("tier", self.name, chosen, propensity=decision.propensity, artifact=self._sha256)
        shown = zip(context.ladder, decision.scores, allowed, strict=False)
        return Choice(
            "tier",
            self.name,
            context.ladder[decision.action],
            tuple([Alternative(name, score, may) for name, score, may in shown]),
            decision.propensity,
            features=tuple(observation),
            artifact=self._sha256,
        )


def _failed(error: PolicyFailed) -> str:
    return f"policy_failed: {error}"


def _load(artifacts: ArtifactResolver | None, ref: str | None) -> TrainedPolicy | Problem:
    if artifacts is None or ref is None:
        return Problem("no_artifact", "no policy is configured")
    try:
        return load_policy(artifacts.resolve(ref))
    except (ArtifactMissing, UnknownArtifact) as error:
        return Problem("no_artifact", str(error))
    except (ArtifactError, HeadwayError) as error:
        return Problem("artifact_refused", str(error))
