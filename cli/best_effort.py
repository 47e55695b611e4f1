"""``headway train best-effort`` and ``headway eval best-effort``: the reinforcement-learned quality policy."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from cli.missing import fail, needs
from cli.report import Report

if TYPE_CHECKING:
    from controller.policy import TrainedPolicy
    from controller.store import ArtifactStore
    from envs.episode import Episode, EpisodeSource, Randomisation
    from predictors.artifact import Manifest
    from rl.artifact import TrainingRecord
    from rl.evaluate import Judged
    from rl.train import TrainArguments, Trained

JsonFile = Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the report there.")]
Order = Annotated[str, typer.Option(help="Stage order of every policy in the comparison.")]
Episodes = Annotated[int, typer.Option(min=1, help="Evaluation episodes of each kind of workload.")]
Validation = Annotated[int, typer.Option(min=1, help="Validation episodes of each kind of workload.")]
Prompts = Annotated[int, typer.Option(min=50, help="Tasks of the suite that requests are drawn from.")]
Seed = Annotated[int, typer.Option(min=0, help="Of everything that is drawn.")]

_REF: Final = "policy/best-effort"
_TEST_PROMPTS: Final = 2_000
_TITLE: Final = "Best-effort policies in simulation (means over episodes)"
_KEPT: Final = (
    "availability",
    "share_of_peak",
    "windows_96",
    "rejected",
    "availability_over_threshold",
    "share_of_peak_over_threshold",
    "share_of_peak_over_static_mix",
    "share_of_peak_over_feasible_best",
)
_SHOWN: Final = (
    "availability",
    "quality",
    "share_of_peak",
    "goodput_rps",
    "windows_96",
    "rejected",
    "e2e_p50",
    "e2e_p99",
)


def train(
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Models folder; HEADWAY_HOME's if left out.")] = None,
    seed: Seed = 0,
    steps: Annotated[int, typer.Option(min=100, help="Decisions to learn from.")] = 300_000,
    n_envs: Annotated[int, typer.Option(min=1, help="Environments stepped together.")] = 4,
    learning_rate: Annotated[float, typer.Option(help="At the start; falls linearly to a twentieth.")] = 1e-3,
    gamma: Annotated[float, typer.Option(min=0.0, max=1.0, help="Discount from one decision to the next.")] = 0.97,
    n_steps: Annotated[int, typer.Option(min=1, help="Rewards summed before the network's estimate.")] = 3,
    batch_size: Annotated[int, typer.Option(min=1)] = 128,
    buffer_size: Annotated[int, typer.Option(min=100, help="Transitions kept for replay.")] = 200_000,
    learning_starts: Annotated[int, typer.Option(min=0, help="Decisions before the first gradient step.")] = 2_000,
    train_freq: Annotated[int, typer.Option(min=1, help="Steps of all environments between gradient steps.")] = 1,
    target_update: Annotated[int, typer.Option(min=1, help="Decisions between copies to the target network.")] = 2_000,
    exploration: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Share of the run with many random actions.")
    ] = 0.15,
    final_epsilon: Annotated[float, typer.Option(min=0.0, max=1.0, help="Random actions after that.")] = 0.02,
    hidden: Annotated[int, typer.Option(min=1, help="Units of each of the two hidden layers.")] = 64,
    kappa: Annotated[float | None, typer.Option(help="Slope of a soft deadline; hard if left out.")] = None,
    prompts: Prompts = 3_000,
    checkpoints: Annotated[int, typer.Option(min=1, help="How many times the policy is validated.")] = 15,
    validation: Validation = 6,
    probes: Annotated[int, typer.Option(min=1, help="Random episodes, for the normalisation.")] = 24,
    episodes: Episodes = 20,
    json_path: JsonFile = None,
) -> None:
    """Train the best-effort policy (Double DQN) around the demo's scenario, judge it, and write it as an artifact."""
    given = {name: value for name, value in locals().items() if name not in ("out", "episodes", "json_path")}
    with needs("train"):
        from envs.episode import Randomisation
        from rl.train import TrainArguments
        from rl.train import train as learn

        arguments = TrainArguments(**given)
    store = _store()
    around = _source(store, "validation", seed, prompts, Randomisation.training())
    validated = _validated(store, seed, prompts, validation)
    with _bar("learning", steps) as advance:
        seen = 0

        def progress(taken: int, checkpoint: Any) -> None:
            nonlocal seen
            name = f"validation share of peak {checkpoint.share_of_peak:.4f}" if checkpoint else None
            advance(taken - seen, name)
            seen = taken

        trained = learn(arguments, around, validated, progress)
    report = Report("train best-effort", seed, {**given, "episodes": episodes})
    record = _record(store, arguments, around)
    judged = _judge(store, validated, {"default": _loaded(trained, record)}, report, seed, episodes, "fcfs")
    models = out or _home_models()
    manifest = _write(models, trained, record, judged)
    report.extra("artifact", {"ref": manifest.ref, "path": str(models / manifest.ref)})
    report.extra("history", [[point.steps, point.share_of_peak] for point in trained.history])
    report.write(json_path)
    report.show(Console(), f"{_TITLE}; {manifest.ref} written to {models}", _SHOWN)


