"""Where artifacts are found: the shipped ones, read-only, and a writable store that holds what a user trained.

    SHIPPED/<kind>/<name>/<version>/manifest.json        models/ of a checkout, headway_models/ of an installed wheel
    SHIPPED/<kind>/<name>/manifest.json                  the only version of what other programs read as it lies there
    HOME/models/<kind>/<name>/<version>/manifest.json    trained here
    HOME/pointers/<kind>/<name>.json                     which version is active, shadow, previous

Without a pointer the highest shipped version is active, or the highest trained one where none is shipped: a new version
serves only once it is promoted. Moving a pointer is one atomic rename. A pointer remembers the hash of the manifest it
was set to, so that an artifact replaced as a whole is refused as well as one with a changed file.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from controller.errors import ArtifactRefused, PointerError, StoreReadOnly, UnknownArtifact, suggestion
from predictors.artifact import MANIFEST, ArtifactError, Manifest, load_manifest, manifest_sha256, verify

_REF = re.compile(r"(?P<kind>[a-z0-9][a-z0-9._-]*)/(?P<name>[a-z0-9][a-z0-9._-]*)")
_PACKAGED = "headway_models"


@dataclass(frozen=True, slots=True)
class Pin:
    """One version, and the SHA-256 of its manifest when the pointer was set."""

    version: int
    manifest_sha256: str


@dataclass(frozen=True, slots=True)
class Pointer:
    """Which versions of an artifact stand where. ``shadow`` scores beside the active one and decides nothing."""

    active: Pin | None = None
    shadow: Pin | None = None
    previous: Pin | None = None


@dataclass(frozen=True, slots=True)
class Version:
    """One version of an artifact as it lies on disk."""

    ref: str
    """``kind/name``."""
    number: int
    path: Path
    shipped: bool


@dataclass(frozen=True, slots=True)
class Listed:
    """One version, what it says of itself, and its standing."""

    version: Version
    manifest: Manifest | None
    """``None`` where the manifest cannot be read; ``error`` says why."""
    standing: frozenset[str]
    """Of ``active``, ``shadow``, ``previous``."""
    error: str | None = None


class ArtifactStore:
    """Shipped artifacts under a writable store. ``home=None`` is the shipped ones alone."""

    def __init__(self, shipped: Path | None, home: Path | None) -> None:
        self.shipped = shipped
        self.home = home

    def resolve(self, ref: str) -> Path:
        """Folder of the active version of ``kind/name``, its files verified.

        Raises :class:`UnknownArtifact`, :class:`ArtifactRefused` or :class:`PointerError`.
        """
        pin = self.pointer(ref).active
        version = self._default(ref) if pin is None else self._version(ref, pin.version)
        self._verified(version, pin)
        return version.path

    def shadow(self, ref: str) -> Path | None:
        """Folder of the shadow version, verified; ``None`` where none is set."""
        pin = self.pointer(ref).shadow
        if pin is None:
            return None
        version = self._version(ref, pin.version)
        self._verified(version, pin)
        return version.path

    def verify(self, ref: str, number: int | None = None) -> Manifest:
        """Hash every file of a version (the active one if not named). Raises as :meth:`resolve`."""
        pointer = self.pointer(ref)
        if number is None:
            version = self._default(ref) if pointer.active is None else self._version(ref, pointer.active.version)
        else:
            version = self._version(ref, number)
        pins = (pin for pin in (pointer.active, pointer.shadow, pointer.previous) if pin is not None)
        return self._verified(version, next((pin for pin in pins if pin.version == version.number), None))

    def list(self) -> tuple[Listed, ...]:
        """Every version of every artifact, by name and number; damaged ones are listed with their error."""
        return tuple(self._listed(version) for ref in self.refs() for version in self.versions(ref))

    def refs(self) -> tuple[str, ...]:
        """``kind/name`` of everything there is."""
        return tuple(sorted({ref for root, _ in self._roots() for ref in _refs_in(root)}))

    def versions(self, ref: str) -> tuple[Version, ...]:
        """The versions of one artifact, ascending; a shipped version hides a trained one of the same number.

        Raises :class:`UnknownArtifact` where there is none.
        """
        kind, name = _split(ref)
        found: dict[int, Version] = {}
        for root, shipped in self._roots():
            for number, folder in _versions_in(root / kind / name):
                found.setdefault(number, Version(ref, number, folder, shipped))
        if not found:
            raise UnknownArtifact(f"there is no artifact {ref!r}{suggestion(ref, self.refs()) or '; there is none'}")
        return tuple(found[number] for number in sorted(found))

    def pointer(self, ref: str) -> Pointer:
        """The artifact's pointer; an empty one where none was ever set. Raises :class:`PointerError`."""
        file = self._pointer_file(ref)
        if file is None:
            return Pointer()
        try:
            return _pointer_from(json.loads(file.read_bytes()))
        except FileNotFoundError:
            return Pointer()
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise PointerError(f"{file} is damaged ({error}); delete it to return to the shipped version") from error

    def promote(self, ref: str, number: int) -> Pointer:
        """Make this version the active one, once its files are verified. Raises as :meth:`resolve`."""
        pointer = self.pointer(ref)
        pin = self._pin(ref, number)
        before = pointer.active or self._default_pin(ref)
        if pointer.active is not None and pin == pointer.active:
            return pointer
        shadow = None if pin == pointer.shadow else pointer.shadow
        return self._set(ref, Pointer(pin, shadow, before if before != pin else pointer.previous))

    def rollback(self, ref: str) -> Pointer:
        """Exchange the active and the previous version. Raises as :meth:`resolve`."""
        pointer = self.pointer(ref)
        if pointer.previous is None:
            raise PointerError(f"{ref} has no previous version to return to; promote one by its number")
        self._verified(self._version(ref, pointer.previous.version), pointer.previous)
        return self._set(ref, Pointer(pointer.previous, pointer.shadow, pointer.active))

    def set_shadow(self, ref: str, number: int | None) -> Pointer:
        """Let this version score beside the active one; ``None`` ends that."""
        pointer = self.pointer(ref)
        pin = None if number is None else self._pin(ref, number)
        return self._set(ref, Pointer(pointer.active, pin, pointer.previous))

    def _roots(self) -> Iterator[tuple[Path, bool]]:
        if self.shipped is not None:
            yield self.shipped, True
        if self.home is not None:
            yield self.home / "models", False

    def _default(self, ref: str) -> Version:
        versions = self.versions(ref)
        return next((version for version in reversed(versions) if version.shipped), versions[-1])

    def _default_pin(self, ref: str) -> Pin | None:
        try:
            return self._pin(ref, self._default(ref).number)
        except ArtifactRefused:
            return None

    def _version(self, ref: str, number: int) -> Version:
        versions = self.versions(ref)
        for version in versions:
            if version.number == number:
                return version
        there = ", ".join(str(version.number) for version in versions)
        raise UnknownArtifact(f"{ref} has no version {number}; it has {there}")

    def _pin(self, ref: str, number: int) -> Pin:
        version = self._version(ref, number)
        self._verified(version, None)
        return Pin(number, manifest_sha256(version.path))

    def _verified(self, version: Version, pin: Pin | None) -> Manifest:
        try:
            manifest = verify(version.path)
            found = manifest_sha256(version.path)
        except ArtifactError as error:
            raise ArtifactRefused(f"{version.ref} version {version.number} is refused: {error}") from error
        if (f"{manifest.kind}/{manifest.name}", manifest.version) != (version.ref, version.number):
            raise ArtifactRefused(f"{version.path} is refused: its manifest says that it is {manifest.ref}")
        if pin is not None and pin.manifest_sha256 != found:
            said = f"its manifest has SHA-256 {found[:12]}…, not the {pin.manifest_sha256[:12]}… that was promoted"
            raise ArtifactRefused(f"{version.ref} version {version.number} is refused: {said}")
        return manifest

    def _listed(self, version: Version) -> Listed:
        try:
            pointer = self.pointer(version.ref)
            standing = _standing(pointer, version.number, self._default(version.ref).number)
            return Listed(version, load_manifest(version.path), standing)
        except (ArtifactError, PointerError) as error:
            return Listed(version, None, frozenset(), str(error))

    def _pointer_file(self, ref: str) -> Path | None:
        kind, name = _split(ref)
        return None if self.home is None else self.home / "pointers" / kind / f"{name}.json"

    def _set(self, ref: str, pointer: Pointer) -> Pointer:
        file = self._pointer_file(ref)
        if file is None:
            raise StoreReadOnly("pointers live in a writable store, and none is given; set HEADWAY_HOME to a folder")
        _replace(file, json.dumps(asdict(pointer), indent=1).encode() + b"\n")
        return pointer


