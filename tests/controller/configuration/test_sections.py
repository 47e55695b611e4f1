from __future__ import annotations

import pytest
from pydantic import ValidationError

from controller.configuration import Records, StageChoice, Stages, parse
from controller.errors import ConfigurationError
from tests.controller.configuration.fleets import fleet


def test_a_stage_is_a_name_or_a_name_with_options() -> None:
    assert StageChoice.model_validate("fcfs") == StageChoice(name="fcfs")
    choice = StageChoice.model_validate({"name": "vtc", "output_weight": 2})
    assert (choice.name, choice.options) == ("vtc", {"output_weight": 2})


def test_every_stage_has_a_default() -> None:
    chosen = Stages().choices()
    assert list(chosen) == ["admit", "tier", "order", "fairness", "place", "rebalance", "scale"]
    assert all(options == {} for _, options in chosen.values())


def test_records_need_room_for_two_files() -> None:
    with pytest.raises(ValidationError, match="twice file_bytes"):
        Records(max_bytes=2_000_000, file_bytes=1_500_000)


@pytest.mark.parametrize("key", ["length", "quality", "remaining"])
@pytest.mark.parametrize("ref", ["lexical", "length/fast/3", ""])
def test_what_is_no_reference_to_an_artifact_is_told_what_one_looks_like(key: str, ref: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"scoring\.{key}.*kind and its name, as in length/fast"):
        parse(fleet(scoring={key: ref}))


def test_predictors_can_be_turned_off_or_be_others() -> None:
    scoring = parse(fleet(scoring={"length": None, "quality": "quality/mine", "remaining": None})).scoring
    assert (scoring.length, scoring.quality, scoring.remaining) == (None, "quality/mine", None)
    assert parse(fleet()).scoring.remaining == "length/remaining"
