"""What the documents say can be done can be done."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli.main import COMMANDS, Group, app
from controller.configuration import load

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = [
    ROOT / "README.md",
    ROOT / "ARCHITECTURE.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").glob("*.md")),
]


def test_the_example_configuration_is_one() -> None:
    configuration = load(ROOT / "docs" / "example.yaml", {"HOME": "/nowhere"})
    assert [pool.name for pool in configuration.pools] == ["small", "large"]
    assert configuration.pool("large").replicas is not None


def _commands(document: Path) -> set[tuple[str, ...]]:
    """Every ``headway …`` in a block of code, as the words before its first option."""
    blocks = re.findall(r"```(?:\w*)\n(.*?)```", document.read_text(encoding="utf-8"), flags=re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()]
    found = [re.match(r"\s*(?:\S*/)?headway((?: [a-z-]+)*)", line) for line in lines]
    return {tuple(match[1].split()) for match in found if match and match[1]}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_command_in_a_document_exists(document: Path) -> None:
    for words in _commands(document):
        entry = COMMANDS.get(words[0])
        assert entry is not None, f"{document.name}: headway {' '.join(words)}"
        depth = 2 if isinstance(entry, Group) else 1
        shown = CliRunner().invoke(app, [*words[:depth], "--help"])
        assert shown.exit_code == 0, f"{document.name}: headway {' '.join(words)}\n{shown.output}"


def test_every_make_target_in_a_document_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE))
    for document in DOCUMENTS:
        named = set(re.findall(r"(?:^|`)make ([a-z-]+)", document.read_text(encoding="utf-8"), flags=re.MULTILINE))
        assert named <= targets, f"{document.name}: {named - targets}"
