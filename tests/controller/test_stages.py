from __future__ import annotations

import pytest

from controller import stages
from controller.errors import StageOptionsError, UnknownStage
from controller.order import Fcfs, FcfsOptions
from controller.protocols import Resources
from controller.stages import Catalogue

PROMISED = {
    "admit": {"bounded"},
    "tier": {"pinned", "static", "threshold", "router", "best_effort"},
    "order": {"fcfs", "edf", "length_rank", "boost", "mlfq", "oracle"},
    "fairness": {"none", "vtc", "dlpm"},
    "place": {
        "round_robin",
        "least_load",
        "power_of_two",
        "prefix",
        "freeness",
        "predicted_latency",
        "d2lpm",
    },
    "rebalance": {"none", "migrate"},
    "scale": {"none", "target_tracking"},
}


def test_everything_promised_is_there() -> None:
    assert {stage: set(stages.names(stage)) for stage in PROMISED} == PROMISED
    assert list(Catalogue().registries()) == list(PROMISED)


def test_an_unknown_name_is_answered_with_the_nearest_right_one() -> None:
    with pytest.raises(UnknownStage, match="did you mean 'length_rank'"):
        Catalogue().order.create("lenght_rank", {}, Resources())
    with pytest.raises(UnknownStage, match="did you mean 'order'"):
        stages.names("ordre")
    with pytest.raises(UnknownStage, match="did you mean 'fairness'"):
        stages.build({"fairnes": ("vtc", {})}, Resources())


def test_a_wrong_option_is_named_with_what_would_be_right() -> None:
    with pytest.raises(StageOptionsError, match=r"order \(length_rank\).*'patiense_s'.*did you mean 'patience_s'"):
        Catalogue().order.create("length_rank", {"patiense_s": 3}, Resources())
    with pytest.raises(StageOptionsError, match="patience_s"):
        Catalogue().order.create("length_rank", {"patience_s": -3}, Resources())
    with pytest.raises(StageOptionsError, match=r"fallback\.wait_s"):
        Catalogue().tier.create("router", {"fallback": {"wait_s": "soon"}}, Resources())


def test_options_can_be_given_as_their_model() -> None:
    assert isinstance(Catalogue().order.create("fcfs", FcfsOptions(priority_step_s=1.0), Resources()), Fcfs)
    assert stages.options_model("order", "fcfs") is FcfsOptions


def test_stages_left_out_get_the_plainest_implementation() -> None:
    built = stages.build({}, Resources())
    names = {stage: getattr(built, stage).name for stage in PROMISED}
    assert names == {
        "admit": "bounded",
        "tier": "pinned",
        "order": "fcfs",
        "fairness": "none",
        "place": "least_load",
        "rebalance": "none",
        "scale": "none",
    }


def test_an_implementation_of_ones_own_can_be_registered() -> None:
    catalogue = Catalogue()

    class Last(Fcfs):
        name = "lifo"

    catalogue.order.register("lifo", FcfsOptions, lambda options, resources: Last(options))
    assert catalogue.build({"order": ("lifo", {})}, Resources()).order.name == "lifo"
    assert "lifo" not in stages.names("order"), "one catalogue does not change another"
    with pytest.raises(ValueError, match="lifo"):
        catalogue.order.register("lifo", FcfsOptions, lambda options, resources: Last(options))
