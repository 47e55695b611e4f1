"""A folder of measured loads and its index."""

from __future__ import annotations

from pathlib import Path

import pytest

from predictors.latency.campaign import Campaign, Limits, LoadEntry, Role, Sample, write_samples
from predictors.latency.measurements import MeasurementsError

SAMPLES = [Sample(0.5, 10, 3, 3, 0.1, 0.3, 0.1, 0.1, 0.1), Sample(0.7, 20, 2, 0, error="refused")]


def entry(name: str, role: Role = Role.FIT, late: float = 0.001, failed: int = 1) -> LoadEntry:
    return LoadEntry(name, role, 4, requests=2, failed=failed, seconds=1.0, late_p99_s=late)


def test_an_index_is_read_back_with_its_loads(tmp_path: Path) -> None:
    campaign = Campaign("http://there", "tiny", Limits(max_num_seqs=8)).with_entry(entry("one"))
    campaign = campaign.with_entry(entry("two", Role.HOLDOUT)).with_entry(entry("one"))
    for name in ("one", "two"):
        write_samples(tmp_path, name, SAMPLES)
    campaign.write(tmp_path)
    assert Campaign.read(tmp_path) == campaign
    assert [e.name for e in campaign.entries] == ["two", "one"]
    (load,) = campaign.loads(tmp_path, Role.FIT)
    assert (load.name, load.concurrency, len(load)) == ("one", 4, 1)
    assert load.measured.ttft[0] == pytest.approx(0.1)


@pytest.mark.parametrize("bad", [entry("late", late=0.02), entry("failed", failed=2)])
def test_loads_that_tell_nothing_are_not_used(tmp_path: Path, bad: LoadEntry) -> None:
    campaign = Campaign("http://there", "tiny", Limits()).with_entry(bad)
    write_samples(tmp_path, bad.name, SAMPLES)
    assert campaign.loads(tmp_path, Role.FIT) == []


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"target": 1, "model": 2, "limits": {"seats": 3}, "entries": []}'])
def test_anything_else_is_no_index(tmp_path: Path, text: str) -> None:
    (tmp_path / "loads.json").write_text(text)
    with pytest.raises(MeasurementsError, match=r"loads\.json"):
        Campaign.read(tmp_path)


def test_known_limits_win_over_others() -> None:
    assert Limits(max_num_seqs=8).or_else(Limits(max_num_seqs=4, kv_blocks=2)) == Limits(max_num_seqs=8, kv_blocks=2)


@pytest.mark.parametrize("raw", [[], {"seats": 1}, {"kv_blocks": 0}, {"kv_blocks": 1.5}, {"kv_blocks": True}])
def test_limits_are_whole_numbers_by_name(raw: object) -> None:
    with pytest.raises(MeasurementsError, match=r"file\.json"):
        Limits.parse(raw, "file.json")
