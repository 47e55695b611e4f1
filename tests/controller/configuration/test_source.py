from __future__ import annotations

from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from controller.configuration.source import dotted, lay_over, read_yaml
from controller.errors import ConfigurationError

TOP = ("listen", "pools", "home")

scalars = st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.floats(allow_nan=False)
documents = st.dictionaries(
    st.text(max_size=8),
    st.recursive(
        scalars,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
        max_leaves=12,
    ),
    max_size=4,
)


def _errors(text: str) -> list[str]:
    with pytest.raises(ConfigurationError) as caught:
        read_yaml(text, "a.yaml")
    return [str(problem) for problem in caught.value.problems]


@given(documents)
def test_reads_what_a_plain_loader_reads(document: dict[str, Any]) -> None:
    text = yaml.safe_dump(document, allow_unicode=True)
    assert read_yaml(text, "a.yaml").data == yaml.safe_load(text)


def test_every_path_knows_its_line_and_missing_ones_their_parents() -> None:
    source = read_yaml("listen:\n  port: 1\npools:\n  - name: a\n    tier: 0\n  - {name: b}\n", "a.yaml")
    assert source.where(("listen", "port")) == "a.yaml:2"
    assert source.where(("pools", 0, "tier")) == "a.yaml:5"
    assert source.where(("pools", 1, "name")) == "a.yaml:6"
    assert source.where(("pools", 1, "model")) == "a.yaml:6"
    assert source.where(("nowhere",)) == "a.yaml:1"


def test_an_empty_document_is_an_empty_mapping() -> None:
    assert read_yaml("# nothing\n", "a.yaml").data == {}


def test_duplicate_keys_are_refused_with_both_lines() -> None:
    assert _errors("listen:\n  port: 1\n  host: x\n  port: 2\n") == [
        "a.yaml:4: listen.port: this key is already given in line 2; keep one of the two"
    ]


def test_merge_keys_and_anchors_work_and_own_keys_win() -> None:
    source = read_yaml("a: &a {x: 1, y: 2}\nb:\n  <<: *a\n  y: 3\nc: *a\n", "a.yaml")
    assert source.data == {"a": {"x": 1, "y": 2}, "b": {"x": 1, "y": 3}, "c": {"x": 1, "y": 2}}


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("listen: {port: 1\npools: []\n", 2),
        ("listen:\n\tport: 1\n", 2),
        ("a: *nothing\n", 1),
        ("a: 1\n---\nb: 2\n", 2),
        ("a: !!python/name:os.system x\n", 1),
    ],
)
def test_what_is_not_yaml_is_refused_with_its_line(text: str, line: int) -> None:
    (error,) = _errors(text)
    assert error.startswith(f"a.yaml:{line}: ")
    assert "not YAML" in error


def test_only_plain_mappings_and_lists_are_taken() -> None:
    assert "is not allowed" in _errors("a: 1\nb: !!python/object:os.system {}\n")[0]
    assert _errors("a: &a [*a]\n") == ["a.yaml:1: nested too deeply; does an anchor contain itself?"]


def test_control_characters_are_refused() -> None:
    (error,) = _errors("a: \x00\n")
    assert error.startswith("a.yaml: not YAML")


def test_keys_must_be_text() -> None:
    assert _errors("aliases:\n  on: [a]\n") == ["a.yaml:2: aliases: a key must be text, not True; put it in quotes"]


def test_dotted_paths_read_as_people_write_them() -> None:
    assert dotted(("pools", 0, "workers", 12, "url")) == "pools[0].workers[12].url"
    assert dotted(()) == ""


def test_variables_override_add_and_append() -> None:
    source = read_yaml("listen: {port: 1}\npools:\n  - {name: a, tier: 0}\n", "a.yaml")
    environ = {
        "HEADWAY_LISTEN__PORT": "2",
        "HEADWAY_LISTEN__HOST": "0.0.0.0",
        "HEADWAY_POOLS__0__TIER": "3",
        "HEADWAY_POOLS__1__NAME": "b",
        "HEADWAY_HOME": "/srv",
        "PATH": "/bin",
    }
    lay_over(source, environ, TOP)
    assert source.data == {
        "listen": {"port": 2, "host": "0.0.0.0"},
        "pools": [{"name": "a", "tier": 3}, {"name": "b"}],
        "home": "/srv",
    }
    assert source.where(("pools", 0, "tier")) == "environment variable HEADWAY_POOLS__0__TIER"
    assert source.where(("pools", 0, "name")) == "a.yaml:3"


def test_a_section_can_be_overridden_whole() -> None:
    source = read_yaml("listen:\n  port: 1\n", "a.yaml")
    lay_over(source, {"HEADWAY_LISTEN": "{host: x}"}, TOP)
    assert source.data == {"listen": {"host": "x"}}
    assert source.where(("listen", "port")) == "environment variable HEADWAY_LISTEN"


def test_a_value_that_is_not_yaml_is_taken_as_text() -> None:
    source = read_yaml("", "a.yaml")
    lay_over(source, {"HEADWAY_HOME": "{oops"}, TOP)
    assert source.data == {"home": "{oops"}


def test_variables_of_others_are_left_alone() -> None:
    source = read_yaml("", "a.yaml")
    others = ("DATA", "CONFIG", "PORT", "SERVICE_HOST", "SERVICE_PORT_HTTP", "PORT_80_TCP_ADDR", "REDIS_SERVICE_HOST")
    lay_over(source, {f"HEADWAY_{name}": "tcp://10.0.0.1:80" for name in others}, TOP)
    assert source.data == {}


@pytest.mark.parametrize("name", ["HEADWAY_POOLS__3__TIER", "HEADWAY_LISTEN__PORT__DEEP", "HEADWAY_POOLS__FIRST__TIER"])
def test_an_override_that_leads_nowhere_is_refused(name: str) -> None:
    source = read_yaml("listen: {port: 1}\npools: [{name: a}]\n", "a.yaml")
    with pytest.raises(ConfigurationError, match=f"environment variable {name}: .*there is no "):
        lay_over(source, {name: "1"}, TOP)
