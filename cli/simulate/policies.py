"""Policies as the command line has them: ``order=length_rank,place=least_load,max_inflight=64``, or just ``fcfs``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cli.simulate.machines import Machines
    from controller.protocols import Stages
    from controller.settings import ControlSettings

__all__ = ["Policy", "build_stages", "parse_policies", "parse_policy"]

_NUMBERS = ("max_inflight", "max_queue", "max_queue_s")
_SCHEDULING = ("fcfs", "priority")
_KEYS = (*_NUMBERS, "scheduling", "name")


@dataclass(frozen=True, slots=True)
class Policy:
    """What is decided how. Stages that are not named get the plainest implementation.

    ``stages`` maps a stage to its implementation's name and options. The limits are ``None`` where the command's own
    hold; ``scheduling`` is that of the workers, which are passed the queue's order if it is ``priority``.
    """

    name: str
    stages: Mapping[str, tuple[str, Mapping[str, Any]]] = field(default_factory=dict)
    max_inflight: int | None = None
    """Requests that the gateway keeps on one worker at most."""
    max_queue: int | None = None
    max_queue_s: float | None = None
    scheduling: str = "fcfs"

    def chosen(self, stage: str) -> str:
        """The implementation of a stage: the plainest where none was named."""
        plain = {"admit": "bounded", "tier": "pinned", "order": "fcfs", "place": "least_load"}
        return self.stages[stage][0] if stage in self.stages else plain.get(stage, "none")

    def described(self) -> dict[str, Any]:
        """For the report's settings."""
        return {
            "stages": {stage: {"name": name, **options} for stage, (name, options) in self.stages.items()},
            "max_inflight": self.max_inflight,
            "max_queue": self.max_queue,
            "max_queue_s": self.max_queue_s,
            "scheduling": self.scheduling,
        }


def parse_policies(texts: Sequence[str]) -> tuple[Policy, ...]:
    """All of them; raises ``ValueError`` as :func:`parse_policy`, and where two have one name."""
    policies = tuple(parse_policy(text) for text in texts)
    names = [policy.name for policy in policies]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ValueError(f"two policies are called {twice!r}; give one of them another name=…")
    return policies


def parse_policy(text: str) -> Policy:
    """One policy: parts with commas between them, each ``STAGE=IMPLEMENTATION``, ``STAGE.OPTION=VALUE``, one of
    ``max_inflight``, ``max_queue``, ``max_queue_s``, ``scheduling=fcfs|priority`` and ``name`` with its value, or an
    implementation's name alone. Values are read as YAML.

    Raises:
        ValueError: a part that is none of these; the message says what would be right.
    """
    names: dict[str, str] = {}
    options: dict[str, dict[str, Any]] = {}
    given: dict[str, Any] = {"name": text}
    for part in _parts(text):
        key, sign, value = part.partition("=")
        key, value = key.strip(), value.strip()
        if not sign:
            _once(names, _stage_of(key, text), key, text)
        elif "." in key:
            stage, _, option = key.partition(".")
            options.setdefault(_stage(stage, text), {})[option] = _yaml(value, text)
        elif key in _KEYS:
            given[key] = _setting(key, value, text)
        else:
            _once(names, _stage(key, text), _implementation(key, value, text), text)
    if homeless := sorted(set(options) - set(names)):
        raise ValueError(f"--policy {text}: options for stage {homeless[0]}, but no implementation of it is named")
    stages = {stage: (name, options.get(stage, {})) for stage, name in names.items()}
    return Policy(stages=stages, **given)


def build_stages(policy: Policy, machines: Machines, settings: ControlSettings) -> Stages:
    """Fresh stages for one control plane.

    Raises:
        ValueError: an implementation refuses its options.
    """
    from controller.errors import HeadwayError
    from controller.protocols import Resources
    from controller.stages import build

    try:
        return build(policy.stages, Resources(machines.pools, settings, artifacts=machines.artifacts))
    except HeadwayError as error:
        raise ValueError(f"--policy {policy.name}: {error}") from error


def _parts(text: str) -> list[str]:
    """Split at commas that are not within brackets, so that a value may be a YAML list or mapping."""
    parts, depth = [""], 0
    for letter in text:
        depth += (letter in "[{") - (letter in "]}")
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    if not all(part.strip() for part in parts):
        raise ValueError(f"--policy {text!r}: an empty part; write for example order=length_rank,place=least_load")
    return [part.strip() for part in parts]


def _once(names: dict[str, str], stage: str, name: str, text: str) -> None:
    if stage in names:
        raise ValueError(f"--policy {text}: stage {stage} is given twice, as {names[stage]} and as {name}")
    names[stage] = name


def _stage_names() -> dict[str, tuple[str, ...]]:
    from controller.stages import Catalogue

    return {stage: registry.names() for stage, registry in Catalogue().registries().items()}


def _stage(stage: str, text: str) -> str:
    from controller.errors import suggestion

    known = _stage_names()
    if stage not in known:
        raise ValueError(
            f"--policy {text}: no stage or setting is called {stage!r}{suggestion(stage, (*known, *_KEYS))}"
        )
    return stage


def _stage_of(name: str, text: str) -> str:
    """The stage that has an implementation of this name."""
    from controller.errors import suggestion

    known = _stage_names()
    found = [stage for stage, names in known.items() if name in names]
    if not found:
        every = {each for names in known.values() for each in names}
        raise ValueError(f"--policy {text}: no implementation is called {name!r}{suggestion(name, every)}")
    if len(found) > 1:
        ways = " or ".join(f"{stage}={name}" for stage in found)
        raise ValueError(f"--policy {text}: {name!r} could be of several stages; write {ways}")
    return found[0]


def _implementation(stage: str, name: str, text: str) -> str:
    from controller.errors import suggestion

    known = _stage_names()[_stage(stage, text)]
    if name not in known:
        raise ValueError(
            f"--policy {text}: stage {stage} has no implementation called {name!r}{suggestion(name, known)}"
        )
    return name


def _setting(key: str, value: str, text: str) -> Any:
    if key == "name":
        return value
    if key == "scheduling":
        if value not in _SCHEDULING:
            raise ValueError(f"--policy {text}: scheduling is fcfs or priority, not {value!r}")
        return value
    kind, least = (float, 0.0) if key == "max_queue_s" else (int, 0 if key == "max_queue" else 1)
    try:
        number = kind(value)
    except ValueError:
        number = -1
    if not number >= least:
        raise ValueError(f"--policy {text}: {key} is a number from {least} on, not {value!r}")
    return number


def _yaml(value: str, text: str) -> Any:
    import yaml

    try:
        return yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise ValueError(f"--policy {text}: {value!r} is not a value: {error}") from error
