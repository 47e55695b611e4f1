"""The other gateways: each installed in an environment of its own, kept between runs, and started as its makers say.

A folder may also hold a peer's packages as they are unpacked (``DIR/smg/smg/__init__.py``), for machines that have no
package index: they then run under this process's own Python, which must have what they import.

They are run, never shipped. Licences: smg and vllm-router Apache-2.0, litellm MIT.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import distributions
from pathlib import Path

from cli.bench.gateway_processes import Server, free_port
from cli.bench.gateway_upstream import MODEL
from cli.bench.gateway_wrk import LoadError

__all__ = ["PEERS", "Peer", "clean_environment", "environment_of", "launch", "version"]

_INSTALL_S = 1800
_LITELLM_ENVIRONMENT = {
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "LITELLM_LOG": "ERROR",
    "LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true",  # it keeps no keys here: that would need a database
}


@dataclass(frozen=True, slots=True)
class Peer:
    """A package of the index, the command that it brings, and the module that does the same."""

    name: str
    requirement: str
    script: str
    module: str

    @property
    def package(self) -> str:
        """The package that the module is of."""
        return self.module.partition(".")[0]


PEERS: Mapping[str, Peer] = {
    peer.name: peer
    for peer in (
        Peer("smg", "smg", "smg", "smg"),
        Peer("vllm-router", "vllm-router", "vllm-router", "vllm_router.launch_router"),
        Peer("litellm", "litellm[proxy]", "litellm", "litellm"),
    )
}


def clean_environment() -> dict[str, str]:
    """This process's environment without headway's own settings and without a proxy, which loopback does not need."""
    unwanted = ("HEADWAY_", "http_proxy", "https_proxy", "all_proxy")
    kept = {name: value for name, value in os.environ.items() if not name.lower().startswith(unwanted)}
    return {name: value for name, value in kept.items() if not name.startswith("HEADWAY_")}


def environment_of(peer: Peer, folder: Path) -> Path:
    """The peer's virtual environment, or its unpacked packages; the former is made now if there is neither. Raises
    LoadError if it cannot be installed."""
    home = folder / peer.name
    program = home / "bin" / peer.script
    if program.is_file() or _unpacked(peer, home):
        return home
    shutil.rmtree(home, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    for command in (
        [sys.executable, "-m", "venv", str(home)],
        [str(home / "bin" / "python"), "-m", "pip", "install", "--quiet", peer.requirement],
    ):
        done = subprocess.run(command, capture_output=True, text=True, timeout=_INSTALL_S)
        if done.returncode != 0:
            shutil.rmtree(home, ignore_errors=True)
            said = (done.stderr or done.stdout).strip()[-800:]
            message = (
                f"{peer.name} cannot be installed in {home}; is the package index reachable? Leave it out of --peers"
            )
            raise LoadError(f"{message}, or give --envs a folder that has it.\n{said}")
    if not program.is_file():
        raise LoadError(f"{peer.requirement} brought no command {peer.script!r} to {home}")
    return home


def version(peer: Peer, home: Path) -> str:
    """What is installed."""
    folders = [home] if _unpacked(peer, home) else home.glob("lib/python*/site-packages")
    found = distributions(name=peer.name, path=[str(folder) for folder in folders])
    return next((each.version for each in found), "unknown")


def launch(
    peer: Peer, home: Path, upstreams: Sequence[str], folder: Path, policy: str = "cache_aware", log: str | None = None
) -> Server:
    """Start a peer before these upstreams, one process that logs warnings only; it may not be ready yet. ``policy`` is
    how a router balances, by its own name; ``log`` names its log file, the peer's name if not given."""
    port = free_port()
    program, environ = _program(peer, home)
    common = ["--host", "127.0.0.1", "--port", str(port)]
    routers = ["--worker-urls", *upstreams, "--policy", policy, "--prometheus-port", str(free_port())]
    routers += ["--request-timeout-secs", "600"]
    if peer.name == "smg":
        command = [*program, "launch", *common, *routers, "--log-level", "warn"]
    elif peer.name == "vllm-router":
        command = [*program, *common, *routers, "--log-level", "warning"]
    else:
        command = [*program, *common, "--config", str(_litellm_config(upstreams, folder)), "--num_workers", "1"]
    environ |= _LITELLM_ENVIRONMENT
    return Server.start(peer.name, port, command, folder / f"{log or peer.name}.log", environ, folder)


def _unpacked(peer: Peer, home: Path) -> bool:
    return (home / peer.package / "__init__.py").is_file()


def _program(peer: Peer, home: Path) -> tuple[list[str], dict[str, str]]:
    """What the peer is started with, and in what environment."""
    environ = clean_environment()
    if not _unpacked(peer, home):
        return [str(home / "bin" / peer.script)], environ
    paths = [str(home), environ.get("PYTHONPATH", "")]
    return [sys.executable, "-m", peer.module], {**environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}


def _litellm_config(upstreams: Sequence[str], folder: Path) -> Path:
    path = folder / "litellm.yaml"
    models = [
        {
            "model_name": MODEL,
            "litellm_params": {"model": f"openai/{MODEL}", "api_base": f"{url}/v1", "api_key": "none"},
        }
        for url in upstreams
    ]
    settings = {"telemetry": False, "drop_params": False}
    path.write_text(json.dumps({"model_list": models, "litellm_settings": settings}))  # JSON is YAML
    return path
