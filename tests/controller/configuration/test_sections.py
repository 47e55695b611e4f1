from __future__ import annotations

import pytest
from pydantic import ValidationError

from controller.configuration import Records, StageChoice, Stages


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
