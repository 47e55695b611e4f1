"""Muon's updates are near orthogonal, whatever is stacked; the schedule rises, stays and falls."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from envs.ladder.network import Llama
from envs.ladder.optimiser import Muon, optimisers, orthogonalised, share_of_rate
from envs.ladder.shapes import Shape


@pytest.mark.parametrize("size", [(32, 80), (80, 32), (48, 48)])
def test_singular_values_go_to_about_one(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    values = torch.linalg.svdvals(orthogonalised(torch.randn(3, *size)))
    assert values.max() < 1.3
    # The least of a square random matrix are near zero, and five iterations do not bring them all the way up.
    assert values.median() > 0.6


def test_matrices_do_not_mix() -> None:
    torch.manual_seed(0)
    stack = torch.randn(4, 16, 24)
    alone = torch.cat([orthogonalised(matrix[None]) for matrix in stack])
    torch.testing.assert_close(orthogonalised(stack), alone, rtol=1e-4, atol=1e-4)


def test_a_step_descends() -> None:
    torch.manual_seed(0)
    target, matrix = torch.randn(8, 16), torch.nn.Parameter(torch.zeros(8, 16))
    muon = Muon([matrix], lr=0.05)
    losses = []
    for _ in range(60):
        loss = (matrix - target).square().mean()
        losses.append(float(loss.detach()))
        muon.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        muon.step()
    assert losses[-1] < 0.3 * losses[0]


def test_every_parameter_has_exactly_one_optimiser() -> None:
    network = Llama(Shape("tiny", 1, 64, 32), 64)
    held = [p for optimiser in optimisers(network, 1e-3, 0.0) for g in optimiser.param_groups for p in g["params"]]
    assert sorted(map(id, held)) == sorted(map(id, network.parameters()))


@given(steps=st.integers(1, 500), warmup=st.integers(1, 100), cooldown=st.floats(0.0, 1.0))
def test_the_rate_is_a_share_and_ends_near_zero(steps: int, warmup: int, cooldown: float) -> None:
    shares = [share_of_rate(step, steps, warmup, cooldown) for step in range(steps)]
    assert all(0.0 < share <= 1.0 for share in shares)
    level = [s for i, s in enumerate(shares) if i + 1 >= warmup and steps - i >= max(1, round(steps * cooldown))]
    assert all(share == 1.0 for share in level)
