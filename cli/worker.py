"""``headway worker sim``: a simulated vLLM server, for demos, for tests, and for trying a configuration out."""

from __future__ import annotations

import os
import socket
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape

from cli.missing import fail
from cli.report import Report

if TYPE_CHECKING:
    from envs.engines.worker import SimWorker
    from predictors.latency.model import Profile

_GRACE_S = 1
"""vLLM aborts what runs when it is told to stop; this much is left to close the connections."""


def sim(
    profile: Annotated[
        str, typer.Option(help="Engine profile: an artifact's name (h100-8b), its folder, or a JSON file.")
    ] = "h100-8b",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8000,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    model: Annotated[str | None, typer.Option(help="Name to serve under; the profile's model if not given.")] = None,
    max_num_seqs: Annotated[int | None, typer.Option(min=1, help="Seats, instead of the profile's number.")] = None,
    scheduling_policy: Annotated[str, typer.Option(help="fcfs or priority.")] = "fcfs",
    max_num_queued_reqs: Annotated[
        int | None, typer.Option(min=0, help="Answer 503 above so many requests in flight, running and waiting.")
    ] = None,
    enable_sleep_mode: Annotated[
        bool, typer.Option("--enable-sleep-mode", help="Serve /sleep, /wake_up and /is_sleeping, as vLLM in dev mode.")
    ] = False,
    tasks_seed: Annotated[int, typer.Option(help="Seed of the task book whose prompts get real answers.")] = 0,
    tasks_count: Annotated[int, typer.Option(min=0, help="Tasks in the book; other prompts get filler.")] = 0,
    tasks_split: Annotated[str, typer.Option(help="train, validation or test.")] = "test",
    cold_start: Annotated[bool, typer.Option(help="Take the profile's start-up time before listening.")] = False,
    home: Annotated[Path | None, typer.Option(metavar="DIR", help="Writable store of artifacts.")] = None,
    json_path: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write the address and the profile here.")
    ] = None,
) -> None:
    """Serve one simulated worker until it is told to stop."""
    chosen = _seats(_profile(profile, home), max_num_seqs)
    tasks = tasks_seed, tasks_count, tasks_split
    worker = _worker(chosen, model, scheduling_policy, max_num_queued_reqs, tasks, sleep_mode=enable_sleep_mode)
    listener = _bind(host, port)
    url = f"http://{host}:{listener.getsockname()[1]}"
    console = Console(stderr=True)
    if cold_start:
        console.print(f"starting {chosen.name}: {chosen.cold_start_s:g} s", highlight=False)
        time.sleep(chosen.cold_start_s)
    _info(worker, url, tasks_seed, enable_sleep_mode).write(json_path)
    console.print(f"{worker.limits.model} ({chosen.name}, simulated) on {url}", highlight=False, soft_wrap=True)
    _serve(worker, listener)


def _profile(ref: str, home: Path | None) -> Profile:
    from cli.simulate.machines import load_profile
    from controller.store import ArtifactStore, home_in, shipped_models

    try:
        return load_profile(ref, ArtifactStore(shipped_models(), home or home_in(os.environ)))
    except ValueError as error:
        raise fail(escape(str(error)), 1) from error


def _seats(profile: Profile, max_num_seqs: int | None) -> Profile:
    from predictors.latency.model import ProfileError

    try:
        return profile if max_num_seqs is None else replace(profile, max_num_seqs=max_num_seqs)
    except ProfileError as error:
        raise fail(f"--max-num-seqs {max_num_seqs}: {escape(str(error))}") from error


def _worker(
    profile: Profile,
    model: str | None,
    policy: str,
    max_num_queued_reqs: int | None,
    tasks: tuple[int, int, str],
    *,
    sleep_mode: bool,
) -> SimWorker:
    from envs.answers import TaskAnswerer, TaskBook
    from envs.engines.sequence import SchedulingPolicy
    from envs.engines.worker import SimWorker

    if policy not in list(SchedulingPolicy):
        raise fail(f"--scheduling-policy must be one of {', '.join(SchedulingPolicy)}, not {policy!r}")
    seed, count, split = tasks
    try:
        book = TaskBook.generated(seed, count, split)
    except ValueError as error:
        raise fail(f"--tasks-split {split}: {escape(str(error))}") from error
    answerer = TaskAnswerer(book, model or profile.model, profile.skill, profile.verbosity, seed)
    return SimWorker(
        profile,
        answerer,
        model=model,
        policy=SchedulingPolicy(policy),
        max_num_queued_reqs=max_num_queued_reqs,
        sleep_mode=sleep_mode,
    )


def _bind(host: str, port: int) -> socket.socket:
    """The address is taken at once, but connections are refused until the server listens."""
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise fail(f"cannot listen on {host}:{port}: {error.strerror}", 1) from error
    return listener


def _info(worker: SimWorker, url: str, seed: int, sleep_mode: bool) -> Report:
    settings = {
        "profile": worker.profile.name,
        "model": worker.limits.model,
        "max_num_seqs": worker.profile.max_num_seqs,
        "scheduling_policy": worker.policy.value,
        "max_num_queued_reqs": worker.max_num_queued_reqs,
        "enable_sleep_mode": sleep_mode,
    }
    report = Report("worker sim", seed, settings)
    report.extra("url", url)
    report.extra("pid", os.getpid())
    return report


def _serve(worker: SimWorker, listener: socket.socket) -> None:
    import uvicorn

    server = uvicorn.Server(
        uvicorn.Config(
            worker,
            log_level="warning",
            access_log=False,
            timeout_graceful_shutdown=_GRACE_S,
        )
    )
    server.run(sockets=[listener])
