from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from controller.configuration import Configuration, load, parse
from controller.errors import ConfigurationError

SECRET = "sk-very-secret"


def told(**changes: Any) -> Configuration:
    return parse({"pools": [{"name": "p", "model": "m", "tier": 0, "workers": [{"url": "http://a:1"}], **changes}]})


@pytest.mark.parametrize(
    ("upstream", "says"),
    [
        ({"api_key": "with space"}, "visible ASCII"),
        ({"api_key": SECRET, "api_key_env": "KEY"}, "keep one of them"),
        ({"api_key_env": "1KEY"}, "pattern"),
        ({"client_key": "key.pem"}, "needs client_cert"),
        ({"verify": False, "ca_file": "ca.pem"}, "drop one of the two"),
        ({"server_name": "not a name"}, "pattern"),
        ({"api_keys": SECRET}, "did you mean 'api_key'"),
    ],
)
def test_what_is_wrong_with_an_upstream_is_said_without_its_key(upstream: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigurationError) as error:
        told(upstream=upstream)
    assert says in str(error.value)
    assert SECRET not in str(error.value)


@pytest.mark.parametrize(
    ("discovery", "says"),
    [
        ({"kind": "dns", "port": 8000}, "needs host"),
        ({"host": "workers"}, "A and AAAA need port"),
        ({"host": "workers", "record": "SRV", "port": 8000}, "brings its own ports"),
        ({"kind": "admin", "host": "workers"}, "kind admin takes no host"),
        ({"kind": "consul", "host": "workers"}, "'dns' or 'admin'"),
        ({"host": "http://workers", "port": 80}, "discovery.host"),
    ],
)
def test_what_is_wrong_with_a_discovery(discovery: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigurationError) as error:
        told(discovery=discovery)
    assert says in str(error.value)


@pytest.mark.parametrize("discovery", [{"host": "workers", "port": 8000}, {"kind": "admin"}])
def test_a_pool_whose_workers_are_found_lists_none(discovery: dict[str, Any]) -> None:
    assert told(workers=[], discovery=discovery).worker_specs() == ()


FILE = """
pools:
  - name: p
    model: m
    tier: 0
    upstream: {api_key_env: POOL_KEY}
    workers:
      - url: http://a:1
      - url: http://b:1
        upstream: {api_key_file: KEYFILE}
"""


def file(folder: Path) -> Path:
    path = folder / "gateway.yaml"
    path.write_text(FILE.replace("KEYFILE", str(folder / "key")))
    return path


def test_keys_are_taken_from_where_they_are(tmp_path: Path) -> None:
    (tmp_path / "key").write_text(f"{SECRET}-2\n")
    configuration = load(file(tmp_path), {"POOL_KEY": SECRET, "HOME": str(tmp_path)})
    upstreams = configuration.pools[0].upstreams()
    found = {name: u.api_key.get_secret_value() for name, u in upstreams.items() if u.api_key is not None}
    assert found == {"p-0": SECRET, "p-1": f"{SECRET}-2"}
    assert SECRET not in repr(configuration) + str(configuration.model_dump_json())


def test_keys_that_cannot_be_had_are_all_told_with_their_lines(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError) as error:
        load(file(tmp_path), {"HOME": str(tmp_path)})
    first, second = str(error.value).splitlines()
    assert "gateway.yaml:6: pools[0].upstream.api_key_env: the environment has no variable POOL_KEY" in first
    assert "gateway.yaml:10: pools[0].workers[1].upstream.api_key_file: " in second
    assert "No such file" in second


def test_what_is_no_key_is_not_repeated(tmp_path: Path) -> None:
    (tmp_path / "key").write_text(f"{SECRET} and more\n")
    with pytest.raises(ConfigurationError, match="is no key") as error:
        load(file(tmp_path), {"POOL_KEY": SECRET, "HOME": str(tmp_path)})
    assert SECRET not in str(error.value)
