"""``headway models``: what artifacts there are, whether they are whole, and which version serves."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markdown import Markdown
from rich.markup import escape

from cli.missing import fail
from cli.report import Label, Report

if TYPE_CHECKING:
    from controller.store import ArtifactStore, Listed, Pointer
    from predictors.artifact import DataSource

Ref = Annotated[str, typer.Argument(metavar="KIND/NAME", help="Which artifact, for example length/fast.")]
Home = Annotated[
    Path | None,
    typer.Option(
        "--home", metavar="DIR", help="Writable store; HEADWAY_HOME, or ~/.local/share/headway, if not given."
    ),
]
JsonFile = Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the report here too.")]
Number = Annotated[int | None, typer.Option("--version", min=1, help="Which version; the active one if not given.")]


def list_(home: Home = None, json_path: JsonFile = None) -> None:
    """List every artifact with its versions, and which is active, shadow and previous."""
    report = Report("models list", None, {})
    table = Report("models list", None, {})
    with _refusals():
        listed = _store(home).list()
    for one in listed:
        report.row(_labels(one), dict(one.manifest.metrics) if one.manifest else {})
        table.row(_labels(one), {})
    if listed:
        table.show(Console(), "artifacts")
    else:
        Console().print("no artifacts: the gateway serves on its fallbacks")
    report.write(json_path)


def show(ref: Ref, version: Number = None, home: Home = None, json_path: JsonFile = None) -> None:
    """Show what an artifact says of itself: metrics, data, features, card. Its files are verified first."""
    with _refusals():
        store = _store(home)
        manifest = store.verify(ref, version)
        path = next(one.path for one in store.versions(ref) if one.number == manifest.version)
    report = Report("models show", None, {"ref": ref})
    report.row({"artifact": ref, "version": manifest.version, "created": manifest.created}, dict(manifest.metrics))
    report.extra("manifest", asdict(manifest))
    console = Console()
    console.print(f"{manifest.ref}  {path}", highlight=False, markup=False, soft_wrap=True)
    report.show(console, "metrics (95 % intervals)")
    _sources(manifest.data).show(console, "trained on")
    if (path / "card.md").is_file():
        console.print(Markdown((path / "card.md").read_text(encoding="utf-8")))
    report.write(json_path)


def verify(
    ref: Annotated[str | None, typer.Argument(metavar="[KIND/NAME]", help="Every artifact if not given.")] = None,
    home: Home = None,
    json_path: JsonFile = None,
) -> None:
    """Hash every file of an artifact's versions; exit code 1 if one is not what its manifest says."""
    from controller.errors import StoreError

    report = Report("models verify", None, {"ref": ref})
    refused = 0
    with _refusals():
        store = _store(home)
        versions = [version for name in ([ref] if ref else store.refs()) for version in store.versions(name)]
    for version in versions:
        error = None
        try:
            store.verify(version.ref, version.number)
        except StoreError as found:
            error, refused = str(found), refused + 1
        report.row({"artifact": version.ref, "version": version.number, "whole": error is None, "error": error}, {})
    report.show(Console(), "artifacts")
    report.write(json_path)
    if refused:
        raise fail(f"{refused} of {len(versions)} versions refused", 1)


def promote(
    ref: Ref,
    version: Annotated[int, typer.Argument(min=1, help="Which version is to serve.")],
    home: Home = None,
    json_path: JsonFile = None,
) -> None:
    """Make a version the active one; the one before stays at hand for a rollback. Gateways take it at their start."""
    with _refusals():
        pointer = _store(home).promote(ref, version)
    _moved("models promote", ref, pointer, json_path)


def rollback(ref: Ref, home: Home = None, json_path: JsonFile = None) -> None:
    """Return to the version that was active before."""
    with _refusals():
        pointer = _store(home).rollback(ref)
    _moved("models rollback", ref, pointer, json_path)


def _store(home: Path | None) -> ArtifactStore:
    from controller.store import ArtifactStore, home_in, shipped_models

    return ArtifactStore(shipped_models(), home or home_in(os.environ))


@contextmanager
def _refusals() -> Iterator[None]:
    """Exit code 1 where an artifact is refused, 2 where it was asked for wrongly."""
    from controller.errors import ArtifactRefused, StoreError

    try:
        yield
    except ArtifactRefused as error:
        raise fail(escape(str(error)), 1) from error
    except (StoreError, OSError) as error:
        raise fail(escape(str(error))) from error


def _labels(listed: Listed) -> dict[str, Label]:
    version, manifest = listed.version, listed.manifest
    labels: dict[str, Label] = {
        "artifact": version.ref,
        "version": version.number,
        "standing": ", ".join(sorted(listed.standing)),
        "from": "shipped" if version.shipped else "home",
        "created": manifest.created if manifest else None,
    }
    return {**labels, "error": listed.error} if listed.error else labels


def _sources(data: Iterable[DataSource]) -> Report:
    report = Report("models show", None, {})
    for source in data:
        report.row({"data": source.name, "licence": source.licence, "rows": source.rows, "sha256": source.sha256}, {})
    return report


def _moved(command: str, ref: str, pointer: Pointer, json_path: Path | None) -> None:
    report = Report(command, None, {"ref": ref})
    standing = {"active": pointer.active, "shadow": pointer.shadow, "previous": pointer.previous}
    labels: dict[str, Label] = {name: pin.version if pin else None for name, pin in standing.items()}
    report.row({"artifact": ref, **labels}, {})
    report.show(Console(), "versions")
    report.write(json_path)
