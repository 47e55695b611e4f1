"""The simulated fleet: pools of workers, each with its engine profile."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from controller.protocols import ArtifactResolver
    from controller.types import PoolSpec
    from predictors.latency.model import Profile

__all__ = ["Machine", "Machines", "load_profile", "parse_machines"]

ALIAS = "auto"
"""The model that every request asks for: any pool may answer."""


@dataclass(frozen=True, slots=True)
class Machine:
    """One worker."""

    name: str
    pool: str
    profile: Profile


@dataclass(frozen=True, slots=True)
class Machines:
    """Workers by pool. Profiles of one model form one pool; pools rank in the order in which they were given."""

    pools: tuple[PoolSpec, ...]
    workers: tuple[Machine, ...]
    artifacts: ArtifactResolver | None = field(default=None, compare=False, repr=False)
    """Where stages find what they need."""

    @property
    def longest_context(self) -> int:
        """Tokens that the most capable pool holds."""
        return max(pool.context_length for pool in self.pools)

    def described(self) -> list[dict[str, Any]]:
        """For the report's settings."""
        return [
            {
                "pool": pool.name,
                "model": pool.model,
                "workers": {
                    name: sum(worker.pool == pool.name and worker.profile.name == name for worker in self.workers)
                    for name in dict.fromkeys(w.profile.name for w in self.workers if w.pool == pool.name)
                },
                "context_length": pool.context_length,
            }
            for pool in self.pools
        ]


def parse_machines(texts: Sequence[str], workers: int, artifacts: ArtifactResolver) -> Machines:
    """The fleet of ``--profile NAME[=WORKERS]`` options; ``workers`` where an option does not say.

    Raises:
        ValueError: a number of workers below 1, or no such profile.
    """
    counted: dict[str, int] = {}
    profiles: dict[str, Profile] = {}
    for text in texts:
        ref, count = _counted(text, workers)
        profile = load_profile(ref, artifacts)
        if profiles.setdefault(profile.name, profile) != profile:
            raise ValueError(f"--profile {text}: another profile is called {profile.name!r} already")
        counted[profile.name] = counted.get(profile.name, 0) + count
    return replace(_machines([(profile, counted[name]) for name, profile in profiles.items()]), artifacts=artifacts)


def load_profile(ref: str, artifacts: ArtifactResolver) -> Profile:
    """A profile by the name of its artifact, the folder of one, or a JSON file.

    Raises:
        ValueError: there is none, or it is not one; the message says what would be.
    """
    from controller.errors import StoreError
    from predictors.artifact import ArtifactError
    from predictors.latency.model import KIND, Profile

    path = Path(ref)
    try:
        if path.is_file():
            return Profile.from_json(path.read_bytes())
        if path.is_dir() or "/" in ref:
            return Profile.load(path)
        return Profile.load(artifacts.resolve(f"{KIND}/{ref}"))
    except (ArtifactError, StoreError, OSError, ValueError) as error:
        raise ValueError(f"--profile {ref}: {error}") from error


def _counted(text: str, workers: int) -> tuple[str, int]:
    ref, sign, number = text.rpartition("=")
    if not sign:
        return text, workers
    if not number.isdecimal() or int(number) < 1:
        raise ValueError(f"--profile {text}: after = comes the number of workers, from 1 on, not {number!r}")
    return ref, int(number)


def _machines(counted: Sequence[tuple[Profile, int]]) -> Machines:
    from controller.types import PoolSpec

    by_model: dict[str, list[tuple[Profile, int]]] = {}
    for profile, count in counted:
        by_model.setdefault(profile.model, []).append((profile, count))
    pools, workers = [], []
    for tier, (model, members) in enumerate(by_model.items()):
        first = members[0][0]
        context = min(profile.max_model_len for profile, _ in members)
        pools.append(PoolSpec(first.name, model, tier, context_length=context, profile=first.name))
        for profile, count in members:
            width = len(str(count - 1))
            workers += [Machine(f"{profile.name}-{i:0{width}}", first.name, profile) for i in range(count)]
    return Machines(tuple(pools), tuple(workers))
