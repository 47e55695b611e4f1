"""The network computes what transformers' Llama computes, with and without a cache."""

from __future__ import annotations

import pytest
import torch

from envs.ladder.checkpoint import config
from envs.ladder.network import Llama
from envs.ladder.shapes import LADDER, NAMES, Shape, shape_of
from envs.ladder.vocabulary import SIZE

TINY = Shape("tiny", layers=2, hidden=128, intermediate=64)


@pytest.fixture(scope="module")
def network() -> Llama:
    torch.manual_seed(1)
    made = Llama(TINY, SIZE)
    for parameter in made.parameters():
        parameter.data *= 3.0  # so that positions and neighbours matter
    return made.eval()


def test_it_is_transformers_llama(network: Llama) -> None:
    transformers = pytest.importorskip("transformers")
    theirs = transformers.LlamaForCausalLM(transformers.LlamaConfig(**config(network))).eval()
    missing = theirs.load_state_dict(network.state_dict(), strict=False)
    assert missing.missing_keys == ["lm_head.weight"]
    assert not missing.unexpected_keys
    tokens = torch.randint(0, SIZE, (3, 40))
    torch.testing.assert_close(network(tokens), theirs(tokens).logits, rtol=1e-3, atol=1e-4)


def test_greedy_answers_are_the_likeliest_tokens_one_after_the_other(network: Llama) -> None:
    prompts = [torch.randint(5, SIZE, (length,)).tolist() for length in (3, 11, 7)]
    found = network.answers(prompts, end=1, most=12)
    for prompt, answer in zip(prompts, found, strict=True):
        ids = list(prompt)
        for token in answer:
            assert int(network(torch.tensor([ids]))[0, -1].argmax()) == token
            ids.append(token)
        assert len(answer) == 12 or int(network(torch.tensor([ids]))[0, -1].argmax()) == 1


def test_the_ladder_goes_up() -> None:
    sizes = [sum(p.numel() for p in Llama(shape, SIZE).parameters()) for shape in LADDER]
    assert sizes == sorted(sizes)
    assert [shape.layers for shape in LADDER] == sorted({shape.layers for shape in LADDER})
    assert 2 * sum(sizes) < 30_000_000 - 200_000


def test_an_unknown_member_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=", ".join(NAMES)):
        shape_of("huge")
