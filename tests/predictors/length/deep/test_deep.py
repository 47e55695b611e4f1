from __future__ import annotations

import struct
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel

from predictors.artifact import ArtifactSchema
from predictors.length.data import LengthData, LengthDataError, content_hash
from predictors.length.deep.build import changed, in_blocks, write_encoder
from predictors.length.deep.encoder import Encoder, EncoderError
from predictors.length.deep.features import features_of
from predictors.length.deep.gguf import GgufError, read_gguf
from predictors.length.deep.head import fit_head, tuned_head
from predictors.length.deep.model import HEAD_FILE, DeepLength
from predictors.length.deep.process import BATCH, DeepProcess
from predictors.length.deep.ranker import DeepRanker, calibrated_head
from predictors.length.deep.text import Reader
from predictors.types import Prompt
from tests.predictors.length import samples

SIZE, WIDTH, HEADS, KEYS, MIDDLE = 576, 64, 9, 3, 64


def _tokenizer() -> Tokenizer:
    alphabet = sorted(ByteLevel.alphabet())
    tokenizer = Tokenizer(BPE({letter: i for i, letter in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
    tokenizer.add_special_tokens(["<|im_start|>", "<|im_end|>"])
    return tokenizer


def _layers(count: int = 2) -> list[dict[str, Any]]:
    rng = np.random.default_rng(0)
    shapes = {
        "qkv": ((HEADS + 2 * KEYS) * WIDTH, SIZE),
        "out": (SIZE, SIZE),
        "gate_up": (2 * MIDDLE, SIZE),
        "down": (SIZE, MIDDLE),
    }
    return [
        {
            "norm_in": np.ones(SIZE, np.float32),
            "norm_mid": np.ones(SIZE, np.float32),
            **{name: rng.normal(0, 0.05, shape).astype(np.float32) for name, shape in shapes.items()},
        }
        for _ in range(count)
    ]


def _embedding() -> np.ndarray[Any, Any]:
    return np.random.default_rng(1).normal(0, 1, (_tokenizer().get_vocab_size(), SIZE)).astype(np.float32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out: Path = tmp_path_factory.mktemp("encoder")
    write_encoder(_embedding(), _layers(), _tokenizer().to_str(), out)
    return out


@pytest.fixture(scope="module")
def encoder(folder: Path) -> Encoder:
    return Encoder.load(folder)


@pytest.fixture(scope="module")
def small() -> LengthData:
    return samples.data().take(np.arange(60))


@pytest.fixture(scope="module")
def features(encoder: Encoder, small: LengthData) -> np.ndarray[Any, Any]:
    return encoder.embed([prompt.text for prompt in small.prompts])


@pytest.fixture(scope="module")
def head(encoder: Encoder, small: LengthData, features: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out: Path = tmp_path_factory.mktemp("head")
    for name, content in DeepRanker(encoder=encoder.digest).fit(small, features).export().items():
        (out / name).write_bytes(content)
    return out


def test_the_graph_is_the_network_that_is_tuned(encoder: Encoder) -> None:
    """Against torch, on the same weights: what is left is the error of eight bits."""
    torch = pytest.importorskip("torch")
    from predictors.length.deep.tuning import states_below

    texts = ["Say something about trains.", "?", "a longer one " * 9]
    ids = Reader(_tokenizer()).read(texts)
    weights = [{name: torch.as_tensor(value) for name, value in layer.items()} for layer in _layers()]
    states = states_below(weights, torch.as_tensor(_embedding()), ids, 2)
    wanted = np.stack([np.concatenate([s[-1].numpy(), s.mean(0).numpy()]) for s in states])
    error = np.abs(encoder.embed(texts) - wanted).max(axis=1) / np.abs(wanted).max(axis=1)
    assert error.max() < 0.03


def test_features_do_not_depend_on_the_batch_or_on_padding(encoder: Encoder) -> None:
    texts = ["short", "a much longer prompt " * 20, "", "\ud800 odd"]
    together = encoder.embed(texts)
    alone = np.concatenate([encoder.embed([text]) for text in texts])
    np.testing.assert_allclose(together, alone, atol=0.02 * np.abs(alone).max())
    assert encoder.embed([]).shape == (0, encoder.width)


def test_an_encoder_whose_files_changed_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(EncoderError, match=r"deep\.build"):
        Encoder.load(tmp_path)
    for entry in folder.iterdir():
        (tmp_path / entry.name).write_bytes(entry.read_bytes())
    (tmp_path / "tokenizer.json").write_text(_tokenizer().to_str(pretty=True))
    with pytest.raises(EncoderError, match="build the encoder again"):
        Encoder.load(tmp_path)


def test_a_long_prompt_keeps_its_ends_and_special_tokens_are_text() -> None:
    reader = Reader(_tokenizer(), ends=4)
    around = len(reader.read([""])[0])
    (row,) = reader.read(["abcd" + "x" * 50_000 + "wxyz"])
    assert len(row) == around + 8
    start = len(_tokenizer().encode("<|im_start|>", add_special_tokens=False).ids)
    assert start == 1
    assert len(reader.read(["<|im_start|>"])[0]) == around + 8  # twelve letters, cut to eight


def test_eight_bits_keep_a_matrix_to_half_a_step() -> None:
    matrix = np.random.default_rng(2).normal(size=(5, 64)).astype(np.float32)
    codes, scales = in_blocks(matrix)
    back = ((codes.astype(np.float32) - 128.0) * scales[:, :, None]).reshape(matrix.shape)
    assert (np.abs(back - matrix) <= 0.501 * np.repeat(scales, 32, axis=1)).all()


def test_changes_are_added_to_the_last_layers() -> None:
    layers, rng = _layers(3), np.random.default_rng(3)
    a, b = rng.normal(size=(2, SIZE)), rng.normal(size=(SIZE, 2))
    found = changed(layers, {"layers-1-out_a": a, "layers-1-out_b": b})
    np.testing.assert_allclose(found[2]["out"], layers[2]["out"] + b @ a, atol=1e-4)
    np.testing.assert_array_equal(found[1]["out"], layers[1]["out"])
    with pytest.raises(ValueError, match="the matrix"):
        changed(layers, {"layers-0-down_a": a, "layers-0-down_b": b})
    with pytest.raises(ValueError, match="only 3"):
        changed(layers, {"layers-7-out_a": a, "layers-7-out_b": b})


def test_leaving_one_out_is_what_the_head_says_it_is() -> None:
    """The chosen strength has the least error of heads that were really fitted without each row."""
    rng = np.random.default_rng(4)
    x, weight = rng.normal(size=(40, 6)), rng.uniform(0.5, 2.0, 40)
    y = x @ rng.normal(size=6) + rng.normal(0, 3, 40)
    strengths = (0.1, 10.0, 100.0, 1e4)

    def error(strength: float) -> float:
        left = [fit_head(np.delete(x, i, 0), np.delete(y, i), np.delete(weight, i), [strength]) for i in range(40)]
        return float(sum(w * (h.score(row[None])[0] - v) ** 2 for h, row, v, w in zip(left, x, y, weight, strict=True)))

    assert fit_head(x, y, weight, strengths).strength == min(strengths, key=error)


def test_a_ranker_learns_and_predicts_the_same_bits_after_export(small: LengthData, features: Any) -> None:
    ranker = DeepRanker().fit(small, features)
    again = DeepLength.from_files(ranker.export())
    first, second = ranker.predict(small.prompts, features), again.predict(small.prompts, features)
    for name in ("rank", "tokens", "in_distribution", "high", "tail"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))
    longest = np.nanmean(small.tokens, axis=1)
    assert np.corrcoef(first.rank, longest)[0, 1] > 0.5
    assert (first.tail >= first.high).all()


def test_a_tuned_head_is_the_mean_of_the_models_heads(small: LengthData, features: Any) -> None:
    rng, width = np.random.default_rng(5), features.shape[1]
    changes = {
        "head-weight": rng.normal(size=(3, width)),
        "head-bias": rng.normal(size=3),
        "mean": features.mean(axis=0),
        "scale": features.std(axis=0) + 0.1,
    }
    model = calibrated_head(tuned_head(changes), small, features, "digest")
    standard = (features - changes["mean"]) / changes["scale"]
    outputs = standard @ changes["head-weight"].T + changes["head-bias"]
    np.testing.assert_allclose(model.head.score(features), outputs[:, 1:].mean(axis=1), rtol=1e-4, atol=1e-4)
    order = np.argsort(model.head.score(features))
    assert (np.diff(model.predict(small.prompts, features).rank[order]) >= 0).all()


def test_scores_respect_max_tokens_and_doubt_what_cannot_be_read(small: LengthData, features: Any) -> None:
    ranker = DeepRanker().fit(small, features)
    odd = features[:3].copy()
    odd[1] = np.nan
    scores = ranker.predict([Prompt("a", max_tokens=1), Prompt("b"), Prompt(" ")], odd)
    assert scores.tokens[0] == 1.0
    assert scores.high[0] <= 1.0
    assert scores.in_distribution.tolist() == [True, False, False]
    assert np.isfinite(scores.rank).all()
    with pytest.raises(ValueError, match="need features"):
        ranker.predict([Prompt("a")], odd)


def test_too_little_to_learn_from_is_refused(small: LengthData, features: Any) -> None:
    with pytest.raises(LengthDataError, match="too few"):
        DeepRanker().fit(small.take(np.arange(5)), features[:5])
    with pytest.raises(LengthDataError, match="finite features"):
        DeepRanker().fit(small, features[:-1])


def test_foreign_files_are_no_ranker(small: LengthData, features: Any) -> None:
    files = DeepRanker().fit(small, features).export()
    with pytest.raises(ArtifactSchema, match="deep"):
        DeepLength.from_files({**files, HEAD_FILE: b"nothing"})
    with pytest.raises(ArtifactSchema, match="deep"):
        DeepLength.from_files({})


def test_features_are_read_once(encoder: Encoder, tmp_path: Path) -> None:
    kept = tmp_path / "features.npz"
    first = features_of(["one", "two"], encoder, kept)
    with np.load(kept) as stored:
        assert stored["group"].tolist() == [content_hash("one"), content_hash("two")]
    before = kept.stat().st_mtime_ns
    np.testing.assert_array_equal(features_of(["two", "one"], encoder, kept), first[::-1])
    assert kept.stat().st_mtime_ns == before
    assert len(features_of(["three"], encoder, kept)) == 1
    kept.write_bytes(b"no features")
    with pytest.raises(LengthDataError, match="remove it"):
        features_of(["one"], encoder, kept)


def test_the_process_gives_the_scores_of_the_model(folder: Path, head: Path, encoder: Encoder) -> None:
    prompts = [Prompt("How long?"), Prompt("Write an essay.", max_tokens=3)]
    process = DeepProcess(folder, head)
    try:
        scores = _until_answered(process, prompts)
        files = {entry.name: entry.read_bytes() for entry in head.iterdir()}
        wanted = DeepLength.from_files(files).predict(prompts, encoder.embed([p.text for p in prompts]))
        np.testing.assert_allclose(scores.rank, wanted.rank)
        assert process.predict(prompts, 0.0) is None  # too late, and its answer is not taken for the next one's
        again = _until_answered(process, prompts[:1])
        assert len(again.rank) == 1
        with pytest.raises(ValueError, match="batch"):
            process.predict(prompts * BATCH, 1.0)
    finally:
        process.close()
    assert process.predict(prompts, 1.0) is None


def test_a_process_that_died_is_started_again(folder: Path, head: Path) -> None:
    process = DeepProcess(folder, head, least_pause_s=0.0)
    try:
        _until_answered(process, [Prompt("a")])
        process._process.kill()
        process._process.join()
        assert process.predict([Prompt("a")], 5.0) is None
        assert len(_until_answered(process, [Prompt("a")]).rank) == 1
        assert process.starts == 2
    finally:
        process.close()


def test_a_head_of_another_encoder_is_refused(folder: Path, small: LengthData, features: Any, tmp_path: Path) -> None:
    for name, content in DeepRanker(encoder="other").fit(small, features).export().items():
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ArtifactSchema, match="another encoder"):
        DeepProcess(folder, tmp_path)


def _until_answered(process: DeepProcess, prompts: list[Prompt]) -> Any:
    end = time.monotonic() + 60.0
    while time.monotonic() < end:
        scores = process.predict(prompts, 5.0)
        if scores is not None:
            return scores
    raise AssertionError("the process never answered")


def _string(text: str) -> bytes:
    return struct.pack("<Q", len(text)) + text.encode()


@pytest.fixture
def gguf(tmp_path: Path) -> tuple[Path, np.ndarray[Any, Any]]:
    """A file with one Q8_0 matrix (2, 32) and a few metadata."""
    codes = np.arange(-32, 32, dtype=np.int8).reshape(2, 32)
    raw = b"".join(np.float16(0.5).tobytes() + row.tobytes() for row in codes)
    header = b"GGUF" + struct.pack("<IQQ", 3, 1, 2)
    header += _string("name") + struct.pack("<I", 8) + _string("small")
    header += _string("list") + struct.pack("<IIQ", 9, 4, 2) + struct.pack("<II", 7, 8)
    header += _string("w") + struct.pack("<IQQIQ", 2, 32, 2, 8, 0)
    path = tmp_path / "m.gguf"
    path.write_bytes(header + b"\0" * (-len(header) % 32) + raw)
    return path, codes * 0.5


def test_gguf_is_read_and_dequantised(gguf: tuple[Path, Any]) -> None:
    path, wanted = gguf
    file = read_gguf(path)
    assert dict(file.metadata) == {"name": "small", "list": [7, 8]}
    np.testing.assert_array_equal(file.tensor("w"), wanted)
    np.testing.assert_array_equal(file.tensors["w"].rows(np.array([1])), wanted[1:])
    with pytest.raises(GgufError, match="no tensor"):
        file.tensor("v")


def test_a_broken_gguf_is_refused(gguf: tuple[Path, Any], tmp_path: Path) -> None:
    whole = gguf[0].read_bytes()
    broken = tmp_path / "broken.gguf"
    for content in (b"", b"GGUX" + whole[4:], whole[:20], whole[:60], whole[:-1]):
        broken.write_bytes(content)
        with pytest.raises(GgufError):
            read_gguf(broken)
