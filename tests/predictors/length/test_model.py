from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from predictors import artifact
from predictors.artifact import ArtifactSchema, ArtifactTampered
from predictors.length.card import Facts, write_ranker
from predictors.length.model import ARRAYS_FILE, RANKER_FILE, SCHEMA, TABLES_FILE, FastLength
from predictors.types import Prompt
from tests.predictors.length import samples


def scored(model: FastLength, *prompts: Prompt) -> tuple[list[float], list[float], list[bool]]:
    scores = model.predict(prompts, samples.embedder().embed([prompt.text for prompt in prompts]))
    return scores.rank.tolist(), scores.tokens.tolist(), scores.in_distribution.tolist()


@pytest.fixture(scope="module")
def model() -> FastLength:
    return samples.fast().model_


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    facts = Facts("fast", 1, "2026-01-01T00:00:00+00:00", samples.data().provenance, {}, {})
    write_ranker(tmp_path, samples.fast(), facts)
    return tmp_path / "length" / "fast" / "1"


def test_rank_and_tokens_agree_on_the_order(model: FastLength) -> None:
    prompts, embeddings = samples.probes()
    scores = model.predict(prompts, embeddings)
    unlimited = [i for i, prompt in enumerate(prompts) if prompt.max_tokens is None]
    assert np.array_equal(np.argsort(scores.rank[unlimited]), np.argsort(scores.tokens[unlimited]))


@pytest.mark.parametrize("limit", [1, 7, 40])
def test_a_limit_caps_tokens_and_rank(model: FastLength, limit: int) -> None:
    prompts, embeddings = samples.data().prompts, samples.embeddings()
    text = prompts[int(model.predict(prompts, embeddings).tokens.argmax())].text
    free, limited, tight = (scored(model, Prompt(text, max_tokens)) for max_tokens in (None, limit, max(limit // 2, 1)))
    assert free[1][0] > limit == limited[1][0]
    assert tight[0][0] <= limited[0][0] < free[0][0]


def test_a_limit_beyond_the_expected_length_changes_nothing_it_says(model: FastLength) -> None:
    text = "Give only the answer. What is 2 plus 2?"
    assert scored(model, Prompt(text, 100_000))[1] == scored(model, Prompt(text))[1]


def test_prompts_unlike_the_training_data_are_out_of_distribution(model: FastLength) -> None:
    known = scored(model, *samples.data().prompts[:40])[2]
    assert sum(known) == 40
    assert scored(model, Prompt(""), Prompt("{}[]<>" * 200))[2] == [False, False]


def test_threads_may_share_it(model: FastLength) -> None:
    prompts, embeddings = samples.probes()
    alone = model.predict(prompts, embeddings).rank
    with ThreadPoolExecutor(4) as pool:
        for scores in pool.map(lambda _: model.predict(prompts, embeddings), range(12)):
            assert np.array_equal(scores.rank, alone)


def test_embeddings_must_fit_the_prompts(model: FastLength) -> None:
    with pytest.raises(ValueError, match=r"\(2, 256\)"):
        model.predict([Prompt("a"), Prompt("b")], np.zeros((1, 256), dtype=np.float32))


def test_an_artifact_folder_loads(folder: Path, model: FastLength) -> None:
    prompts, embeddings = samples.probes()
    assert np.array_equal(
        FastLength.load(folder).predict(prompts, embeddings).rank, model.predict(prompts, embeddings).rank
    )


@pytest.mark.parametrize("name", [RANKER_FILE, TABLES_FILE, ARRAYS_FILE])
def test_a_tampered_file_is_refused(folder: Path, name: str) -> None:
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / name).write_bytes(bytes(content))
    with pytest.raises(ArtifactTampered, match=name):
        FastLength.load(folder)


def test_an_artifact_of_other_features_is_refused(folder: Path, tmp_path: Path) -> None:
    stored = artifact.load(folder, kind="length")
    artifact.write(
        tmp_path / "other",
        kind="length",
        name="fast",
        version=1,
        features=SCHEMA[:-1],
        data=(),
        metrics={},
        files=stored.files,
        created="",
    )
    with pytest.raises(ArtifactSchema, match="other features"):
        FastLength.load(tmp_path / "other")


def test_files_that_do_not_fit_are_refused(model: FastLength) -> None:
    files = model.export()
    tables = json.loads(files[TABLES_FILE])
    shorter = {**tables, "calibration": {**tables["calibration"], "rank": tables["calibration"]["rank"][:-1]}}
    falling = {**tables, "calibration": {name: knots[::-1] for name, knots in tables["calibration"].items()}}
    del tables["calibration"]["rank"]
    for broken in (
        {**files, TABLES_FILE: json.dumps(shorter).encode()},
        {**files, TABLES_FILE: json.dumps(falling).encode()},
        {name: content for name, content in files.items() if name != ARRAYS_FILE},
        {**files, TABLES_FILE: b"{"},
        {**files, TABLES_FILE: json.dumps(tables).encode()},
        {**files, ARRAYS_FILE: b"junk"},
        {**files, RANKER_FILE: b"not a model"},
    ):
        with pytest.raises(ArtifactSchema):
            FastLength.from_files(broken)


def test_an_array_of_objects_is_never_unpickled(model: FastLength, tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", **{name: np.array([object()]) for name in ("mean", "scale")})
    with pytest.raises(ArtifactSchema):
        FastLength.from_files({**model.export(), ARRAYS_FILE: (tmp_path / "a.npz").read_bytes()})
