from __future__ import annotations

import inspect
import re

import pytest

from controller import errors
from controller.errors import ConfigurationError, HeadwayError, Problem, StartFailed, suggestion


def _classes() -> dict[str, type[BaseException]]:
    found = inspect.getmembers(errors, inspect.isclass)
    return {name: one for name, one in found if issubclass(one, BaseException) and one.__module__ == errors.__name__}


def test_the_tree_in_the_docstring_is_the_tree() -> None:
    drawn: dict[str, str] = {}
    above: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        match = re.match(r" {4}([│├└─ ]*)(\w+Error|[A-Z]\w+)\b", line)
        if match is None:
            continue
        depth = len(match[1]) // 4
        above[depth:] = [match[2]]
        drawn[match[2]] = above[depth - 1] if depth else "Exception"
    assert drawn == {name: one.__bases__[0].__name__ for name, one in _classes().items()}


@pytest.mark.parametrize("name", sorted(_classes()))
def test_everything_can_be_caught_as_one(name: str) -> None:
    assert issubclass(_classes()[name], HeadwayError)


def test_the_nearest_name_is_suggested_and_otherwise_what_is_known() -> None:
    assert suggestion("teir", ["tier", "name"]) == "; did you mean 'tier'?"
    assert suggestion("TIER", ["tier", "name"]) == "; did you mean 'tier'?"
    assert suggestion("qwen3", ["Qwen3", "Llama"]) == "; did you mean 'Qwen3'?"
    assert suggestion("xyz", ["tier", "name"]) == "; known: 'name', 'tier'"
    assert suggestion("xyz", []) == ""


def test_a_configuration_error_shows_every_problem_with_its_place() -> None:
    error = ConfigurationError([Problem("a.yaml:3", "pools[0].tier", "wrong"), Problem("a.yaml", "", "not YAML")])
    assert str(error) == "a.yaml:3: pools[0].tier: wrong\na.yaml: not YAML"
    assert [problem.key for problem in error.problems] == ["pools[0].tier", ""]


def test_a_failed_start_carries_the_end_of_its_log() -> None:
    error = StartFailed("worker small:1 ended", "Traceback\nValueError: no GPU")
    assert error.log in str(error)
    assert str(StartFailed("ended")) == "ended"