def evaluate(
    artifact: Annotated[
        Path | None, typer.Option(metavar="DIR", help="The policy judged as shipped; the active one if left out.")
    ] = None,
    episodes: Episodes = 20,
    validation: Validation = 3,
    prompts: Prompts = _TEST_PROMPTS,
    order: Order = "fcfs",
    seed: Seed = 0,
    json_path: JsonFile = None,
) -> None:
    """Availability, quality and share of peak of static, heuristic and learned policies under three workloads.

    The heuristics are tuned in the same run, on validation seeds. The learned policy trains on other seeds and prompts
    than it is judged on, so as shipped (`setting=shipped`) it is its own refit with default settings
    (`setting=default`): both rows are the same run, unless the artifact was trained with other arguments.
    """
    from controller.stages import names

    if order not in names("order"):
        raise fail(f"--order must be one of {', '.join(names('order'))}, not {order!r}")
    with needs("train"):
        from rl.train import TrainArguments

        defaults = TrainArguments()
    store = _store()
    policy, manifest = _shipped(store, artifact)
    validated = _validated(store, seed, prompts, validation)
    settings = {"episodes": episodes, "validation": validation, "prompts": prompts, "order": order}
    report = Report("eval best-effort", seed, {**settings, "artifact": manifest.ref})
    is_default = manifest.settings.get("arguments") == _plain(defaults)
    learned = {"shipped": policy} | ({"default": policy} if is_default else {})
    _judge(store, validated, learned, report, seed, episodes, order, prompts)
    report.write(json_path)
    report.show(Console(), _TITLE, _SHOWN)


def _judge(
    store: ArtifactStore,
    validated: Sequence[Episode],
    learned: Mapping[str, TrainedPolicy],
    report: Report,
    seed: int,
    episodes: int,
    order: str,
    prompts: int = _TEST_PROMPTS,
) -> list[Judged]:
    """Tune the baselines, play everything, and put it into the report."""
    from rl import tune
    from rl.evaluate import contenders, evaluate, points

    with _bar("tuning the heuristics", tune.points(validated[0].scenario)) as advance:
        tuned = tune.tune(validated, order, lambda: advance(1, None))
    source = _source(store, "test", seed + 2, prompts)
    policies = contenders(source, tuned, learned, order)
    with _bar("playing", points(policies)) as advance:
        judged = list(evaluate(source, policies, episodes, seed, lambda: advance(1, None)))
    for row in judged:
        setting = {} if row.setting is None else {"setting": row.setting}
        report.row({"policy": row.policy, **setting, "workload": row.workload}, row.metrics)
    report.settings = {**report.settings, "tuned": _plain(tuned)}
    return judged


def _store() -> ArtifactStore:
    from controller.store import ArtifactStore, home_in, shipped_models

    return ArtifactStore(shipped_models(), home_in(os.environ))


