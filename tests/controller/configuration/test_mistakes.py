from __future__ import annotations

import pytest
from pydantic import Field, ValidationError

from controller.configuration.base import Section
from controller.configuration.mistakes import located, unknown_keys


class Inner(Section):
    count: int


class Door(Section):
    token: str = Field(min_length=8)


class Outer(Section):
    inner: Inner
    door: Door | None = None
    many: tuple[Inner, ...] = ()


def _located(data: object) -> dict[tuple[str | int, ...], str]:
    with pytest.raises(ValidationError) as caught:
        Outer.model_validate(data)
    return dict(located(caught.value))


def test_unknown_and_wrong_keys_of_one_section_are_reported_together() -> None:
    assert _located({"inner": {"cuont": 1, "count": "x"}, "outer": 1}) == {
        ("outer",): "unknown key; known: 'door', 'inner', 'many'",
        ("inner", "cuont"): "unknown key; did you mean 'count'?",
        ("inner", "count"): "input should be a valid integer, unable to parse string as an integer; given: 'x'",
    }


def test_paths_lead_through_lists() -> None:
    assert _located({"inner": {"count": 1}, "many": [{"count": 1}, {}]}) == {
        ("many", 1, "count"): "this key is required"
    }


def test_a_long_value_is_cut_and_a_structure_not_shown() -> None:
    assert len(_located({"inner": {"count": "x" * 500}})[("inner", "count")]) < 170
    assert "given" not in _located({"inner": [1, 2, 3]})[("inner",)]


def test_a_secret_is_not_repeated() -> None:
    mistakes = _located({"inner": {"count": 1}, "door": {"token": "hush"}})
    assert mistakes == {("door", "token"): "string should have at least 8 characters"}


def test_unknown_keys_names_each() -> None:
    assert unknown_keys({"a": 1, "b": 2, 3: 4}, {"a"}) == [
        (("b",), "unknown key; known: 'a'"),
        (("3",), "unknown key; known: 'a'"),
    ]
