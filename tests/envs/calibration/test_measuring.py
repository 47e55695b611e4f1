"""A campaign against a simulated engine, in simulated time."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from envs.calibration.loads import Load, Recorded, Worker
from envs.calibration.measuring import Options, measure
from envs.calibration.simulated import SimulatedWorker
from predictors.latency.campaign import INDEX, Campaign, Limits, Role, Sample
from predictors.latency.ladder import START_8B
from predictors.latency.measurements import MeasurementsError

LIMITS = Limits(max_num_seqs=256, max_model_len=8192, kv_blocks=27_212, block_size=16)
BRIEF = Options(minutes=1.0, only=("closed_1x", "closed_8x", "open_fit_low", "holdout_burst"))


def campaign() -> Campaign:
    return Campaign("http://sim", "sim", LIMITS)


class Failing:
    """A worker that breaks off at its third load."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._loads = iter(range(3))

    def run(self, load: Load) -> Recorded:
        if next(self._loads) == 2:
            raise KeyboardInterrupt
        return self._worker.run(load)


def test_what_was_measured_survives_a_failure_and_is_not_measured_again(tmp_path: Path) -> None:
    worker = SimulatedWorker(START_8B)
    with pytest.raises(KeyboardInterrupt):
        measure(Failing(worker), campaign(), tmp_path, BRIEF)
    kept = Campaign.read(tmp_path)
    assert len(kept.entries) == 2
    names: list[str] = []
    done = measure(worker, kept, tmp_path, BRIEF, on_load=lambda entry: names.append(entry.name))
    assert not set(names) & {entry.name for entry in kept.entries}
    assert {entry.role for entry in done.entries} == {Role.FIT, Role.HOLDOUT}
    assert Campaign.read(tmp_path) == done
    assert (tmp_path / INDEX).exists()


def test_open_loads_run_at_what_the_closed_ones_showed_the_engine_to_bear(tmp_path: Path) -> None:
    slow = replace(START_8B, **{name: 4 * getattr(START_8B, name) for name in "abcd"})
    rates = []
    for name, profile in (("fast", START_8B), ("slow", slow)):
        folder = tmp_path / name
        done = measure(SimulatedWorker(profile), campaign(), folder, BRIEF)
        (load,) = [load for load in done.loads(folder, Role.FIT) if load.concurrency is None]
        rates.append((len(load) - 1) / load.arrival.max())
    assert rates[0] == pytest.approx(4 * rates[1], rel=0.35)


def test_given_rates_take_their_place(tmp_path: Path) -> None:
    options = Options(minutes=2.0, only=("open_fit_mid",), rates=(3.0,))
    done = measure(SimulatedWorker(START_8B), campaign(), tmp_path, options)
    (load,) = done.loads(tmp_path, Role.FIT)
    assert (len(load) - 1) / load.arrival.max() == pytest.approx(3.0, rel=0.3)


class Late:
    """A worker whose client does not keep time."""

    def __init__(self, lateness: float, error: str) -> None:
        self._recorded = Recorded([Sample(0.0, 5, 5, error=error)], [lateness], 1.0)

    def run(self, load: Load) -> Recorded:
        return self._recorded


@pytest.fixture(params=[(0.05, "", "the client was late"), (0.0, "refused", "every request failed")])
def hopeless(request: pytest.FixtureRequest) -> tuple[Late, str]:
    lateness, error, why = request.param
    return Late(lateness, error), why


def test_loads_that_a_late_client_timed_do_not_count(tmp_path: Path, hopeless: tuple[Late, str]) -> None:
    worker, why = hopeless
    with pytest.raises(MeasurementsError, match=why):
        measure(worker, campaign(), tmp_path, BRIEF)
    assert not any(entry.usable for entry in Campaign.read(tmp_path).entries)