def _home_models() -> Path:
    from controller.store import home_in

    return home_in(os.environ) / "models"


def _source(
    store: ArtifactStore, split: str, seed: int, prompts: int, randomisation: Randomisation | None = None
) -> EpisodeSource:
    """Episodes of the demo's scenario; exit code 1 where a profile or predictor that shapes them is missing."""
    from controller.errors import HeadwayError
    from envs.sources import default_source
    from predictors.artifact import ArtifactError

    try:
        return default_source(split=split, seed=seed, prompts=prompts, randomisation=randomisation, artifacts=store)
    except (HeadwayError, ArtifactError) as error:
        raise fail(f"the environment needs the shipped profiles and predictors: {error}", code=1) from error


def _validated(store: ArtifactStore, seed: int, prompts: int, per_kind: int) -> list[Episode]:
    """Episodes that heuristics are tuned on, and checkpoints chosen by."""
    from envs.episode import Randomisation
    from rl.train import validation_episodes

    return validation_episodes(_source(store, "validation", seed + 1, prompts, Randomisation.validation()), per_kind)


def _shipped(store: ArtifactStore, artifact: Path | None) -> tuple[TrainedPolicy, Manifest]:
    from controller.errors import HeadwayError
    from controller.policy import load_policy
    from predictors.artifact import ArtifactError, load_manifest

    try:
        path = artifact or store.resolve(_REF)
        return load_policy(path), load_manifest(path)
    except (HeadwayError, ArtifactError) as error:
        raise fail(f"no policy to judge: {error}; train one with: headway train best-effort", code=1) from error


def _record(store: ArtifactStore, arguments: TrainArguments, around: EpisodeSource) -> TrainingRecord:
    """What a policy came from; without figures yet."""
    from envs.sources import LENGTH, QUALITY
    from predictors.artifact import DataSource, manifest_sha256, sha256
    from rl.artifact import TrainingRecord

    refs = [*(f"profile/{pool.profile}" for pool in around.scenario.pools), LENGTH, QUALITY]
    digest = sha256("\0".join(task.prompt for task in around.prompts.tasks).encode())
    tasks = DataSource("envs/tasks.py split=validation", "Apache-2.0", digest, len(around.prompts))
    return TrainingRecord(
        arguments=arguments,
        scenario=around.scenario,
        inputs={ref: manifest_sha256(store.resolve(ref)) for ref in refs},
        data=(tasks,),
        metrics={},
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        randomisation=around.randomisation,
    )


def _loaded(trained: Trained, record: TrainingRecord) -> TrainedPolicy:
    """The policy as serving would load it."""
    from controller.policy import load_policy
    from rl.artifact import write_policy

    with tempfile.TemporaryDirectory() as folder:
        manifest = write_policy(Path(folder), trained, record, version=1)
        return load_policy(Path(folder) / manifest.ref)


def _write(models: Path, trained: Trained, record: TrainingRecord, judged: Sequence[Judged]) -> Manifest:
    from controller.store import shipped_models
    from predictors.artifact import ArtifactError, next_version
    from rl.artifact import KIND, NAME, write_policy

    metrics = {
        f"{name}_{row.workload}": row.metrics[name] for row in judged if row.policy == "learned" for name in _KEPT
    }
    # Above what is in this folder, and above what ships, which would hide it.
    folders = [folder for folder in (models, shipped_models()) if folder is not None]
    version = max(next_version(folder, KIND, NAME) for folder in folders)
    try:
        return write_policy(models, trained, replace(record, metrics=metrics), version)
    except (ArtifactError, OSError) as error:
        raise fail(str(error), code=1) from error


def _plain(arguments: Any) -> dict[str, Any]:
    """As it is after a way through JSON."""
    import json

    plain: dict[str, Any] = json.loads(json.dumps(asdict(arguments)))
    return plain


@contextmanager
def _bar(name: str, total: int) -> Iterator[Callable[[int, str | None], None]]:
    """A progress bar on stderr; the function moves it on, and renames it."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(name, total=total)
        yield lambda steps, renamed: progress.update(task, advance=steps, description=renamed)
