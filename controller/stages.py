"""The stages and their named implementations: the one list of what a configuration may say."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

from pydantic import ValidationError

from controller.admit import Bounded, BoundedOptions
from controller.best_effort import BestEffort, BestEffortOptions
from controller.errors import StageOptionsError, UnknownStage, suggestion
from controller.fairness import Dlpm, DlpmOptions, NoFairness, Vtc, VtcOptions
from controller.order import (
    Boost,
    BoostOptions,
    Edf,
    EdfOptions,
    Fcfs,
    FcfsOptions,
    LengthRank,
    LengthRankOptions,
    Mlfq,
    MlfqOptions,
    Oracle,
    OracleOptions,
)
from controller.place import (
    Freeness,
    FreenessOptions,
    LeastLoad,
    PowerOfTwo,
    PredictedLatency,
    PredictedLatencyOptions,
    Prefix,
    PrefixOptions,
    RoundRobin,
)
from controller.place.d2lpm import D2lpm, D2lpmOptions
from controller.protocols import (
    AdmitStage,
    FairnessStage,
    Options,
    OrderStage,
    PlaceStage,
    RebalanceStage,
    Resources,
    ScaleStage,
    Stages,
    TierStage,
)
from controller.rebalance import Migrate, MigrateOptions, NoRebalance
from controller.scale import NoScale, TargetTracking, TargetTrackingOptions
from controller.tier import Pinned, Router, RouterOptions, Static, StaticOptions, Threshold, ThresholdOptions

Stage = TypeVar("Stage")
O = TypeVar("O", bound=Options)  # noqa: E741

SIMULATION_ONLY: Final = frozenset({("order", "oracle")})
"""(stage, name) of what goes by the truth, which no gateway can know."""


@dataclass(frozen=True, slots=True)
class _Implementation(Generic[Stage]):
    options: type[Options]
    create: Callable[[Any, Resources], Stage]


class Registry(Generic[Stage]):
    """Named implementations of one stage."""

    def __init__(self, stage: str) -> None:
        self.stage = stage
        self._known: dict[str, _Implementation[Stage]] = {}

    def register(self, name: str, options: type[O], create: Callable[[O, Resources], Stage]) -> None:
        """Add an implementation: its options model, and what builds it from options and resources."""
        if name in self._known:
            raise ValueError(f"stage {self.stage} has an implementation called {name!r} already")
        self._known[name] = _Implementation(options, create)

    def names(self) -> tuple[str, ...]:
        """Every name, in the order of registration."""
        return tuple(self._known)

    def options_model(self, name: str) -> type[Options]:
        """The options model of an implementation; :class:`UnknownStage` if there is none of that name."""
        return self._find(name).options

    def create(self, name: str, options: Mapping[str, Any] | Options | None, resources: Resources) -> Stage:
        """Build an implementation.

        Raises:
            UnknownStage: there is none of that name; the message has the nearest right one.
            StageOptionsError: it refuses its options; the message says which and why.
        """
        found = self._find(name)
        try:
            checked = options if isinstance(options, found.options) else found.options.model_validate(options or {})
        except ValidationError as error:
            raise StageOptionsError(f"stages.{self.stage} ({name}): {_sentences(error, found.options)}") from error
        return found.create(checked, resources)

    def _find(self, name: str) -> _Implementation[Stage]:
        if name not in self._known:
            hint = suggestion(name, self._known)
            raise UnknownStage(f"stage {self.stage} has no implementation called {name!r}{hint}")
        return self._known[name]


class Catalogue:
    """One registry a stage, with everything that ships; more may be registered."""

    def __init__(self) -> None:
        self.admit = Registry[AdmitStage]("admit")
        self.admit.register("bounded", BoundedOptions, Bounded.create)
        self.tier = Registry[TierStage]("tier")
        self.tier.register("pinned", Options, Pinned.create)
        self.tier.register("static", StaticOptions, Static.create)
        self.tier.register("threshold", ThresholdOptions, Threshold.create)
        self.tier.register("router", RouterOptions, Router.create)
        self.tier.register("best_effort", BestEffortOptions, BestEffort.create)
        self.order = Registry[OrderStage]("order")
        self.order.register("fcfs", FcfsOptions, Fcfs.create)
        self.order.register("edf", EdfOptions, Edf.create)
        self.order.register("length_rank", LengthRankOptions, LengthRank.create)
        self.order.register("boost", BoostOptions, Boost.create)
        self.order.register("mlfq", MlfqOptions, Mlfq.create)
        self.order.register("oracle", OracleOptions, Oracle.create)
        self.fairness = Registry[FairnessStage]("fairness")
        self.fairness.register("none", Options, NoFairness.create)
        self.fairness.register("vtc", VtcOptions, Vtc.create)
        self.fairness.register("dlpm", DlpmOptions, Dlpm.create)
        self.place = Registry[PlaceStage]("place")
        self.place.register("round_robin", Options, RoundRobin.create)
        self.place.register("least_load", Options, LeastLoad.create)
        self.place.register("power_of_two", Options, PowerOfTwo.create)
        self.place.register("prefix", PrefixOptions, Prefix.create)
        self.place.register("freeness", FreenessOptions, Freeness.create)
        self.place.register("predicted_latency", PredictedLatencyOptions, PredictedLatency.create)
        self.place.register("d2lpm", D2lpmOptions, D2lpm.create)
        self.rebalance = Registry[RebalanceStage]("rebalance")
        self.rebalance.register("none", Options, NoRebalance.create)
        self.rebalance.register("migrate", MigrateOptions, Migrate.create)
        self.scale = Registry[ScaleStage]("scale")
        self.scale.register("none", Options, NoScale.create)
        self.scale.register("target_tracking", TargetTrackingOptions, TargetTracking.create)

    def registries(self) -> Mapping[str, Registry[Any]]:
        """Stage → registry, in the order of the pipeline."""
        stages = (self.admit, self.tier, self.order, self.fairness, self.place, self.rebalance, self.scale)
        return {registry.stage: registry for registry in stages}

    def build(self, choices: Mapping[str, tuple[str, Mapping[str, Any]]], resources: Resources) -> Stages:
        """One implementation of each stage: stage → (name, options). Stages left out get the plainest one.

        Raises:
            UnknownStage, StageOptionsError: as :meth:`Registry.create`; ``UnknownStage`` also for an unknown stage.
        """
        registries = self.registries()
        for stage in choices:
            if stage not in registries:
                raise UnknownStage(f"there is no stage called {stage!r}{suggestion(stage, registries)}")
        plain = {"tier": "pinned", "place": "least_load"}
        built = {
            stage: registry.create(*choices.get(stage, (plain.get(stage, registry.names()[0]), {})), resources)
            for stage, registry in registries.items()
        }
        return Stages(**built)


def names(stage: str) -> tuple[str, ...]:
    """Names of the implementations that ship for a stage; :class:`UnknownStage` if there is no such stage."""
    return _registry(stage).names()


def options_model(stage: str, name: str) -> type[Options]:
    """Options model of an implementation that ships."""
    return _registry(stage).options_model(name)


def build(choices: Mapping[str, tuple[str, Mapping[str, Any]]], resources: Resources) -> Stages:
    """Build the stages from what ships: stage → (name, options); see :meth:`Catalogue.build`."""
    return Catalogue().build(choices, resources)


def _registry(stage: str) -> Registry[Any]:
    registries = Catalogue().registries()
    if stage not in registries:
        raise UnknownStage(f"there is no stage called {stage!r}{suggestion(stage, registries)}")
    return registries[stage]


def _sentences(error: ValidationError, model: type[Options]) -> str:
    found = []
    for details in error.errors():
        key = ".".join(map(str, details["loc"]))
        if details["type"] == "extra_forbidden" and len(details["loc"]) == 1:
            found.append(f"unknown option {key!r}{suggestion(key, model.model_fields)}")
        else:
            found.append(f"{key}: {details['msg']}" if key else details["msg"])
    return "; ".join(found)
