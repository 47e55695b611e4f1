from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner, Result

from cli.main import app


def run(*arguments: str, stdin: str | None = None) -> Result:
    return CliRunner().invoke(app, ["tenants", *arguments], input=stdin)


def issued(name: str = "acme") -> dict[str, str]:
    result = run("key", name)
    assert result.exit_code == 0, result.output
    lines: dict[str, str] = yaml.safe_load(result.output)
    assert set(lines) == {"key", "hash"}
    return lines


@pytest.fixture
def config(tmp_path: Path) -> Any:
    def write(**more: Any) -> str:
        pool = {"name": "p", "model": "m", "tier": 0, "workers": [{"url": "http://127.0.0.1:1"}]}
        path = tmp_path / "headway.yaml"
        path.write_text(json.dumps({"pools": [pool], **more}))
        return str(path)

    return write


def test_a_key_is_of_its_tenant_once_its_hash_is_in_the_configuration(config: Any) -> None:
    made = issued()
    path = config(tenants=[{"name": "acme", "keys": [made["hash"]]}])
    result = run("check", "--config", path, stdin=f"{made['key']}\n")
    assert result.exit_code == 0, result.output
    assert result.output.startswith("tenant acme (key ")


def test_an_operators_key_is_an_operators(config: Any) -> None:
    made = issued("proxy")
    result = run("check", "--config", config(auth={"operator_keys": [made["hash"]]}), stdin=made["key"])
    assert result.output.startswith("an operator")


def test_the_hash_does_not_hold_the_key_and_no_two_keys_are_alike() -> None:
    one, other = issued(), issued()
    assert one["key"].split("_", 2)[2] not in one["hash"]
    assert one["key"] != other["key"]
    assert one["hash"] != other["hash"]


def test_a_key_that_is_nobodys(config: Any) -> None:
    made, stranger = issued(), issued()
    path = config(tenants=[{"name": "acme", "keys": [made["hash"]]}])
    result = run("check", "--config", path, stdin=stranger["key"])
    assert result.exit_code == 1
    assert "nobody's: no key of" in result.output
    forged = made["key"][:-1] + ("A" if made["key"][-1] != "A" else "B")
    result = run("check", "--config", path, stdin=forged)
    assert result.exit_code == 1
    assert "tenant acme has a key of the id" in result.output
    assert made["key"] not in result.output


@pytest.mark.parametrize("stdin", ["", "\n", "sk-abc\n"])
def test_what_is_no_key(config: Any, stdin: str) -> None:
    result = run("check", "--config", config(), stdin=stdin)
    assert result.exit_code == 2
    assert "hw1_ID_SECRET" in result.output


def test_a_name_that_no_tenant_can_have() -> None:
    result = run("key", "two words")
    assert result.exit_code == 2
    assert "is no tenant's name" in result.output


def test_a_configuration_that_cannot_be_used(tmp_path: Path) -> None:
    result = run("check", "--config", str(tmp_path / "none.yaml"), stdin="x")
    assert result.exit_code == 2
    assert "cannot be read" in " ".join(result.output.split())
