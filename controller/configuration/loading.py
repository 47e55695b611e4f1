"""Reading the configuration: a YAML file with ``HEADWAY_…`` variables over it, or plain data."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from controller.configuration.keys import with_keys
from controller.configuration.mistakes import located
from controller.configuration.source import Source, lay_over, read_yaml
from controller.configuration.telemetry import trace_headers
from controller.configuration.tree import Configuration
from controller.errors import ConfigurationError, Problem
from controller.store import home_in


def load(path: Path, environ: Mapping[str, str]) -> Configuration:
    """Read the YAML file, lay ``HEADWAY_…`` variables of ``environ`` over it, check everything.

    Raises :class:`ConfigurationError` with every mistake found.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigurationError([Problem(str(path), "", f"cannot be read: {error.strerror}")]) from error
    except UnicodeDecodeError as error:
        raise ConfigurationError([Problem(str(path), "", f"not UTF-8 text: {error.reason}")]) from error
    source = read_yaml(text, str(path))
    if not isinstance(source.data, dict):
        raise ConfigurationError([source.problem((), "the document must be a mapping, like `pools: […]`")])
    lay_over(source, environ, Configuration.model_fields)
    source.data = {**source.data, **_folders(source.data, environ)}
    return _validate(source, environ)


def parse(data: Mapping[str, Any], name: str = "configuration") -> Configuration:
    """Check plain data built in a program. Raises :class:`ConfigurationError`; ``name`` is what it calls the data."""
    return _validate(Source(name, dict(data)))


def json_schema() -> dict[str, Any]:
    """The JSON schema of the file, for editors."""
    schema = Configuration.model_json_schema(mode="validation")
    choice = schema["$defs"]["StageChoice"]
    schema["$defs"]["StageChoice"] = {"anyOf": [{"type": "string"}, choice], "description": choice.pop("description")}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def _validate(source: Source, environ: Mapping[str, str] | None = None) -> Configuration:
    try:
        configuration = Configuration.model_validate(source.data)
    except ValidationError as error:
        raise ConfigurationError(source.problem(*mistake) for mistake in located(error)) from error
    return _with_trace_headers(with_keys(configuration, source, environ or {}), source, environ or {})


def _with_trace_headers(configuration: Configuration, source: Source, environ: Mapping[str, str]) -> Configuration:
    if configuration.tracing is None:
        return configuration
    try:
        tracing = trace_headers(configuration.tracing, environ)
    except ValueError as error:
        raise ConfigurationError([source.problem(("tracing",), str(error))]) from error
    return configuration.model_copy(update={"tracing": tracing})


def _folders(data: Mapping[str, Any], environ: Mapping[str, str]) -> dict[str, Any]:
    """``home`` where none is given, and ``~`` spelled out, so that nothing later asks the environment."""
    user = environ.get("HOME")
    found: dict[str, Any] = {"home": data["home"] if data.get("home") is not None else str(home_in(environ))}
    if isinstance(found["home"], str):
        found["home"] = _expanded(found["home"], user)
    records = data.get("records")
    if isinstance(records, dict) and isinstance(records.get("dir"), str):
        found["records"] = {**records, "dir": _expanded(records["dir"], user)}
    log = data.get("access_log")
    if isinstance(log, dict) and isinstance(log.get("path"), str):
        found["access_log"] = {**log, "path": _expanded(log["path"], user)}
    return found


def _expanded(folder: str, user: str | None) -> str:
    return f"{user}{folder[1:]}" if user and (folder == "~" or folder.startswith("~/")) else folder
