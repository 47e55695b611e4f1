"""The ``headway`` command: a table of subcommands, each imported only when it is called."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import typer
import typer.core
import typer.main

from cli.report import headway_version


class Entry(NamedTuple):
    """Where a subcommand's function is, and its line in the help."""

    target: str
    help: str


@dataclass(frozen=True)
class Group:
    """Subcommands under one word."""

    help: str
    entries: Mapping[str, Entry]


COMMANDS: Mapping[str, Entry | Group] = {
    "demo": Entry("cli.demo.command:demo", "The whole thing on this machine: no GPU, no configuration."),
    "serve": Entry("cli.serve:serve", "Run the gateway."),
    "worker": Group(
        "Workers to try things with.",
        {"sim": Entry("cli.worker:sim", "A simulated worker with vLLM's HTTP surface.")},
    ),
    "collect": Entry("cli.collect:collect", "Run prompts through live workers; record answers, lengths and timings."),
    "calibrate": Entry("cli.calibrate.command:calibrate", "Fit an engine profile to a live worker, and judge it."),
    "train": Group(
        "Fit the learned parts.",
        {
            "length": Entry("cli.length:train", "The output-length ranker."),
            "remaining": Entry("cli.length_remaining:train", "How many tokens of a running answer are left."),
            "router": Entry("cli.routing:train", "The quality predictor behind the model router."),
            "best-effort": Entry("cli.best_effort:train", "The best-effort quality policy (Double DQN)."),
            "ladder": Entry("cli.ladder:train", "The ladder of small models that answer the task suite."),
        },
    ),
    "eval": Group(
        "Judge the learned parts on held-out data, beside their baselines.",
        {
            "length": Entry("cli.length:evaluate", "Kendall's tau of the length rankers."),
            "remaining": Entry("cli.length_remaining:evaluate", "What is left of running answers: tau-b and error."),
            "routing": Entry("cli.routing:evaluate", "Quality, cost and AIQ of the model routers."),
            "best-effort": Entry("cli.best_effort:evaluate", "Best-effort policies under load, in simulation."),
            "ladder": Entry("cli.ladder_eval:evaluate", "The ladder of models on real vLLM: quality, lengths, speed."),
        },
    ),
    "simulate": Entry("cli.simulate.command:simulate", "What a trace would meet on a fleet, policy by policy."),
    "bench": Group(
        "Measure headway on this machine.",
        {
            "gateway": Entry("cli.bench.gateway:gateway", "What the gateway costs, beside other gateways."),
            "decision": Entry("cli.bench.decision:decision", "What deciding about one request costs, part by part."),
            "simulator": Entry("cli.bench.simulator:simulator", "Requests simulated a second, case by case."),
            "queue": Entry("cli.bench.queue:queue", "Pushes and pops a second with a long queue, for every order."),
        },
    ),
    "data": Group(
        "Public traces and tables.",
        {
            "list": Entry("cli.data:list_", "What the data folder holds, and what can be fetched."),
            "import": Entry("cli.data:import_", "Bring a public trace into headway's own format."),
            "fetch": Entry("cli.data:fetch", "Download public data."),
        },
    ),
    "tenants": Group(
        "Who may ask: API keys.",
        {
            "key": Entry("cli.tenants:key", "Make an API key for a tenant."),
            "check": Entry("cli.tenants:check", "Say whose a key is."),
        },
    ),
    "models": Group(
        "Artifacts: what ships, what you trained, what is active.",
        {
            "list": Entry("cli.models:list_", "List artifacts and their pointers."),
            "show": Entry("cli.models:show", "One artifact's manifest."),
            "verify": Entry("cli.models:verify", "Check hashes and schema."),
            "promote": Entry("cli.models:promote", "Make a version the active one."),
            "rollback": Entry("cli.models:rollback", "Go back to the previous version."),
        },
    ),
}


def _load(entry: Entry) -> Callable[..., Any]:
    module, _, name = entry.target.partition(":")
    function: Callable[..., Any] = getattr(importlib.import_module(module), name)
    return function


def _command(name: str, entry: Entry) -> Any:
    app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
    app.command(name, help=entry.help)(_load(entry))
    return typer.main.get_command(app)


def _group(name: str, group: Group) -> Any:
    app = typer.Typer(cls=_lazy(group.entries), add_completion=False, no_args_is_help=True, help=group.help)
    app.callback(help=group.help)(_nothing)
    command = typer.main.get_command(app)
    command.name = name
    return command


def _nothing() -> None:
    """A group by itself does nothing."""


def _lazy(entries: Mapping[str, Entry | Group]) -> type[typer.core.TyperGroup]:
    """A group whose subcommands are resolved by name when they are asked for."""

    class LazyGroup(typer.core.TyperGroup):
        def list_commands(self, ctx: Any) -> list[str]:
            return list(entries)

        def get_command(self, ctx: Any, cmd_name: str) -> Any:
            entry = entries.get(cmd_name)
            if entry is None:
                return None
            return _command(cmd_name, entry) if isinstance(entry, Entry) else _group(cmd_name, entry)

    return LazyGroup


def _version(value: bool) -> None:
    if value:
        typer.echo(f"headway {headway_version()}")
        raise typer.Exit


def _root(
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Show the version."),
) -> None:
    """A learned control plane for LLM serving."""


app = typer.Typer(
    cls=_lazy(COMMANDS),
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
app.callback()(_root)


def run() -> None:
    """Entry point of the ``headway`` script; exit code ≠ 0 on failure."""
    sys.exit(app())


if __name__ == "__main__":
    run()
