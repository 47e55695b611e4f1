from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from controller.configuration import Configuration, load, parse
from controller.configuration.telemetry import parsed_headers
from controller.errors import ConfigurationError

POOL = {"name": "p", "model": "m", "tier": 0, "workers": [{"url": "http://127.0.0.1:1"}]}
ENDPOINT = "http://collector:4318/v1/traces"


def traced(**tracing: Any) -> Configuration:
    return parse({"pools": [POOL], "tracing": {"endpoint": ENDPOINT, **tracing}})


def test_nothing_is_told_of_requests_unless_it_is_asked_for() -> None:
    configuration = parse({"pools": [POOL]})
    assert configuration.tracing is None
    assert not configuration.access_log.enabled


@pytest.mark.parametrize("endpoint", ["collector:4318", "ftp://c/v1/traces", "http://c/v1/traces?key=1", ""])
def test_an_endpoint_is_a_url(endpoint: str) -> None:
    with pytest.raises(ConfigurationError, match=r"tracing\.endpoint"):
        traced(endpoint=endpoint)


def test_a_ratio_is_a_share() -> None:
    with pytest.raises(ConfigurationError, match=r"tracing\.sample_ratio"):
        traced(sample_ratio=1.5)


def test_headers_come_from_the_environment_and_are_shown_nowhere(tmp_path: Path) -> None:
    file = tmp_path / "headway.yaml"
    file.write_text(
        f"pools: [{{name: p, model: m, tier: 0, workers: [{{url: 'http://127.0.0.1:1'}}]}}]\n"
        f"tracing: {{endpoint: '{ENDPOINT}', headers_env: COLLECTOR}}\n"
    )
    configuration = load(file, {"HOME": str(tmp_path), "COLLECTOR": "Authorization=Bearer%20secret,x=1"})
    assert configuration.tracing is not None
    assert configuration.tracing.headers is not None
    assert parsed_headers(configuration.tracing.headers.get_secret_value()) == {
        "authorization": "Bearer secret",
        "x": "1",
    }
    assert "secret" not in repr(configuration)
    with pytest.raises(ConfigurationError, match="no variable COLLECTOR"):
        load(file, {"HOME": str(tmp_path)})


@pytest.mark.parametrize("headers", ["secret", "a b=secret", "a=secret%0d%0ab: c"])
def test_headers_that_are_none_are_refused_without_being_repeated(headers: str) -> None:
    with pytest.raises(ConfigurationError, match="key=value") as raised:
        traced(headers=headers)
    assert "secret" not in str(raised.value)


def test_headers_stand_in_one_place() -> None:
    with pytest.raises(ConfigurationError, match="keep one of them"):
        traced(headers="a=b", headers_env="PATH")


def test_the_logs_folder_may_be_in_the_users_own(tmp_path: Path) -> None:
    file = tmp_path / "headway.yaml"
    file.write_text(
        "pools: [{name: p, model: m, tier: 0, workers: [{url: 'http://127.0.0.1:1'}]}]\n"
        "access_log: {enabled: true, path: ~/access.log}\n"
    )
    assert load(file, {"HOME": "/home/me"}).access_log.path == Path("/home/me/access.log")
