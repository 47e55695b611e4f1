from __future__ import annotations

import importlib

import pytest
from typer.testing import CliRunner

from cli.main import COMMANDS, Entry, Group, app

ENTRIES = [
    (name, *rest, entry)
    for name, found in COMMANDS.items()
    for *rest, entry in (
        [(found,)] if isinstance(found, Entry) else [(sub, entry) for sub, entry in found.entries.items()]
    )
]


@pytest.mark.parametrize("words", [entry[:-1] for entry in ENTRIES], ids=" ".join)
def test_every_command_shows_its_help(words: tuple[str, ...]) -> None:
    shown = CliRunner().invoke(app, [*words, "--help"])
    assert shown.exit_code == 0, shown.output
    assert "--help" in shown.output


def test_every_entry_names_a_function_that_is_there() -> None:
    for *_, entry in ENTRIES:
        module, _, function = entry.target.partition(":")
        assert callable(getattr(importlib.import_module(module), function))


@pytest.mark.parametrize("group", [name for name, found in COMMANDS.items() if isinstance(found, Group)])
def test_an_unknown_subcommand_is_refused(group: str) -> None:
    refused = CliRunner().invoke(app, [group, "nonsense"])
    assert refused.exit_code == 2


def test_an_unknown_engine_is_refused_before_anything_starts() -> None:
    refused = CliRunner().invoke(app, ["demo", "--engine", "tpu"])
    assert refused.exit_code == 2
    assert "sim or vllm" in refused.output
