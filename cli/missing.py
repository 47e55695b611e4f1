"""Clear words, and exit code 2, when an extra or a data folder is missing."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import typer
from rich.console import Console

_OURS = frozenset({"cli", "controller", "envs", "gateway", "predictors", "rl", "upstream"})


def fail(message: str, code: int = 2) -> typer.Exit:
    """Say on stderr what is wrong and what would be right; raise what this returns."""
    Console(stderr=True).print(f"[bold red]headway:[/] {message}", highlight=False)
    return typer.Exit(code)


@contextmanager
def needs(extra: str) -> Iterator[None]:
    """Turn a missing third-party module into the name of the extra to install."""
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] in _OURS:
            raise
        message = f"this command needs {error.name!r}, which is not installed; try: pip install 'headway\\[{extra}]'"
        raise fail(message) from error


def data_dir(option: Path | None, required: str) -> Path:
    """The folder of public data, from ``--data`` or ``HEADWAY_DATA``; ``required`` is the file that must be in it."""
    chosen = option or (Path(os.environ["HEADWAY_DATA"]) if os.environ.get("HEADWAY_DATA") else None)
    if chosen is None:
        raise fail(f"no data folder: pass --data DIR or set HEADWAY_DATA (it must hold {required})")
    if not (chosen / required).exists():
        raise fail(f"{chosen} has no {required}; --data must name the folder that holds it")
    return chosen
