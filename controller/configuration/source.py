"""A YAML document that remembers where each of its keys stands, and environment variables laid over it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import yaml

from controller.errors import ConfigurationError, Problem

Path = tuple[str | int, ...]

PREFIX = "HEADWAY_"
_DEEPEST = 32
_PLAIN_TAGS = frozenset({"tag:yaml.org,2002:map", "tag:yaml.org,2002:seq"})
_NOT_OVERRIDES = frozenset({"HEADWAY_CONFIG", "HEADWAY_DATA"})
_SERVICE_LINK = re.compile(
    r"HEADWAY_(\w+_)?(SERVICE_(HOST|PORT(_\w+)?)|PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)"
)
"""Variables that Kubernetes sets in every container beside a service whose name begins with ``headway``."""


class Source:
    """Plain data, and for each path in it the place a user has to look at."""

    def __init__(self, name: str, data: Any = None, places: Mapping[Path, str] | None = None) -> None:
        self.name = name
        self.data: Any = {} if data is None else data
        self._places: dict[Path, str] = dict(places or {})

    def where(self, path: Path) -> str:
        """The place of the path, or of its nearest ancestor that has one."""
        known = (self._places[path[:end]] for end in range(len(path), -1, -1) if path[:end] in self._places)
        return next(known, self.name)

    def problem(self, path: Path, message: str) -> Problem:
        """A mistake at this path."""
        return Problem(self.where(path), dotted(path), message)

    def set(self, path: Path, value: Any, place: str) -> None:
        """Put a value at the path, with mappings made on the way; a list takes its own indices and the next one.

        Raises :class:`KeyError` where the path leads through something that holds no such key.
        """
        if not path:
            raise KeyError(path)
        here = self.data
        for step, key in enumerate(path[:-1]):
            here = _child(here, key, path[: step + 1])
        _assign(here, path[-1], value)
        self._places = {known: at for known, at in self._places.items() if known[: len(path)] != path}
        self._places[path] = place


def dotted(path: Path) -> str:
    """``("pools", 0, "tier")`` as ``pools[0].tier``."""
    text = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in path)
    return text.removeprefix(".")


def read_yaml(text: str, name: str) -> Source:
    """Parse one YAML document; ``name`` is what errors call it. Raises :class:`ConfigurationError`."""
    try:
        return _read(yaml.SafeLoader(text), name)
    except yaml.MarkedYAMLError as error:
        raise ConfigurationError([_syntax_problem(error, name)]) from error
    except yaml.reader.ReaderError as error:
        raise ConfigurationError([Problem(name, "", f"not YAML: {error.reason}")]) from error


def _read(loader: yaml.SafeLoader, name: str) -> Source:
    try:
        node = loader.get_single_node()
        if node is None:
            return Source(name)
        places: dict[Path, str] = {(): _line(node, name)}
        return Source(name, _build(loader, node, (), name, places), places)
    finally:
        loader.dispose()


def lay_over(source: Source, environ: Mapping[str, str], top_level: Iterable[str]) -> None:
    """Apply ``HEADWAY_LISTEN__PORT=9000`` as ``listen.port``; ``__`` parts keys, numbers index lists, values are YAML.

    ``top_level`` are the keys that a document may have. Raises :class:`ConfigurationError`.
    """
    problems = []
    for name, value in sorted(environ.items()):
        path = _path_of(name, frozenset(top_level))
        if path is None:
            continue
        try:
            source.set(path, _value(value), f"environment variable {name}")
        except (KeyError, IndexError):
            message = f"there is no {dotted(path[:-1]) or 'such key'} to override; nothing in {source.name} matches it"
            problems.append(Problem(f"environment variable {name}", dotted(path), message))
    if problems:
        raise ConfigurationError(problems)


def _path_of(name: str, top_level: frozenset[str]) -> Path | None:
    if not name.startswith(PREFIX) or name in _NOT_OVERRIDES:
        return None
    keys = name.removeprefix(PREFIX).lower().split("__")
    if keys[0] not in top_level and len(keys) == 1 and _SERVICE_LINK.fullmatch(name):
        return None
    return tuple(int(key) if key.isdigit() else key for key in keys)


def _value(text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text


def _child(here: Any, key: str | int, path: Path) -> Any:
    if isinstance(here, list) and isinstance(key, int):
        if key == len(here):
            here.append({})
        return here[key]
    if isinstance(here, dict):
        if here.get(key) is None:
            here[key] = {}
        return here[key]
    raise KeyError(path)


def _assign(here: Any, key: str | int, value: Any) -> None:
    if isinstance(here, list) and isinstance(key, int):
        here[key : key + 1] = [value]
        if key >= len(here):
            raise IndexError(key)
    elif isinstance(here, dict):
        here[key] = value
    else:
        raise KeyError(key)


def _build(loader: yaml.SafeLoader, node: yaml.Node, path: Path, name: str, places: dict[Path, str]) -> Any:
    """The node's data; writes the place of every path below it."""
    if len(path) > _DEEPEST:
        raise ConfigurationError([Problem(_line(node, name), "", "nested too deeply; does an anchor contain itself?")])
    if isinstance(node, yaml.CollectionNode) and node.tag not in _PLAIN_TAGS:
        raise ConfigurationError([Problem(_line(node, name), dotted(path), f"the tag {node.tag!r} is not allowed")])
    if isinstance(node, yaml.SequenceNode):
        items = enumerate(node.value)
        return [_build(loader, child, _place(places, (*path, i), child, name), name, places) for i, child in items]
    if isinstance(node, yaml.MappingNode):
        return dict(_build_pairs(loader, node, path, name, places))
    return loader.construct_object(node, deep=True)


def _build_pairs(
    loader: yaml.SafeLoader, node: yaml.MappingNode, path: Path, name: str, places: dict[Path, str]
) -> Iterator[tuple[Any, Any]]:
    _refuse_duplicates(loader, node, path, name)
    loader.flatten_mapping(node)  # merge keys: << comes first, so that the mapping's own keys win
    for key_node, value_node in node.value:
        key = loader.construct_object(key_node, deep=True)
        if not isinstance(key, str):
            message = f"a key must be text, not {key!r}; put it in quotes"
            raise ConfigurationError([Problem(_line(key_node, name), dotted(path), message)])
        child = _place(places, (*path, key), key_node, name)
        yield key, _build(loader, value_node, child, name, places)


def _refuse_duplicates(loader: yaml.SafeLoader, node: yaml.MappingNode, path: Path, name: str) -> None:
    seen: dict[str, int] = {}
    problems = []
    for key_node, _ in node.value:
        if not isinstance(key_node, yaml.ScalarNode):
            continue
        if key_node.value in seen:
            message = f"this key is already given in line {seen[key_node.value]}; keep one of the two"
            problems.append(Problem(_line(key_node, name), dotted((*path, key_node.value)), message))
        seen.setdefault(key_node.value, key_node.start_mark.line + 1)
    if problems:
        raise ConfigurationError(problems)


def _place(places: dict[Path, str], path: Path, node: yaml.Node, name: str) -> Path:
    places[path] = _line(node, name)
    return path


def _line(node: yaml.Node, name: str) -> str:
    return f"{name}:{node.start_mark.line + 1}"


def _syntax_problem(error: yaml.MarkedYAMLError, name: str) -> Problem:
    mark = error.problem_mark or error.context_mark
    where = f"{name}:{mark.line + 1}" if mark else name
    said = " ".join(part for part in (error.context, error.problem) if part)
    return Problem(where, "", f"not YAML: {said}")
