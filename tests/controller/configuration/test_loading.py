from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from controller.configuration import Configuration, json_schema, load, parse
from controller.errors import ConfigurationError
from tests.controller.configuration.fleets import fleet

GUIDE = Path(__file__).parents[3] / "docs" / "configuration.md"
ENVIRON = {"HOME": "/home/op"}


def _write(folder: Path, text: str) -> Path:
    path = folder / "headway.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def _problems(path: Path, environ: dict[str, str] | None = None) -> list[str]:
    with pytest.raises(ConfigurationError) as caught:
        load(path, ENVIRON if environ is None else environ)
    return [str(problem).replace(f"{path}", path.name) for problem in caught.value.problems]


@pytest.mark.parametrize("text", re.findall(r"```yaml\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL))
def test_the_examples_of_the_guide_load(text: str, tmp_path: Path) -> None:
    configuration = load(_write(tmp_path, text), ENVIRON)
    assert configuration.pools
    assert configuration.home == Path("/home/op/.local/share/headway")


def test_every_mistake_has_its_line(tmp_path: Path) -> None:
    path = _write(
        tmp_path,
        """\
listen:
  prot: 80
pools:
  - name: small
    model: m
    tier: low
    workers:
      - url: http://a:1
        max_inflight: 0
""",
    )
    assert _problems(path) == [
        "headway.yaml:2: listen.prot: unknown key; did you mean 'port'?",
        "headway.yaml:6: pools[0].tier: input should be a valid integer, unable to parse string as an integer;"
        " given: 'low'",
        "headway.yaml:9: pools[0].workers[0].max_inflight: input should be greater than or equal to 1; given: 0",
    ]


def test_a_missing_key_points_at_its_section(tmp_path: Path) -> None:
    path = _write(tmp_path, "seed: 1\npools:\n  - name: small\n    workers: [{url: 'http://a:1'}]\n    tier: 0\n")
    assert _problems(path) == ["headway.yaml:3: pools[0].model: this key is required"]


@pytest.mark.parametrize("text", ["", "# nothing\n", "{}"])
def test_a_file_without_pools_is_refused(text: str, tmp_path: Path) -> None:
    (problem,) = _problems(_write(tmp_path, text))
    assert problem.endswith("pools: this key is required")


@pytest.mark.parametrize("text", ["[]", "just words", "3"])
def test_a_document_that_is_no_mapping_is_refused(text: str, tmp_path: Path) -> None:
    assert "must be a mapping" in _problems(_write(tmp_path, text))[0]


def test_a_file_that_is_not_there_or_not_text_is_refused(tmp_path: Path) -> None:
    assert _problems(tmp_path / "headway.yaml") == ["headway.yaml: cannot be read: No such file or directory"]
    path = tmp_path / "headway.yaml"
    path.write_bytes(b"\xff\xfe\x00")
    assert "not UTF-8" in _problems(path)[0]


def test_the_environment_overrides_and_its_mistakes_name_the_variable(tmp_path: Path) -> None:
    path = _write(tmp_path, yaml.safe_dump(fleet()))
    environ = {**ENVIRON, "HEADWAY_LISTEN__PORT": "9000", "HEADWAY_STAGES__TIER": "{name: static, pool: small}"}
    configuration = load(path, environ)
    assert configuration.listen.port == 9000
    assert configuration.stages.choices()["tier"] == ("static", {"pool": "small"})
    assert _problems(path, {"HEADWAY_LISTEN__PROT": "1"}) == [
        "environment variable HEADWAY_LISTEN__PROT: listen.prot: unknown key; did you mean 'port'?"
    ]
    assert _problems(path, {"HEADWAY_SEED": "many"})[0].startswith("environment variable HEADWAY_SEED: seed: ")


@pytest.mark.parametrize(
    ("text", "environ", "home"),
    [
        ("", {"HOME": "/home/op"}, "/home/op/.local/share/headway"),
        ("", {"HOME": "/home/op", "XDG_DATA_HOME": "/data"}, "/data/headway"),
        ("home: ~/store\n", {"HOME": "/home/op"}, "/home/op/store"),
        ("home: /srv\n", {"HOME": "/home/op"}, "/srv"),
        ("home: /srv\n", {"HOME": "/home/op", "HEADWAY_HOME": "/elsewhere"}, "/elsewhere"),
    ],
)
def test_home_is_settled_when_the_file_is_read(text: str, environ: dict[str, str], home: str, tmp_path: Path) -> None:
    assert load(_write(tmp_path, text + yaml.safe_dump(fleet())), environ).home == Path(home)


def test_the_records_folder_may_be_under_the_users_own(tmp_path: Path) -> None:
    path = _write(tmp_path, yaml.safe_dump(fleet(records={"dir": "~/records"})))
    assert load(path, ENVIRON).records.dir == Path("/home/op/records")


def test_plain_data_is_checked_alike() -> None:
    assert parse(fleet()).home is None
    with pytest.raises(ConfigurationError, match=r"^the demo: pools\[0\].tier: "):
        parse(fleet(pools=[{**fleet()["pools"][0], "tier": "x"}]), "the demo")


def _objects(schema: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    yield "Configuration", schema
    yield from ((name, one) for name, one in schema["$defs"].items() if "properties" in one)


def test_the_schema_documents_every_field_and_refuses_unknown_keys() -> None:
    schema = json_schema()
    for name, section in _objects(schema):
        assert section["additionalProperties"] is False, name
        for field, described in section["properties"].items():
            assert described.get("description"), f"{name}.{field} has no docstring"
    assert set(schema["properties"]) == set(Configuration.model_fields)
    assert {"type": "string"} in schema["$defs"]["StageChoice"]["anyOf"]