def shipped_models() -> Path | None:
    """What came with headway: ``models/`` of a checkout, ``headway_models`` of a wheel; ``None`` without either."""
    checkout = Path(__file__).resolve().parents[2]
    if (checkout / "pyproject.toml").is_file():
        return checkout / "models"
    packaged = find_spec(_PACKAGED)
    if packaged is None or not packaged.submodule_search_locations:
        return None
    return Path(next(iter(packaged.submodule_search_locations)))


def home_in(environ: Mapping[str, str]) -> Path:
    """``HEADWAY_HOME``, else ``headway`` in the user's data folder (``XDG_DATA_HOME``, ``~/.local/share``)."""
    if environ.get("HEADWAY_HOME"):
        return Path(environ["HEADWAY_HOME"])
    if environ.get("XDG_DATA_HOME"):
        return Path(environ["XDG_DATA_HOME"]) / "headway"
    return Path(environ.get("HOME", "/")) / ".local" / "share" / "headway"


def _split(ref: str) -> tuple[str, str]:
    match = _REF.fullmatch(ref)
    if match is None:
        raise UnknownArtifact(f"{ref!r} does not name an artifact; write it like length/fast")
    return match["kind"], match["name"]


def _refs_in(root: Path) -> Iterator[str]:
    for folder in root.glob("*/*"):
        ref = f"{folder.parent.name}/{folder.name}"
        if _REF.fullmatch(ref) and any(_versions_in(folder)):
            yield ref


