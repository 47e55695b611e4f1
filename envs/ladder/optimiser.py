"""Muon for the matrices inside the blocks, AdamW for the rest, and the schedule that both follow."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any, Final

import torch
from torch import Tensor
from torch.optim import AdamW, Optimizer

from envs.ladder.network import Llama

_NEWTON_SCHULZ: Final = (3.4445, -4.7750, 2.0315)
_ITERATIONS: Final = 5
_ADAM_SCALE: Final = 0.2
"""Root mean square of an AdamW update, which Muon's is brought to, so that one learning rate suits both."""


class Muon(Optimizer):
    """Momentum, orthogonalised by a Newton–Schulz iteration (Jordan 2024; scaled as in Liu et al. 2025, 2502.16982).

    Matrices of one size are orthogonalised together, so that a deep and narrow model costs few kernels.
    """

    def __init__(self, parameters: Iterable[Tensor], lr: float, momentum: float = 0.95, decay: float = 0.0) -> None:
        super().__init__(list(parameters), {"lr": lr, "momentum": momentum, "decay": decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One update of every matrix that has a gradient."""
        for group in self.param_groups:
            sizes: dict[tuple[int, int], list[Tensor]] = defaultdict(list)
            for parameter in group["params"]:
                if parameter.grad is not None:
                    sizes[tuple(parameter.shape)].append(parameter)
            for size, matrices in sizes.items():
                self._update(matrices, _ADAM_SCALE * max(size) ** 0.5, group)

    def _update(self, matrices: list[Tensor], scale: float, group: dict[str, Any]) -> None:
        gradients = [parameter.grad for parameter in matrices if parameter.grad is not None]
        momenta = [self._momentum(parameter) for parameter in matrices]
        torch._foreach_lerp_(momenta, gradients, 1 - group["momentum"])
        ahead = torch._foreach_lerp(gradients, momenta, group["momentum"])
        updates = orthogonalised(torch.stack(ahead)).unbind()
        if group["decay"]:
            torch._foreach_mul_(matrices, 1 - group["lr"] * group["decay"])
        torch._foreach_add_(matrices, [update.to(matrices[0].dtype) for update in updates], alpha=-group["lr"] * scale)

    def _momentum(self, parameter: Tensor) -> Tensor:
        state = self.state[parameter]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(parameter)
        return state["momentum"]  # type: ignore[no-any-return]


def orthogonalised(stack: Tensor) -> Tensor:
    """The nearest (semi-)orthogonal matrices, roughly: singular values of (n, rows, columns) go to about 1."""
    a, b, c = _NEWTON_SCHULZ
    x = stack.bfloat16() if stack.is_cuda else stack
    tall = x.shape[-2] > x.shape[-1]
    x = x.mT if tall else x
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(_ITERATIONS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x  # type: ignore[no-any-return]


def optimisers(network: Llama, lr: float, decay: float) -> tuple[Optimizer, Optimizer]:
    """Muon for the blocks' matrices, AdamW for the embedding and the normalisations."""
    inside = [p for p in network.model.layers.parameters() if p.dim() == 2]
    others = [p for p in network.parameters() if all(p is not matrix for matrix in inside)]
    fused = others[0].is_cuda
    return Muon(inside, lr, decay=decay), AdamW(others, lr, betas=(0.9, 0.95), weight_decay=0.0, fused=fused)


def share_of_rate(step: int, steps: int, warmup: int, cooldown: float) -> float:
    """Of the learning rate: up over ``warmup`` steps, level, and down to zero over the last ``cooldown`` of the run."""
    falling = max(1, round(steps * cooldown))
    return min((step + 1) / max(1, warmup), 1.0, (steps - step) / falling)
