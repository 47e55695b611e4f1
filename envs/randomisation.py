"""How far episodes stray from their scenario: domain randomisation, one number a property of the world.

A policy that is trained in one simulated world learns that world's constants; one that is trained in many learns to
look at what it is shown (Tobin et al. 2017, arXiv 1703.06907). Every field is 0 by default, which strays nowhere.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np

from predictors.latency.model import Profile

__all__ = ["Randomisation", "factor"]


@dataclass(frozen=True, slots=True)
class Randomisation:
    """How far training episodes stray from the scenario (domain randomisation; 0 everywhere strays nowhere).

    A factor ``f`` is log-uniform in [1/(1 + x), 1 + x] for the field's value x.
    """

    rate: float = 0.0
    """Of both arrival rates together."""
    deadline: float = 0.0
    speed: float = 0.0
    """Of every timing constant of a profile together, each pool by itself."""
    limit: float = 0.0
    """Of each pool's in-flight limit, rounded."""
    mix: float = 0.0
    """0: tasks as they are; else families and levels are weighted by exponentials to the power of this."""
    shift_s: float = 0.0
    """Bursts come up to so much earlier or later, together, and last by up to this share of themselves longer."""
    clock: float = 0.0
    """Of how often workers' gauges are read, and of how late the readings arrive."""
    unknown: float = 0.0
    """Share of requests for which there is no prediction of quality, whatever the predictor says of their prompts."""
    length: float = 0.0
    """Of a request's predicted output, each request by itself."""
    step: float = 0.0
    """Of each timing constant of a profile (a, b, c and d) by itself, each pool by itself."""
    overhead: float = 0.0
    """Of what the API server adds to a request and to a token, each by itself."""
    cold_start: float = 0.0
    """Of how long an engine takes to start, to fall asleep and to wake, each by itself."""
    report_delay: float = 0.0
    """Of how late readings arrive, beside ``clock``."""
    dropout: float = 0.0
    """Up to this share of the readings of workers' gauges never arrives; less than 1."""
    crashes_per_hour: float = 0.0
    """Up to so many crashes an hour, of every worker by itself. It is started again, cold."""
    stragglers_per_hour: float = 0.0
    """Up to so many spells an hour in which a worker is slow, of every worker by itself."""
    slowness: float = 2.0
    """In such a spell, every step takes up to 1 + this times as long."""
    length_drift: float = 0.0
    """Of the true output lengths at the end of an episode, as against its start. Predictions know nothing of it."""
    task_drift: float = 0.0
    """Like ``mix``, of the tasks at the end of an episode; in between, both mixes are mixed."""

    def __post_init__(self) -> None:
        for field in fields(self):
            if not getattr(self, field.name) >= 0.0:
                raise ValueError(f"{field.name} must not be negative, not {getattr(self, field.name)}")
        for name in ("dropout", "unknown"):
            if getattr(self, name) > 1.0:
                raise ValueError(f"{name} is a share of at most 1, not {getattr(self, name)}")

    @classmethod
    def training(cls) -> Randomisation:
        """What the shipped policy is trained on."""
        by = cls.validation()
        return replace(by, rate=0.6, deadline=0.15, speed=0.15, mix=0.4, shift_s=8.0, clock=1.0)

    @classmethod
    def validation(cls) -> Randomisation:
        """What policies are tuned and chosen on: the scenario itself, with predictions worse than they are there.

        Prompts of the validation split are worded like those that the predictors learned from; prompts to come are not.
        """
        return cls(unknown=0.15, length=0.5)

    @classmethod
    def wide(cls) -> Randomisation:
        """Everything at once: training, other machines, lost readings, crashes, stragglers and drift."""
        return replace(
            cls.training(),
            step=0.3,
            overhead=0.5,
            cold_start=0.5,
            report_delay=1.0,
            dropout=0.3,
            crashes_per_hour=2.0,
            stragglers_per_hour=6.0,
            length_drift=0.3,
            task_drift=0.4,
        )

    def machine(self, profile: Profile, rng: np.random.Generator) -> Profile:
        """A profile whose constants stray each by itself."""
        step, overhead, start = self.step, self.overhead, self.cold_start
        if not (step or overhead or start):
            return profile
        return replace(
            profile,
            a=profile.a * factor(rng, step),
            b=profile.b * factor(rng, step),
            c=profile.c * factor(rng, step),
            d=profile.d * factor(rng, step),
            request_overhead_s=profile.request_overhead_s * factor(rng, overhead),
            token_overhead_s=profile.token_overhead_s * factor(rng, overhead),
            cold_start_s=profile.cold_start_s * factor(rng, start),
            sleep_s=profile.sleep_s * factor(rng, start),
            wake_s=profile.wake_s * factor(rng, start),
        )


def factor(rng: np.random.Generator, by: float) -> float:
    """Log-uniform in [1/(1 + by), 1 + by]; one draw."""
    return float(np.exp(rng.uniform(-1.0, 1.0) * np.log1p(by)))
