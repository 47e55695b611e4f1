"""The command: refusals in words, peers that cannot be installed, and a small run of all of it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli.bench.gateway_config import Keys, Scored, configuration
from cli.bench.gateway_peers import PEERS, clean_environment, environment_of, launch, version
from cli.bench.gateway_wrk import LoadError
from cli.main import app
from controller.configuration import parse


def test_an_unknown_peer_is_refused() -> None:
    said = CliRunner().invoke(app, ["bench", "gateway", "--peers", "smg,nginx"])
    assert said.exit_code == 2
    assert "nginx" in said.output
    assert "litellm" in said.output


def test_connections_must_be_numbers() -> None:
    said = CliRunner().invoke(app, ["bench", "gateway", "--connections", "1,many"])
    assert said.exit_code == 2
    assert "1,32,256" in said.output


def test_a_peer_that_cannot_be_installed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(LoadError, match="smg cannot be installed"):
        environment_of(PEERS["smg"], tmp_path)
    assert not (tmp_path / "smg").exists()


def test_an_environment_that_is_there_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    script = tmp_path / "smg" / "bin" / "smg"
    script.parent.mkdir(parents=True)
    script.touch()
    assert environment_of(PEERS["smg"], tmp_path) == tmp_path / "smg"


def test_unpacked_packages_run_under_this_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine without a package index: the fake peer writes down how it was started."""
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    package = tmp_path / "vllm-router" / "vllm_router"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "launch_router.py").write_text("import sys\nprint(__file__, *sys.argv[1:], *sys.path)\n")
    about = tmp_path / "vllm-router" / "vllm_router-1.2.dist-info" / "METADATA"
    about.parent.mkdir()
    about.write_text("Metadata-Version: 2.1\nName: vllm-router\nVersion: 1.2\n")
    peer = PEERS["vllm-router"]
    home = environment_of(peer, tmp_path)
    assert version(peer, home) == "1.2"
    server = launch(peer, home, ["http://127.0.0.1:1"], tmp_path, "round_robin")
    with pytest.raises(LoadError, match="ended with 0"):
        server.wait(lambda: False, 30)
    started = server.log.read_text().split()
    assert started[0] == str(package / "launch_router.py")
    assert started[started.index("--policy") + 1] == "round_robin"
    assert "/elsewhere" in started


def test_headway_is_measured_with_everything_on(tmp_path: Path) -> None:
    keys = Keys.issue(3)
    found = parse(configuration(["http://127.0.0.1:1", "http://127.0.0.1:2"], 0, tmp_path, keys))
    assert found.scoring.when == "always"
    assert found.scoring.length is not None
    assert found.records.dir is not None
    stages = found.stages
    assert (stages.order.name, stages.fairness.name, stages.place.name) == ("length_rank", "vtc", "prefix")
    assert all(tenant.stored_keys() and tenant.limits.requests_per_minute for tenant in found.tenants)
    assert len(set(keys.shown)) == 3


def test_the_environment_of_what_is_measured_has_no_settings_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADWAY_LISTEN__PORT", "1")
    monkeypatch.setenv("HTTP_PROXY", "http://nowhere")
    assert not {"HEADWAY_LISTEN__PORT", "HTTP_PROXY"} & set(clean_environment())


def test_the_share_that_was_scored() -> None:
    before = Scored(10, 0, 5, {"timeout": 5})
    after = Scored(109, 0, 6, {"timeout": 6})
    assert after.since(before) == Scored(99, 0, 1, {"timeout": 1})
    assert after.since(before).share == 0.99
    assert Scored(0, 0, 0, {}).share == 0.0


def test_a_small_run(tmp_path: Path) -> None:
    """Whether enough was scored depends on how busy the machine is; that it is said, and judged, does not."""
    report = tmp_path / "report.json"
    command = ["bench", "gateway", "--peers", "", "--rounds", "1", "--seconds", "1", "--connections", "2"]
    command += ["--rate", "5", "--prompts", "100", "--json", str(report)]
    said = CliRunner().invoke(app, command)
    assert report.exists(), said.output
    found = json.loads(report.read_text())
    rows = {(row["target"], row.get("mode"), row.get("setting")): row["metrics"] for row in found["results"]}
    for target in ("direct", "headway"):
        for mode in ("streaming", "plain"):
            load = rows[target, mode, None]
            assert load["rps"]["value"] > 0
            assert load["failed"]["value"] == 0
            assert rows[target, mode, "open_loop"]["p99_ms"]["value"] > 0
    assert rows["headway", "plain", None]["cpu_s_per_1k"]["value"] > 0
    share = rows["headway", None, "scoring"]["share"]["value"]
    assert said.exit_code == (0 if share >= 0.99 else 1), said.output
    assert found["ratios"] == {}
