from __future__ import annotations

from pathlib import Path

import pytest
import typer

from cli.missing import data_dir, needs


def test_a_missing_library_names_the_extra(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit) as stopped, needs("train"):
        raise ModuleNotFoundError("No module named 'torch'", name="torch")
    assert stopped.value.exit_code == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "torch" in said
    assert "headway[train]" in said


def test_a_module_of_ours_that_is_missing_is_a_fault_not_an_extra() -> None:
    with pytest.raises(ModuleNotFoundError), needs("train"):
        raise ModuleNotFoundError("No module named 'envs.nothing'", name="envs.nothing")


def test_the_data_folder_comes_from_the_option_or_the_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here.csv").touch()
    monkeypatch.delenv("HEADWAY_DATA", raising=False)
    assert data_dir(tmp_path, "here.csv") == tmp_path
    monkeypatch.setenv("HEADWAY_DATA", str(tmp_path))
    assert data_dir(None, "here.csv") == tmp_path


def test_without_a_data_folder_it_says_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("HEADWAY_DATA", raising=False)
    for option in (None, tmp_path):
        with pytest.raises(typer.Exit) as stopped:
            data_dir(option, "lengths/x.csv")
        assert stopped.value.exit_code == 2
        assert "lengths/x.csv" in " ".join(capsys.readouterr().err.split())
