"""``headway calibrate``: from saved measurements, from a server, and what it refuses."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import typer

from cli.calibrate.__main__ import main as measure_only
from cli.calibrate.command import calibrate
from envs.calibration.loads import Sizes
from envs.calibration.measuring import Options, measure
from envs.calibration.simulated import SimulatedWorker
from predictors.latency.campaign import Campaign, Limits
from predictors.latency.ladder import START_8B
from predictors.latency.model import Profile
from tests.envs.calibration.servers import Scripted, serving

ROOT = Path(__file__).resolve().parents[2]
TRUE = replace(
    START_8B,
    a=8e-3,
    b=18e-6,
    c=40e-6,
    d=50e-9,
    overlap_s=5e-3,
    mixed_floor_s=10e-3,
    async_scheduling=True,
    request_overhead_s=6e-3,
    token_overhead_s=0.2e-3,
    max_num_seqs=64,
)
LIMITS = Limits(max_num_seqs=64, kv_blocks=27_212, block_size=16, max_model_len=8192)
ONLY = ("closed_1x512", "closed_1x2048", "closed_8x", "closed_32x", "closed_16x2048", "open_fit_mid", "holdout_low")


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of measurements of a known engine, in simulated time."""
    folder = tmp_path_factory.mktemp("measured")
    trace = [Sizes(200 + 37 * (i % 40), 20 + 11 * (i % 13)) for i in range(600)]
    options = Options(minutes=0.8, only=ONLY, trace=trace)
    measure(SimulatedWorker(TRUE, noise=0.01), Campaign("http://sim", "org/Known", LIMITS), folder, options)
    return folder


def run(**options: Any) -> None:
    defaults = {name: parameter.default for name, parameter in inspect.signature(calibrate).parameters.items()}
    calibrate(**{**defaults, "starts": 1, **options})


def test_a_known_engine_is_found_back_and_written(measured: Path, tmp_path: Path) -> None:
    run(measurements=[measured], out=tmp_path, json_path=tmp_path / "f.json")
    report = json.loads((tmp_path / "f.json").read_text())
    assert (report["command"], report["good"], report["objections"]) == ("calibrate", True, [])
    assert report["errors_of"] == "holdout_low"
    assert {kind: set(values) for kind, values in report["errors"].items()} == {
        kind: {"mean", "p50", "p90", "p99"} for kind in ("ttft", "itl", "e2e")
    }
    profile = Profile.load(Path(report["written"]))
    for name, tolerance in {"a": 0.03, "b": 0.1, "c": 0.3, "d": 0.3}.items():
        assert getattr(profile, name) == pytest.approx(getattr(TRUE, name), rel=tolerance)
    assert (profile.name, profile.max_num_seqs, profile.kv_blocks) == ("known", 64, 27_212)
    rows = {row["load"]: row for row in report["results"]}
    assert rows["open_fit_mid"]["split"] == "fit"
    assert rows["holdout_low"]["metrics"]["e2e_mean"]["value"] == report["errors"]["e2e"]["mean"]
    drawn = {path.name for path in (tmp_path / "plots").iterdir()}
    assert {"open_fit_mid.png", "holdout_low.png", "closed_loops.png"} <= drawn


def test_a_bad_fit_is_refused_and_written_only_by_force_and_marked(
    measured: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other"
    options = Options(minutes=0.5, only=("open_fit_low",), rates=(2.0, 2.0))
    slow = replace(TRUE, a=16e-3, max_num_seqs=64)
    measure(SimulatedWorker(slow), Campaign("http://sim", "org/Known", LIMITS), other, options)
    wanted = {"measurements": [measured], "holdout": [other / "open_fit_low.csv"], "out": tmp_path / "out"}
    with pytest.raises(typer.Exit) as refused:
        run(**wanted)
    assert refused.value.exit_code == 1
    said = capsys.readouterr().err
    assert "open_fit_low: itl_p50 is off by -" in said
    assert "--force" in said
    assert not (tmp_path / "out" / "profile").exists()
    with pytest.raises(typer.Exit):
        run(**wanted, force=True)
    (manifest,) = (tmp_path / "out" / "profile").glob("*/*/manifest.json")
    assert "off by" in json.loads(manifest.read_text())["settings"]["warning"]
    assert "Not a good fit" in manifest.with_name("card.md").read_text()


def test_without_held_out_load_nothing_is_called_good(
    measured: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(typer.Exit) as refused:
        run(measurements=[measured / "open_fit_mid.csv"], out=tmp_path, json_path=tmp_path / "f.json")
    assert refused.value.exit_code == 1
    assert "no load was held out" in capsys.readouterr().err
    assert json.loads((tmp_path / "f.json").read_text())["errors"] is None


@pytest.mark.parametrize(
    "options, message",
    [
        ({}, "either --target URL"),
        ({"target": "http://x", "measurements": [Path("a.csv")]}, "either --target URL"),
        ({"measurements": [Path("gone.csv")]}, "gone.csv: No such file"),
        ({"target": "http://127.0.0.1:9"}, "http://127.0.0.1:9/v1/models"),
    ],
)
def test_what_cannot_be_done_is_said(
    options: dict[str, Any], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(typer.Exit) as refused:
        run(**options, out=tmp_path)
    assert refused.value.exit_code == 2
    assert message in " ".join(capsys.readouterr().err.split())


def test_a_load_cannot_judge_the_fit_that_it_made(
    measured: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = measured / "open_fit_mid.csv"
    with pytest.raises(typer.Exit):
        run(measurements=[file], holdout=[file], out=tmp_path)
    assert "fitted and held out at once" in capsys.readouterr().err


def test_measuring_alone_leaves_a_folder_to_fit(tmp_path: Path) -> None:
    with serving(Scripted()) as url:
        arguments = ["--target", url, "--out", str(tmp_path), "--minutes", "0.05", "--only", "closed_1x", "--seed", "3"]
        assert measure_only(arguments) == 0
    campaign = Campaign.read(tmp_path)
    assert campaign.model == "tiny"
    assert campaign.limits == Limits(kv_blocks=640, block_size=16, max_model_len=4096)
    assert all((tmp_path / f"{entry.name}.csv").exists() for entry in campaign.entries)
    assert campaign.entries


def test_measuring_needs_little_of_what_the_rest_needs() -> None:
    """It runs beside a server, where nothing else of headway's may be installed."""
    modules = "cli.calibrate.__main__, cli.calibrate.measure, envs.calibration.live, envs.calibration.measuring"
    code = (
        f"import sys, {modules}, envs.calibration.server, envs.calibration.traces;"
        "tops = {name.split('.')[0] for name in sys.modules if getattr(sys.modules[name], '__file__', None)};"
        "print(*sorted(t for t in tops if t not in sys.stdlib_module_names and not t.startswith('_')))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    ours = {"cli", "envs", "predictors", "upstream"}
    assert set(done.stdout.split()) - ours <= {"httptools", "numpy", "cython_runtime"}
