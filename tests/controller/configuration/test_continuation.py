from __future__ import annotations

from pathlib import Path

import pytest

from controller.configuration import load, parse
from controller.errors import ConfigurationError
from tests.controller.configuration.fleets import fleet


@pytest.mark.parametrize(("written", "mode"), [("off", "off"), ("'off'", "off"), ("text", "text")])
def test_off_is_a_mode_though_yaml_takes_it_for_false(written: str, mode: str, tmp_path: Path) -> None:
    path = tmp_path / "headway.yaml"
    pools = "pools: [{name: p, model: m, tier: 0, workers: [{url: 'http://a:1'}]}]"
    path.write_text(f"{pools}\ncontinuation: {{mode: {written}}}\n", encoding="utf-8")
    assert load(path, {"HOME": "/home/op"}).continuation.mode == mode


def test_a_mode_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"continuation\.mode.*'off', 'text' or 'tokens'"):
        parse(fleet(continuation={"mode": "on"}))


def test_the_control_plane_is_told_how_often_a_stream_may_go_on() -> None:
    assert parse(fleet(continuation={"attempts": 7})).control_settings().max_continuations == 7
