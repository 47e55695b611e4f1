"""Building a gateway's parts from its configuration and the artifact store, and saying what became of each artifact."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

from controller import stages
from controller.configuration import Configuration
from controller.errors import HeadwayError, UnknownArtifact
from controller.pipeline import ControlPlane
from controller.protocols import Resources
from controller.rates import busy_rate
from controller.scoring import Scorer
from controller.types import PoolName
from gateway.metrics import ArtifactState, Standing
from predictors.artifact import ArtifactError, load_manifest, manifest_sha256
from predictors.embedding import Embedder, EmbeddingUnavailable
from predictors.latency.model import Profile
from predictors.quality.model import KnnQuality

if TYPE_CHECKING:
    from predictors.length.model import FastLength
    from predictors.length.remaining.model import RemainingLength

__all__ = ["Artifacts", "Learned", "control_plane", "learned"]

_log = logging.getLogger("headway.artifacts")
T = TypeVar("T")


class Artifacts(Protocol):
    """Where artifacts are found: :class:`controller.store.ArtifactStore`, or a stand-in."""

    def resolve(self, ref: str) -> Path: ...


@dataclass(frozen=True, slots=True)
class Learned:
    """What was learned and can be used. ``scorer`` is ``None`` where nothing can be scored, ``remaining`` where running
    streams are not read."""

    scorer: Scorer | None
    standings: tuple[Standing, ...]
    remaining: RemainingLength | None = None


def control_plane(configuration: Configuration, store: Artifacts) -> ControlPlane:
    """The control plane with the stages that the configuration names. Raises StageError."""
    settings = configuration.control_settings(dict(_service_rates(configuration, store)))
    specs = configuration.pool_specs()
    resources = Resources(specs, settings, configuration.replica_ranges(), store)
    return ControlPlane(
        specs,
        stages.build(configuration.stages.choices(), resources),
        aliases=configuration.alias_pools(),
        settings=settings,
        seed=configuration.seed,
    )


def learned(configuration: Configuration, store: Artifacts) -> Learned:
    """Load the predictors, and look at every artifact that the configuration names. What fails is told, not raised."""
    standings: list[Standing] = []
    scoring = configuration.scoring
    length = _load(store, scoring.length, _fast_length, standings)
    quality = _load(store, scoring.quality, KnnQuality.load, standings)
    remaining = _load(store, scoring.remaining, _remaining_length, standings)
    for ref in _stage_artifacts(configuration):
        _load(store, ref, lambda path: path, standings)
    for standing in standings:
        if standing.state is not ArtifactState.ACTIVE:
            _log.warning("artifact %s/%s is %s: %s", standing.kind, standing.name, standing.state, standing.why)
    _warn_of_strangers(configuration, store, standings)
    if length is None and quality is None:
        return Learned(None, tuple(standings), remaining)
    try:
        scorer = Scorer(Embedder(), length, quality, _pool_models(configuration))
    except EmbeddingUnavailable as error:
        _log.warning("nothing can be scored: %s", error)
        return Learned(None, tuple(standings), remaining)
    return Learned(scorer, tuple(standings), remaining)


def _warn_of_strangers(configuration: Configuration, store: Artifacts, standings: list[Standing]) -> None:
    """A policy that learned from other predictions than it is given decides on another scale."""
    active = {f"{one.kind}/{one.name}": one.sha256 for one in standings if one.state is ArtifactState.ACTIVE}
    scoring = configuration.scoring
    serving = {"length": scoring.length, "quality": scoring.quality}
    for ref in set(_stage_artifacts(configuration)) & set(active):
        for other, sha256 in sorted(load_manifest(store.resolve(ref)).settings.get("inputs", {}).items()):
            serves = serving.get(other.partition("/")[0])
            if serves in active and serves != other:
                text = "artifact %s learned from %s, and %s serves: train it again, or serve what it learned from"
                _log.warning(text, ref, other, serves)
            elif active.get(other, sha256) != sha256:
                text = "artifact %s learned from another %s than the one that serves: train it again, or serve that one"
                _log.warning(text, ref, other)


def _load(store: Artifacts, ref: str | None, load: Callable[[Path], T], standings: list[Standing]) -> T | None:
    if ref is None:
        return None
    kind, _, name = ref.partition("/")
    try:
        path = store.resolve(ref)
        loaded = load(path)
        version = str(load_manifest(path).version)
        standings.append(Standing(kind, name, ArtifactState.ACTIVE, version, manifest_sha256(path)))
    except UnknownArtifact as error:
        standings.append(Standing(kind, name, ArtifactState.ABSENT, why=str(error)))
    except (HeadwayError, ArtifactError) as error:
        standings.append(Standing(kind, name, ArtifactState.REFUSED, why=str(error)))
    else:
        return loaded
    return None


def _fast_length(path: Path) -> FastLength:
    from predictors.length.model import FastLength  # LightGBM takes seconds to import where scikit-learn is installed

    return FastLength.load(path)


def _remaining_length(path: Path) -> RemainingLength:
    from predictors.length.remaining.model import RemainingLength

    return RemainingLength.load(path)


def _stage_artifacts(configuration: Configuration) -> Iterator[str]:
    """References in the stages' options, defaults included."""
    for stage, (name, given) in configuration.stages.choices().items():
        options = stages.options_model(stage, name).model_validate(given).model_dump()
        if isinstance(options.get("artifact"), str):
            yield options["artifact"]


def _pool_models(configuration: Configuration) -> Mapping[PoolName, str]:
    return {pool.name: pool.quality_model or pool.model for pool in configuration.pools}


def _service_rates(configuration: Configuration, store: Artifacts) -> Iterator[tuple[PoolName, float]]:
    """Token-work per second of one busy worker, for pools whose profile can be read."""
    for pool in configuration.pools:
        if pool.profile is None:
            continue
        try:
            profile = Profile.load(store.resolve(f"profile/{pool.profile}"))
        except (HeadwayError, ArtifactError) as error:
            _log.warning("pool %s: its profile cannot be used, its speed is measured instead: %s", pool.name, error)
            continue
        workers = [worker.max_inflight for worker in pool.workers]
        workers += [source.max_inflight for source in (pool.actuator, pool.discovery) if source is not None]
        yield pool.name, busy_rate(profile, max(workers))
