"""Artifacts: immutable versions of what was learned, each file named with its SHA-256 in a manifest.

<models>/<kind>/<name>/<version>/manifest.json      and beside it the weights and card.md

ArtifactError
├── ArtifactMissing     no such folder, or no manifest in it
├── ArtifactTampered    a file's bytes are not those the manifest names
├── ArtifactSchema      the manifest, or what was learned, does not have the shape its reader needs
└── ArtifactExists      versions are immutable: this one is already written
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from predictors.types import Interval

MANIFEST: Final = "manifest.json"
_SCHEMA: Final = 1
_SLUG = re.compile(r"[a-z0-9][a-z0-9._-]*")
_FILE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_HEX = re.compile(r"[0-9a-f]{64}")


class ArtifactError(Exception):
    """What is wrong with an artifact, and where."""


class ArtifactMissing(ArtifactError):
    """No such folder, or no manifest in it."""


class ArtifactTampered(ArtifactError):
    """A file is absent, or its bytes are not those the manifest names."""


class ArtifactSchema(ArtifactError):
    """The manifest, or the learned object, does not have the shape its reader needs."""


class ArtifactExists(ArtifactError):
    """Versions are immutable: this one is already written."""


@dataclass(frozen=True, slots=True)
class DataSource:
    """What was learned from: ``sha256`` of the data as read, ``rows`` used of it."""

    name: str
    licence: str
    sha256: str
    rows: int


@dataclass(frozen=True, slots=True)
class Manifest:
    """What an artifact says of itself. ``files`` maps each file's name to the SHA-256 of its bytes."""

    kind: str
    name: str
    version: int
    features: tuple[str, ...]
    feature_hash: str
    data: tuple[DataSource, ...]
    metrics: Mapping[str, Interval | None]
    files: Mapping[str, str]
    created: str
    """UTC, ISO 8601."""
    held_out: Mapping[str, Any] = field(default_factory=dict)
    """By data source: the rows that were not trained on, which alone may judge this artifact."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """What would train it again."""

    @property
    def ref(self) -> str:
        """``kind/name/version``."""
        return f"{self.kind}/{self.name}/{self.version}"


@dataclass(frozen=True, slots=True)
class Artifact:
    """A verified manifest with the very bytes that were verified."""

    manifest: Manifest
    files: Mapping[str, bytes]

    def read(self, name: str) -> bytes:
        """The bytes of one file.

        Raises:
            ArtifactSchema: the artifact has no such file.
        """
        if name not in self.files:
            raise ArtifactSchema(f"{self.manifest.ref} has no file {name!r}; it has {sorted(self.files)}")
        return self.files[name]


def sha256(data: bytes) -> str:
    """Hexadecimal SHA-256."""
    return hashlib.sha256(data).hexdigest()


def feature_hash(features: Sequence[str]) -> str:
    """Identifies an ordered list of feature names."""
    return sha256(json.dumps(list(features), ensure_ascii=True).encode())


def manifest_sha256(path: Path) -> str:
    """Identifies an artifact: the hash of its manifest, which holds the hashes of all the rest."""
    return sha256(_manifest_bytes(path))


def load_manifest(path: Path) -> Manifest:
    """Read a manifest without looking at the files it names.

    Raises:
        ArtifactMissing: there is none.
        ArtifactSchema: it is not one.
    """
    return _parse(_manifest_bytes(path), path)


def verify(path: Path) -> Manifest:
    """Read a manifest and hash every file it names.

    Raises:
        ArtifactMissing: there is none.
        ArtifactSchema: it is not one.
        ArtifactTampered: a file is absent or differs; the message names it.
    """
    manifest = load_manifest(path)
    for name, expected in manifest.files.items():
        _require_same(path / name, _hash_file(path / name), expected)
    return manifest


def load(path: Path, *, kind: str, features: Sequence[str] | None = None) -> Artifact:
    """Verify an artifact and read its files, each exactly once, so that what was hashed is what is used.

    ``features``, when given, must be the artifact's own feature schema.

    Raises:
        ArtifactMissing, ArtifactSchema, ArtifactTampered: as :func:`verify`; also ``ArtifactSchema`` for another kind
            or feature schema than asked for.
    """
    manifest = load_manifest(path)
    if manifest.kind != kind:
        raise ArtifactSchema(f"{path} holds a {manifest.kind!r} artifact, not a {kind!r} one")
    if features is not None and manifest.feature_hash != feature_hash(features):
        raise ArtifactSchema(f"{path} was trained on other features than this version computes; train it again")
    files: dict[str, bytes] = {}
    for name, expected in manifest.files.items():
        files[name] = _read_file(path / name)
        _require_same(path / name, sha256(files[name]), expected)
    return Artifact(manifest, files)


def next_version(models: Path, kind: str, name: str) -> int:
    """One more than the highest version under ``models``; 1 when there is none."""
    folder = models / kind / name
    if not folder.is_dir():
        return 1
    return 1 + max((int(entry.name) for entry in folder.iterdir() if entry.name.isdecimal()), default=0)


def write(
    path: Path,
    *,
    kind: str,
    name: str,
    version: int,
    features: Sequence[str],
    data: Sequence[DataSource],
    metrics: Mapping[str, Interval | None],
    files: Mapping[str, bytes],
    created: str,
    held_out: Mapping[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> Manifest:
    """Write an artifact into the folder ``path`` in one atomic rename; the same arguments give the same bytes.

    Raises:
        ArtifactExists: the folder exists and ``overwrite`` is false.
        ArtifactSchema: the arguments do not make a manifest.
    """
    if path.exists() and not overwrite:
        raise ArtifactExists(f"{path} exists and versions are immutable; write a new version")
    manifest = Manifest(
        kind=kind,
        name=name,
        version=version,
        features=tuple(features),
        feature_hash=feature_hash(features),
        data=tuple(data),
        metrics=dict(metrics),
        files={file: sha256(content) for file, content in files.items()},
        created=created,
        held_out=dict(held_out or {}),
        settings=dict(settings or {}),
    )
    encoded = _encode(manifest)
    parsed = _parse(encoded, path)
    path.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    try:
        for file, content in {**files, MANIFEST: encoded}.items():
            _write_durably(staging / file, content)
        staging.chmod(0o755)
        _swap_in(staging, path)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return parsed


def _write_durably(file: Path, content: bytes) -> None:
    with file.open("wb") as handle:
        handle.write(content)
        handle.flush()
        os.fsync(handle.fileno())


def _swap_in(staging: Path, path: Path) -> None:
    if not path.exists():
        staging.rename(path)
        return
    retired = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    path.rename(retired / path.name)
    staging.rename(path)
    shutil.rmtree(retired)


def _hash_file(file: Path) -> str:
    try:
        with file.open("rb") as handle:
            return hashlib.file_digest(handle, "sha256").hexdigest()
    except OSError as error:
        raise ArtifactTampered(f"{file} is named by the manifest but cannot be read: {error.strerror}") from error


def _read_file(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise ArtifactTampered(f"{file} is named by the manifest but cannot be read: {error.strerror}") from error


def _require_same(file: Path, found: str, expected: str) -> None:
    if found != expected:
        raise ArtifactTampered(f"{file} is not the file its manifest names (SHA-256 {found[:8]}…, not {expected[:8]}…)")


def _manifest_bytes(path: Path) -> bytes:
    try:
        return (path / MANIFEST).read_bytes()
    except OSError as error:
        raise ArtifactMissing(f"no artifact at {path}: {MANIFEST} cannot be read: {error.strerror}") from error


def _encode(manifest: Manifest) -> bytes:
    document = {"schema": _SCHEMA, **asdict(manifest)}
    try:
        text = json.dumps(document, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ArtifactSchema(f"{manifest.ref}: the manifest cannot be written as JSON: {error}") from error
    return text.encode() + b"\n"


def _parse(encoded: bytes, path: Path) -> Manifest:
    try:
        raw = json.loads(encoded)
        if raw["schema"] != _SCHEMA:
            raise ArtifactSchema(f"{path}: manifest schema {raw['schema']!r}, this version reads {_SCHEMA}")
        manifest = _manifest(raw)
    except ArtifactSchema:
        raise
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ArtifactSchema(f"{path}: not a manifest: {type(error).__name__}: {error}") from error
    _check(manifest, path)
    return manifest


def _manifest(raw: Mapping[str, Any]) -> Manifest:
    return Manifest(
        kind=str(raw["kind"]),
        name=str(raw["name"]),
        version=int(raw["version"]),
        features=tuple(str(name) for name in raw["features"]),
        feature_hash=str(raw["feature_hash"]),
        data=tuple(DataSource(d["name"], d["licence"], d["sha256"], int(d["rows"])) for d in raw["data"]),
        metrics={str(name): _interval(value) for name, value in raw["metrics"].items()},
        files={str(name): str(digest) for name, digest in raw["files"].items()},
        created=str(raw["created"]),
        held_out=dict(raw["held_out"]),
        settings=dict(raw["settings"]),
    )


def _interval(raw: Mapping[str, float] | None) -> Interval | None:
    return None if raw is None else Interval(float(raw["value"]), float(raw["lo"]), float(raw["hi"]))


def _check(manifest: Manifest, path: Path) -> None:
    if not (_SLUG.fullmatch(manifest.kind) and _SLUG.fullmatch(manifest.name) and manifest.version >= 1):
        raise ArtifactSchema(f"{path}: {manifest.ref!r} is not kind/name/version in lower case with version >= 1")
    if manifest.feature_hash != feature_hash(manifest.features):
        raise ArtifactSchema(f"{path}: feature_hash is not the hash of features")
    for name, digest in manifest.files.items():
        if not _FILE.fullmatch(name) or name == MANIFEST or not _HEX.fullmatch(digest):
            raise ArtifactSchema(f"{path}: {name!r}: {digest!r} is not a plain file name with its SHA-256")
