"""A written member is an artifact, and what transformers and the chat template make of it is what was trained."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from envs.ladder.batches import encoder, tokenizer
from envs.ladder.checkpoint import Validation, folder, write_member
from envs.ladder.network import Llama
from envs.ladder.shapes import LADDER, Shape, shipped
from envs.ladder.train import Recipe, Trained
from envs.ladder.vocabulary import END, SIZE, SPECIAL
from envs.tasks import generate
from predictors.artifact import ArtifactExists, load_manifest, verify

TINY = Shape("tiny", layers=1, hidden=64, intermediate=64)


def written(models: Path, *, overwrite: bool = False) -> Trained:
    torch.manual_seed(0)
    tasks = generate(1, 40, "validation")
    trained = Trained(Llama(TINY, SIZE).eval(), Recipe(steps=3), ((3, 1.5),), 1000, 8, 60.0, "CPU, 1 threads")
    write_member(models, trained, Validation(tasks, [True] * 10 + [False] * 30), "2026-01-01", overwrite=overwrite)
    return trained


def test_it_is_an_artifact_whose_files_are_whole(tmp_path: Path) -> None:
    written(tmp_path)
    manifest = verify(folder(tmp_path, "tiny"))
    assert manifest.ref == "ladder/tiny/1"
    assert manifest.metrics["accuracy_validation"] is not None
    assert manifest.metrics["accuracy_validation"].value == 0.25
    card = (folder(tmp_path, "tiny") / "card.md").read_text()
    assert "CPU, 1 threads" in card
    assert "Apache-2.0" in card


def test_it_is_not_overwritten_unless_told_to_and_then_counts_on(tmp_path: Path) -> None:
    written(tmp_path)
    with pytest.raises(ArtifactExists):
        written(tmp_path)
    written(tmp_path, overwrite=True)
    assert load_manifest(folder(tmp_path, "tiny")).version == 2


def test_transformers_reads_model_tokenizer_and_chat_template(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    trained = written(tmp_path)
    path = folder(tmp_path, "tiny")
    model = transformers.AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    tokens = torch.randint(0, SIZE, (2, 30))
    torch.testing.assert_close(model(tokens).logits, trained.network(tokens), rtol=0.05, atol=0.02)
    theirs = transformers.AutoTokenizer.from_pretrained(path)
    task = generate(3, 1)[0]
    rendered = theirs.apply_chat_template(task.messages, add_generation_prompt=True, return_dict=False)
    assert list(rendered) == encoder().prompt(task.prompt)
    assert model.config.eos_token_id == theirs.eos_token_id == SPECIAL.index(END)


@pytest.mark.parametrize("shape", LADDER, ids=lambda shape: shape.name)
def test_what_ships_is_whole_and_of_this_shape(shape: Shape) -> None:
    path = shipped(shape.name)
    manifest = verify(path)
    assert manifest.settings["shape"]["layers"] == shape.layers
    assert (path / "tokenizer.json").read_text() == tokenizer().to_str()
    assert (path / "model.safetensors").stat().st_size < 25_000_000
