"""A Llama in plain PyTorch, its parameters named as vLLM and transformers read them, and greedy answers from it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from envs.ladder.shapes import CONTEXT, HEAD_SIZE, Shape

EPSILON: Final = 1e-5
ROPE_THETA: Final = 10_000.0
_INITIAL_STD = 0.02


class _Attention(nn.Module):
    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.q_proj = nn.Linear(hidden, hidden, bias=False)
        self.k_proj = nn.Linear(hidden, hidden, bias=False)
        self.v_proj = nn.Linear(hidden, hidden, bias=False)
        self.o_proj = nn.Linear(hidden, hidden, bias=False)

    def forward(self, x: Tensor, turn: Tensor, cache: _LayerCache | None) -> Tensor:
        rows, length, hidden = x.shape
        query, key, value = (
            project(x).view(rows, length, hidden // HEAD_SIZE, HEAD_SIZE).transpose(1, 2)
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        query, key = _turned(query, turn), _turned(key, turn)
        if cache is None:
            mixed = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        else:
            keys, values, seen = cache.add(key, value)
            mixed = functional.scaled_dot_product_attention(query, keys, values, attn_mask=seen)
        return self.o_proj(mixed.transpose(1, 2).reshape(rows, length, hidden))  # type: ignore[no-any-return]


class _Gated(nn.Module):
    def __init__(self, hidden: int, intermediate: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(hidden, intermediate, bias=False)
        self.up_proj = nn.Linear(hidden, intermediate, bias=False)
        self.down_proj = nn.Linear(intermediate, hidden, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(functional.silu(self.gate_proj(x)) * self.up_proj(x))  # type: ignore[no-any-return]


class Block(nn.Module):
    """One layer: attention and a gated network, each after a normalisation and around a residual."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.input_layernorm = nn.RMSNorm(shape.hidden, eps=EPSILON)
        self.self_attn = _Attention(shape.hidden)
        self.post_attention_layernorm = nn.RMSNorm(shape.hidden, eps=EPSILON)
        self.mlp = _Gated(shape.hidden, shape.intermediate)

    def forward(self, x: Tensor, turn: Tensor, cache: _LayerCache | None = None) -> Tensor:
        """``x``: (rows, length, hidden); ``turn``: rotations of the positions, (…, length, 2, head size)."""
        x = x + self.self_attn(self.input_layernorm(x), turn, cache)
        return x + self.mlp(self.post_attention_layernorm(x))  # type: ignore[no-any-return]


class _Trunk(nn.Module):
    def __init__(self, shape: Shape, vocabulary: int) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(vocabulary, shape.hidden)
        self.layers = nn.ModuleList(Block(shape) for _ in range(shape.layers))
        self.norm = nn.RMSNorm(shape.hidden, eps=EPSILON)


class Llama(nn.Module):
    """The model. The output layer is the embedding's (tied), so a checkpoint holds no ``lm_head``."""

    rotations: Tensor

    def __init__(self, shape: Shape, vocabulary: int) -> None:
        super().__init__()
        self.shape = shape
        self.model = _Trunk(shape, vocabulary)
        self.register_buffer("rotations", _rotations(CONTEXT), persistent=False)
        self._draw()

    def _draw(self) -> None:
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2:
                late = name.endswith(("o_proj.weight", "down_proj.weight"))
                nn.init.normal_(parameter, std=_INITIAL_STD / (2 * self.shape.layers) ** 0.5 if late else _INITIAL_STD)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits (rows, length, vocabulary) of the token after each of ``tokens`` (rows, length)."""
        x = self.model.embed_tokens(tokens)
        turn = self.rotations[: tokens.shape[1]]
        for block in self.model.layers:
            x = block(x, turn)
        return self._logits(x)

    def _logits(self, x: Tensor) -> Tensor:
        return functional.linear(self.model.norm(x), self.model.embed_tokens.weight)

    @torch.inference_mode()
    def answers(self, prompts: Sequence[Sequence[int]], end: int, most: int) -> list[list[int]]:
        """Greedy continuations, without the token ``end`` that stops them, of at most ``most`` tokens.

        All prompts run together; those of like length are best asked together.
        """
        device = self.model.embed_tokens.weight.device
        lengths = torch.tensor([len(prompt) for prompt in prompts], device=device)
        longest = int(lengths.max())
        most = min(most, CONTEXT - longest)
        tokens = torch.zeros(len(prompts), longest, dtype=torch.long, device=device)
        for row, prompt in enumerate(prompts):
            tokens[row, : len(prompt)] = torch.tensor(prompt, device=device)
        caches = [_LayerCache(len(prompts), longest + most, self.shape, device) for _ in self.model.layers]
        places = torch.arange(longest, device=device).expand(len(prompts), -1)
        final = (lengths - 1)[:, None, None].expand(-1, 1, self.shape.hidden)
        following = self._logits(self._step(tokens, places, caches).gather(1, final))[:, 0].argmax(-1)
        written, done = [following], following == end
        for offset in range(most - 1):
            if bool(done.all()):
                break
            x = self._step(following[:, None], (lengths + offset)[:, None], caches)
            following = self._logits(x)[:, 0].argmax(-1).where(~done, end)
            written.append(following)
            done = done | (following == end)
        rows: list[list[int]] = torch.stack(written, 1).tolist()
        return [row[: row.index(end)] if end in row else row for row in rows]

    def _step(self, tokens: Tensor, places: Tensor, caches: Sequence[_LayerCache]) -> Tensor:
        x = self.model.embed_tokens(tokens)
        turn = self.rotations[places][:, None]
        for block, cache in zip(self.model.layers, caches, strict=True):
            cache.places = places
            x = block(x, turn, cache)
        return x  # type: ignore[no-any-return]


class _LayerCache:
    """Keys and values of one layer, a row a prompt; each row is filled up to its own length."""

    def __init__(self, rows: int, length: int, shape: Shape, device: torch.device) -> None:
        self.keys = torch.zeros(rows, length, shape.heads, HEAD_SIZE, device=device)
        self.values = torch.zeros_like(self.keys)
        self.places = torch.zeros(rows, 1, dtype=torch.long, device=device)
        self._row = torch.arange(rows, device=device)[:, None]
        self._all = torch.arange(length, device=device)

    def add(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Store the keys and values (rows, heads, new, head size) of ``places``; all there are, and who sees which."""
        self.keys[self._row, self.places] = key.transpose(1, 2).to(self.keys.dtype)
        self.values[self._row, self.places] = value.transpose(1, 2).to(self.values.dtype)
        seen = self._all <= self.places[:, None, :, None]
        keys, values = self.keys.transpose(1, 2).to(key.dtype), self.values.transpose(1, 2).to(value.dtype)
        return keys, values, seen


def _rotations(length: int) -> Tensor:
    """Cosines and sines of rotary positions: (length, 2, head size), in halves as Llama has them."""
    rates = ROPE_THETA ** (-torch.arange(0, HEAD_SIZE, 2, dtype=torch.float32) / HEAD_SIZE)
    angles = torch.arange(length, dtype=torch.float32)[:, None] * rates
    return torch.stack((angles.cos().repeat(1, 2), angles.sin().repeat(1, 2)), 1)


def _turned(x: Tensor, turn: Tensor) -> Tensor:
    cosine, sine = turn[..., 0, :].to(x.dtype), turn[..., 1, :].to(x.dtype)
    first, second = x.chunk(2, -1)
    return x * cosine + torch.cat((-second, first), -1) * sine
