from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller import observation
from controller.observation import Codec
from controller.pipeline import ControlPlane
from controller.protocols import TierContext
from controller.settings import ControlSettings
from controller.types import Scores, WorkerPhase, WorkerReport
from predictors.artifact import feature_hash
from tests.controller.planes import LADDER, plane, submit

SCORES = Scores(length_rank=1.0, output_tokens=99.0, quality={"small": 0.1, "large": 0.9})


def context(control: ControlPlane, name: str, scores: Scores | None, now: float) -> TierContext:
    found = control.tier_context(name, scores, now)
    assert found is not None
    return found


def loaded() -> ControlPlane:
    control = plane({"tier": "router"}, pools=LADDER, workers=2, max_inflight=2,
                    settings=ControlSettings(default_service_rate=100.0))  # fmt: skip
    for index in range(5):
        submit(control, f"s{index}", 0.0, model="small", prompt_tokens=0, max_tokens=50)
    control.dispatch(0.0)
    control.on_worker_report("small-0", WorkerReport(0.5, 2, 0, 0.3), 0.5)
    control.on_worker_report("small-1", WorkerReport(0.5, 2, 0, 0.5), 0.5)
    return control


def test_every_number_by_hand() -> None:
    control = loaded()
    submit(control, "a", 1.0, prompt_tokens=10, max_tokens=None, deadline=31.0)
    codec = Codec(4)
    values = dict(zip(codec.names, codec.encode(context(control, "a", SCORES, 1.0)), strict=True))
    assert values["pool0.quality"] == pytest.approx(0.1)
    assert values["pool1.quality"] == pytest.approx(0.6), "the prior, where the predictor says nothing"
    assert values["pool2.quality"] == pytest.approx(0.9)
    assert values["pool0.inflight"] == 1.0
    assert values["pool0.queued"] == 0.25
    assert values["pool0.wait_s"] == pytest.approx(5 * 50 / 200.0)
    assert values["pool0.kv_usage"] == pytest.approx(0.4)
    assert values["pool1.inflight"] == values["pool1.wait_s"] == 0.0
    assert values["pool3.quality"] == values["pool3.wait_s"] == 0.0, "a slot left over"
    assert values["output_tokens"] == pytest.approx(math.log(100.0))
    assert values["prompt_tokens"] == pytest.approx(math.log(11.0))
    assert values["slack_s"] == pytest.approx(30.0)
    assert values["arrivals_fast"] > values["arrivals_slow"] > 0.0


def test_the_documented_table_is_the_code() -> None:
    text = observation.__doc__ or ""
    for name in Codec(1).names:
        assert f"    {name.removeprefix('pool0.')} " in text


def test_schema_and_hash_depend_on_the_slots_alone() -> None:
    assert Codec(3).size == len(Codec(3).names) == len(Codec(3).low) == len(Codec(3).high) == 20
    assert Codec(3).hash == Codec(3).hash == feature_hash(Codec(3).names)
    assert Codec(3).hash != Codec(4).hash
    with pytest.raises(ValueError, match="slot"):
        Codec(0)


def test_actions_that_cannot_be_taken_are_masked() -> None:
    control = loaded()
    control.set_phase("medium-0", WorkerPhase.UNHEALTHY, 1.0)
    control.set_phase("medium-1", WorkerPhase.DRAINING, 1.0)
    submit(control, "a", 1.0)
    found = context(control, "a", SCORES, 1.0)
    codec = Codec(4)
    assert codec.mask(found).tolist() == [True, False, True, False]
    values = dict(zip(codec.names, codec.encode(found), strict=True))
    assert (values["pool1.inflight"], values["pool1.wait_s"]) == (2.0, 60.0), "it shows as full"
    assert codec.used(found).tolist() == [True] * 15 + [False] * 5 + [True] * 5


def test_more_pools_than_slots_do_not_fit() -> None:
    control = loaded()
    submit(control, "a", 1.0)
    found = context(control, "a", SCORES, 1.0)
    assert not Codec(2).fits(found)
    with pytest.raises(ValueError, match="3 pools"):
        Codec(2).encode(found)


def test_looking_decides_nothing() -> None:
    control = loaded()
    submit(control, "a", 1.0)
    before = control.counters()
    first = Codec(3).encode(context(control, "a", SCORES, 1.0))
    assert np.array_equal(first, Codec(3).encode(context(control, "a", SCORES, 1.0)))
    assert control.counters() == before
    assert control.tier_context("s4", SCORES, 1.0) is None, "its tier is not open"


@given(
    st.floats(0, 1e9),
    st.floats(0, 1),
    st.one_of(st.none(), st.floats(-1e6, 1e6)),
    st.integers(0, 10**9),
    st.floats(0, 1e3),
)
def test_nothing_leaves_the_declared_range(
    output: float, quality: float, deadline: float | None, prompt: int, now: float
) -> None:
    pools = tuple(pool.__class__(pool.name, pool.model, pool.tier, context_length=10**12) for pool in LADDER)
    control = plane({"tier": "router"}, pools=pools, settings=ControlSettings(drop_late=False))
    submit(control, "a", 0.0, prompt_tokens=prompt, deadline=deadline)
    codec = Codec(3)
    row = codec.encode(context(control, "a", Scores(0.0, output, {"small": quality}), now))
    assert row.dtype == np.float32
    assert np.isfinite(row).all()
    assert (row >= codec.low).all()
    assert (row <= codec.high).all()