def _versions_in(folder: Path) -> Iterator[tuple[int, Path]]:
    """Number and folder of each version: the folder itself where it has a manifest, else its numbered subfolders."""
    if (folder / MANIFEST).is_file():
        yield _own_number(folder), folder
    else:
        yield from ((int(entry.name), entry) for entry in _numbered(folder))


def _own_number(folder: Path) -> int:
    """As its manifest says; 1 where that cannot be read, so that it is listed, and refused, all the same."""
    try:
        return load_manifest(folder).version
    except ArtifactError:
        return 1


def _numbered(folder: Path) -> Iterator[Path]:
    if folder.is_dir():
        yield from (entry for entry in folder.iterdir() if re.fullmatch(r"[1-9]\d*", entry.name) and entry.is_dir())


def _standing(pointer: Pointer, number: int, default: int) -> frozenset[str]:
    pins = {"active": pointer.active, "shadow": pointer.shadow, "previous": pointer.previous}
    standing = {name for name, pin in pins.items() if pin is not None and pin.version == number}
    if pointer.active is None and number == default:
        standing.add("active")
    return frozenset(standing)


def _pointer_from(raw: Mapping[str, Any]) -> Pointer:
    def pin(name: str) -> Pin | None:
        return None if raw[name] is None else Pin(int(raw[name]["version"]), str(raw[name]["manifest_sha256"]))

    return Pointer(pin("active"), pin("shadow"), pin("previous"))


def _replace(file: Path, content: bytes) -> None:
    """The file has the old content or the new, never a part, whenever the machine stops."""
    file.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
    try:
        with os.fdopen(handle, "wb") as out:
            out.write(content)
            out.flush()
            os.fsync(out.fileno())
        Path(temporary).chmod(0o644)
        Path(temporary).replace(file)
    finally:
        Path(temporary).unlink(missing_ok=True)
