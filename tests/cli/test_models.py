from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from cli.main import app
from tests.controller.store.artifact_files import put

REF = "length/fast"


class Command:
    """``headway models …`` on a store of its own: versions 1 and 2 shipped, 3 trained here."""

    def __init__(self, folder: Path) -> None:
        self.shipped, self.home, self._json = folder / "shipped", folder / "home", folder / "out.json"
        put(self.shipped, REF, 1)
        put(self.shipped, REF, 2)
        put(self.home / "models", REF, 3)

    def run(self, *arguments: str) -> Result:
        self._json.unlink(missing_ok=True)
        return CliRunner().invoke(app, ["models", *arguments, "--home", str(self.home), "--json", str(self._json)])

    def report(self, *arguments: str) -> dict[str, Any]:
        result = self.run(*arguments)
        assert result.exit_code == 0, result.output
        return self.written()

    def written(self) -> dict[str, Any]:
        report: dict[str, Any] = json.loads(self._json.read_text())
        return report


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    command = Command(tmp_path)
    monkeypatch.setattr("controller.store.shipped_models", lambda: command.shipped)
    return command


def _standing(report: dict[str, Any]) -> dict[int, str]:
    return {row["version"]: row["standing"] for row in report["results"]}


def test_list_shows_versions_standing_and_metrics(models: Command) -> None:
    report = models.report("list")
    assert report["command"] == "models list"
    assert _standing(report) == {1: "", 2: "active", 3: ""}
    assert [row["from"] for row in report["results"]] == ["shipped", "shipped", "home"]
    assert report["results"][0]["metrics"] == {"tau_b": {"value": 0.3, "lo": 0.2, "hi": 0.4}, "rows": None}
    assert REF in models.run("list").output


def test_an_empty_store_says_what_that_means(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("controller.store.shipped_models", lambda: None)
    result = CliRunner().invoke(app, ["models", "list", "--home", str(tmp_path)])
    assert result.exit_code == 0
    assert "no artifacts" in result.output


def test_show_has_the_manifest_and_the_card(models: Command) -> None:
    report = models.report("show", REF)
    assert report["manifest"]["version"] == 2
    assert report["manifest"]["data"][0]["licence"] == "CC0-1.0"
    assert models.report("show", REF, "--version", "1")["manifest"]["version"] == 1
    assert "A card" in models.run("show", REF).output


def test_promote_and_rollback_move_the_pointer(models: Command) -> None:
    (row,) = models.report("promote", REF, "3")["results"]
    assert (row["active"], row["previous"]) == (3, 2)
    assert _standing(models.report("list")) == {1: "", 2: "previous", 3: "active"}
    (row,) = models.report("rollback", REF)["results"]
    assert (row["active"], row["previous"]) == (2, 3)


def test_verify_passes_what_is_whole(models: Command) -> None:
    assert [row["whole"] for row in models.report("verify")["results"]] == [True, True, True]
    assert len(models.report("verify", REF)["results"]) == 3


def test_an_artifact_without_a_version_folder_is_listed_and_verified(models: Command) -> None:
    folder = put(models.shipped, "ladder/small", 1, flat=True)
    assert "ladder/small" in models.run("list").output
    (row,) = models.report("verify", "ladder/small")["results"]
    assert (row["version"], row["whole"]) == (1, True)
    assert models.report("show", "ladder/small")["manifest"]["kind"] == "ladder"
    (folder / "weights.txt").write_bytes(b"evil")
    assert models.run("verify", "ladder/small").exit_code == 1


def test_tampering_gives_exit_code_1_and_names_the_file(models: Command) -> None:
    (models.shipped / REF / "2" / "weights.txt").write_bytes(b"evil")
    result = models.run("verify")
    assert result.exit_code == 1
    assert "1 of 3 versions refused" in result.output
    rows = {row["version"]: row for row in models.written()["results"]}
    assert [rows[number]["whole"] for number in (1, 2, 3)] == [True, False, True]
    assert "weights.txt" in rows[2]["error"]
    for arguments in (("show", REF), ("promote", REF, "2")):
        refused = models.run(*arguments)
        assert refused.exit_code == 1
        assert "refused" in refused.output


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("show", "length/fats"), "did you mean 'length/fast'?"),
        (("verify", "length"), "write it like length/fast"),
        (("promote", REF, "9"), "it has 1, 2, 3"),
        (("rollback", REF), "no previous version"),
    ],
)
def test_what_cannot_be_done_gives_exit_code_2_and_says_why(
    models: Command, arguments: tuple[str, ...], says: str
) -> None:
    result = models.run(*arguments)
    assert result.exit_code == 2
    assert says in " ".join(result.output.split())
    assert result.stdout == ""


def test_a_damaged_pointer_is_listed_as_an_error(models: Command) -> None:
    (models.home / "pointers" / "length").mkdir(parents=True)
    (models.home / "pointers" / "length" / "fast.json").write_text("{")
    assert all("is damaged" in row["error"] for row in models.report("list")["results"])
    assert models.run("show", REF).exit_code == 2
