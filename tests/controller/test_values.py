"""A swift dataclass is told from a plain one by nothing but the time it takes to make."""

from __future__ import annotations

import copy
import inspect
from dataclasses import FrozenInstanceError, asdict, dataclass, field, fields, is_dataclass, replace
from typing import Any

import pytest

from controller import protocols, types, view
from controller.eligibility import Verdict
from controller.values import swift


@dataclass(frozen=True, slots=True)
class Plain:
    one: int
    two: str = "b"
    three: tuple[int, ...] = field(default_factory=tuple)
    hidden: object = field(default=None, repr=False, compare=False)

    @property
    def doubled(self) -> int:
        return 2 * self.one


@swift
@dataclass(frozen=True, slots=True)
class Quick:
    one: int
    two: str = "b"
    three: tuple[int, ...] = field(default_factory=tuple)
    hidden: object = field(default=None, repr=False, compare=False)

    @property
    def doubled(self) -> int:
        return 2 * self.one


BOTH = pytest.mark.parametrize("made", [Plain, Quick])
USED = [
    one
    for module in (types, view, protocols)
    for one in vars(module).values()
    if inspect.isclass(one) and one.__module__ == module.__name__ and "__reduce__" in vars(one)
] + [Verdict]


@BOTH
def test_it_is_made_by_position_by_name_and_from_defaults(made: Any) -> None:
    assert made(1) == made(one=1, two="b", three=()) == made(1, "b", (), hidden=object())
    assert (made(1).two, made(1).three, made(1).hidden, made(3).doubled) == ("b", (), None, 6)
    assert made(1, three=(2,)).three == (2,)
    for wrong in ({}, {"one": 1, "four": 4}):
        with pytest.raises(TypeError):
            made(**wrong)
    with pytest.raises(TypeError):
        made(1, "b", (), None, 5)


@BOTH
def test_it_is_frozen_and_has_no_room_for_more(made: Any) -> None:
    value = made(1)
    for name in ("one", "two", "unheard_of"):
        with pytest.raises((FrozenInstanceError, TypeError)):
            setattr(value, name, 2)
    with pytest.raises(FrozenInstanceError):
        del value.one
    assert not hasattr(value, "__dict__")
    assert type(value) is made
    assert isinstance(value, made)


@BOTH
def test_it_is_compared_hashed_shown_and_taken_apart_by_its_fields(made: Any) -> None:
    assert (made(1) == made(1), made(1) == made(2), made(1) == (1, "b", ())) == (True, False, False)
    assert hash(made(1, "x")) == hash(made(1, "x"))
    assert len({made(1), made(1), made(2)}) == 2
    assert repr(made(1)) == f"{made.__name__}(one=1, two='b', three=())"
    assert is_dataclass(made)
    assert [one.name for one in fields(made)] == ["one", "two", "three", "hidden"]
    assert asdict(made(1)) == {"one": 1, "two": "b", "three": (), "hidden": None}
    match made(7, "c"):
        case Plain(one, two) | Quick(one, two):
            assert (one, two) == (7, "c")


@BOTH
def test_it_is_replaced_and_copied(made: Any) -> None:
    value = made(1, "x", (3,))
    for same in (copy.copy(value), copy.deepcopy(value), replace(value)):
        assert same == value
        assert type(same) is made
    assert replace(value, two="y") == made(1, "y", (3,))


def test_no_two_share_what_a_factory_makes() -> None:
    @swift
    @dataclass(frozen=True, slots=True)
    class Holder:
        held: list[int] = field(default_factory=list)

    Holder().held.append(1)
    assert Holder().held == []


def test_a_class_for_which_it_would_not_be_the_same_is_refused() -> None:
    @dataclass(frozen=True, slots=True)
    class Checked:
        one: int

        def __post_init__(self) -> None:
            """Something that would be left out."""

    @dataclass(frozen=True, slots=True)
    class Named:
        one: int = field(kw_only=True)

    @dataclass(frozen=True, slots=True)
    class Derived(Plain):
        four: int = 4

    @dataclass(frozen=True)
    class Roomy:
        one: int

    for odd in (Checked, Named, Derived, Roomy):
        with pytest.raises(TypeError, match=odd.__name__):
            swift(odd)
    with pytest.raises(TypeError, match="Quick"):
        type("Sub", (Quick,), {})


@pytest.mark.parametrize("made", USED, ids=[one.__name__ for one in USED])
def test_what_the_controller_says_and_sees_is_frozen(made: Any) -> None:
    names = [one.name for one in fields(made)]
    value = made(*names)
    assert [getattr(value, name) for name in names] == names
    assert value == made(**dict(zip(names, names, strict=True))) == copy.copy(value)
    with pytest.raises(FrozenInstanceError):
        setattr(value, names[0], "other")
