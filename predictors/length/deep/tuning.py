"""Fine-tuning ``deep``: the first layers of a small Llama in torch, heads on its last token, and ranking losses.

Rows of a batch are packed: tokens of all prompts lie one after the other and only the attention sees them padded, so
a batch of short prompts with one long one costs what its tokens cost.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

Matrix = NDArray[np.float64]
Rows = NDArray[np.intp]
HEADS, KEYS, WIDTH = 9, 3, 64
"""Query heads, key and value heads, and their size, in SmolLM2-135M."""
_EPSILON = 1e-5
_PIECES = ("qkv", "out", "gate_up", "down")


@dataclass(frozen=True, slots=True)
class TuneSettings:
    """How the encoder is tuned. ``losses`` weighs the terms of :func:`loss_of` by name."""

    template: str = "chat"
    frozen: int = 8
    """Layers from the bottom that stay as they are."""
    exit: int = 22
    """The layer whose states are read; those above are left out."""
    rank: int = 16
    """Of the low-rank changes to the other layers' weights; 0 to change the weights themselves."""
    pooling: str = "last"
    """``last``, or ``last_mean`` for the last token's state beside the mean of all."""
    losses: Mapping[str, float] = field(default_factory=lambda: {"mse": 1.0, "models": 1.0})
    learning_rate: float = 3e-4
    head_rate: float = 1e-3
    layer_decay: float = 1.0
    """Each layer learns this much slower than the one above it."""
    pull: float = 0.0
    """Decay towards the weights before tuning (ordinary weight decay, of a low-rank change), times the rate."""
    dropout: float = 0.1
    batch: int = 32
    epochs: int = 3
    warm_up: float = 0.1
    """Share of the steps over which the rate rises; it then falls to zero along a cosine."""


@dataclass(frozen=True, slots=True)
class Packed:
    """Where the tokens of a batch lie: ``slots`` (N,) in the padded (B * T), ``places`` (N,) in their prompts,
    ``last`` (B,) each prompt's last token, ``prompt`` (N,) whose token it is."""

    slots: Tensor
    places: Tensor
    last: Tensor
    prompt: Tensor
    shape: tuple[int, int]

    @classmethod
    def of(cls, lengths: Sequence[int], device: torch.device) -> Packed:
        """Of prompts of these lengths."""
        sizes = np.asarray(lengths)
        prompt = np.repeat(np.arange(len(sizes)), sizes)
        places = np.arange(len(prompt)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        longest = int(sizes.max())
        where = (prompt * longest + places, places, np.cumsum(sizes) - 1, prompt)
        tensors = [torch.as_tensor(values, device=device) for values in where]
        return cls(tensors[0], tensors[1], tensors[2], tensors[3], (len(sizes), longest))


class Layer(nn.Module):
    """One Llama layer; with ``rank`` its four matrices are changed by low-rank products only."""

    def __init__(self, weights: Mapping[str, Tensor], rank: int | None) -> None:
        super().__init__()
        self.rank = rank
        for name in ("norm_in", "norm_mid"):
            self.register_buffer(name, weights[name].clone())
        for name in _PIECES:
            value = weights[name].clone()
            if rank == 0:
                setattr(self, name, nn.Parameter(value))
                continue
            self.register_buffer(name, value)
            if rank:
                rows, columns = value.shape
                setattr(self, f"{name}_a", nn.Parameter(torch.randn(rank, columns, device=value.device) / rank))
                setattr(self, f"{name}_b", nn.Parameter(torch.zeros(rows, rank, device=value.device)))

    def matrix(self, name: str) -> Tensor:
        """One of the four, changes included."""
        value: Tensor = getattr(self, name)
        return value + getattr(self, f"{name}_b") @ getattr(self, f"{name}_a") if self.rank else value

    def forward(self, x: Tensor, packed: Packed, angles: tuple[Tensor, Tensor]) -> Tensor:
        """From states (N, 576) to states (N, 576)."""
        count, (rows, longest) = len(x), packed.shape
        found = F.linear(self._norm(x, "norm_in"), self.matrix("qkv")).view(count, HEADS + 2 * KEYS, WIDTH)
        turned = _turn(found[:, : HEADS + KEYS], angles)
        whole = torch.cat([turned.to(found.dtype), found[:, HEADS + KEYS :]], dim=1)
        padded = whole.new_zeros(rows * longest, HEADS + 2 * KEYS, WIDTH).index_copy(0, packed.slots, whole)
        heads = padded.view(rows, longest, HEADS + 2 * KEYS, WIDTH).transpose(1, 2)
        q, k, v = torch.split(heads, [HEADS, KEYS, KEYS], dim=1)
        k, v = (part.repeat_interleave(HEADS // KEYS, dim=1) for part in (k, v))
        seen = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        seen = seen.transpose(1, 2).reshape(rows * longest, HEADS * WIDTH)[packed.slots]
        x = x + F.linear(seen, self.matrix("out"))
        gate, up = F.linear(self._norm(x, "norm_mid"), self.matrix("gate_up")).chunk(2, dim=-1)
        return x + F.linear(F.silu(gate) * up, self.matrix("down"))

    def _norm(self, x: Tensor, name: str) -> Tensor:
        weight: Tensor = getattr(self, name)
        wide = x.float()
        return wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + _EPSILON) * weight


class Scorer(nn.Module):
    """Layers above the frozen ones, pooling and a linear head: (B, 1 + M) scores, the consensus' first."""

    mean: Tensor
    scale: Tensor

    def __init__(self, weights: Sequence[Mapping[str, Tensor]], settings: TuneSettings, outputs: int) -> None:
        super().__init__()
        self.settings = settings
        rank = settings.rank
        self.layers = nn.ModuleList(Layer(layer, rank) for layer in weights[settings.frozen : settings.exit])
        width = 576 * (2 if settings.pooling == "last_mean" else 1)
        device = weights[0]["norm_in"].device
        self.register_buffer("mean", torch.zeros(width, device=device))
        self.register_buffer("scale", torch.ones(width, device=device))
        self.head = nn.Linear(width, outputs, device=device)

    def pooled(self, x: Tensor, packed: Packed) -> Tensor:
        """Features (B, width) of packed states at the frozen layers' end."""
        angles = rotary(packed.places)
        for layer in self.layers:
            x = layer(x, packed, angles)
        last = x[packed.last].float()
        if self.settings.pooling == "last":
            return last
        count = torch.bincount(packed.prompt, minlength=len(last)).unsqueeze(1)
        mean = torch.zeros_like(last).index_add(0, packed.prompt, x.float()) / count
        return torch.cat([last, mean], dim=1)

    def forward(self, x: Tensor, packed: Packed) -> Tensor:
        standard = (self.pooled(x, packed) - self.mean) / self.scale
        return self.head(F.dropout(standard, self.settings.dropout, self.training))  # type: ignore[no-any-return]


def rotary(places: Tensor) -> tuple[Tensor, Tensor]:
    """Cosines and sines (N, 1, 64) of the rotary embedding, base 100,000."""
    speed = 100_000.0 ** (-torch.arange(0, WIDTH, 2, device=places.device, dtype=torch.float32) / WIDTH)
    angle = (places.float().unsqueeze(1) * speed).repeat(1, 2).unsqueeze(1)
    return angle.cos(), angle.sin()


def _turn(x: Tensor, angles: tuple[Tensor, Tensor]) -> Tensor:
    half = WIDTH // 2
    return x * angles[0] + torch.cat([-x[..., half:], x[..., :half]], dim=-1) * angles[1]


@dataclass(frozen=True, slots=True)
class Targets:
    """Of n prompts: ``place`` (n,) standardised, ``weight`` (n,), and each model's own ``ranks`` (n, M), NaN where it
    gave no answer."""

    place: Tensor
    weight: Tensor
    ranks: Tensor


def loss_of(scores: Tensor, targets: Targets, terms: Mapping[str, float]) -> Tensor:
    """The sum of the weighted terms, of a batch's scores (B, 1 + M).

    ``mse``: squared error of the consensus place. ``models``: that of every model's own rank, masked. ``listmle``:
    minus the log-likelihood of the batch's true order under Plackett-Luce. ``margin``: pairwise hinge, as far apart as
    the places are. ``pairs``: logistic loss of pairs within each model, the consensus score's against that
    model's.
    """
    total = scores.new_zeros(())
    for name, share in terms.items():
        total = total + share * _TERMS[name](scores, targets)
    return total


def _mse(scores: Tensor, targets: Targets) -> Tensor:
    return (targets.weight * (scores[:, 0] - targets.place).square()).mean()


def _models(scores: Tensor, targets: Targets) -> Tensor:
    known = ~targets.ranks.isnan()
    error = (scores[:, 1:] - targets.ranks.nan_to_num()).square() * known
    return error.sum() / known.sum().clamp(min=1)


def _listmle(scores: Tensor, targets: Targets) -> Tensor:
    ordered = scores[targets.place.argsort(descending=True), 0]
    return (ordered.flip(0).logcumsumexp(0).flip(0) - ordered).mean()


def _margin(scores: Tensor, targets: Targets) -> Tensor:
    gap = targets.place[:, None] - targets.place[None, :]
    weight = (targets.weight[:, None] * targets.weight[None, :]).sqrt() * (gap > 0)
    short = F.relu(gap - (scores[:, None, 0] - scores[None, :, 0]))
    return (weight * short).sum() / weight.sum().clamp(min=1.0)


def _pairs(scores: Tensor, targets: Targets) -> Tensor:
    gap = targets.ranks[:, None, :] - targets.ranks[None, :, :]
    weight = (gap > 0).float()
    apart = (scores[:, None, :1] - scores[None, :, :1]).expand_as(gap)
    return (F.softplus(-2.0 * apart) * weight).sum() / weight.sum().clamp(min=1.0)


_TERMS: Mapping[str, Callable[[Tensor, Targets], Tensor]] = {
    "mse": _mse,
    "models": _models,
    "listmle": _listmle,
    "margin": _margin,
    "pairs": _pairs,
}


def states_below(
    weights: Sequence[Mapping[str, Tensor]],
    embedding: Tensor,
    ids: Sequence[NDArray[np.integer]],
    layers: int,
    budget: int = 16_384,
    watch: Callable[[int, Rows, Tensor, Packed], None] | None = None,
) -> list[Tensor]:
    """States (tokens, 576) of each prompt after the first ``layers`` layers; ``watch`` sees each layer's, by batch."""
    device, found = embedding.device, [embedding[:0]] * len(ids)
    blocks = [Layer(layer, None) for layer in weights[:layers]]
    for rows in by_length([len(row) for row in ids], budget):
        packed = Packed.of([len(ids[i]) for i in rows], device)
        angles = rotary(packed.places)
        x = embedding[torch.as_tensor(np.concatenate([ids[i] for i in rows]).astype(np.int64), device=device)].float()
        with torch.no_grad():
            for depth, block in enumerate(blocks, 1):
                x = block(x, packed, angles)
                if watch is not None:
                    watch(depth, rows, x, packed)
        for i, part in zip(rows, torch.split(x, [len(ids[i]) for i in rows]), strict=True):
            found[i] = part.clone()
    return found


def by_length(lengths: Sequence[int], budget: int) -> Iterator[Rows]:
    """Batches of rows of like length, of at most about ``budget`` padded tokens."""
    order = np.argsort(lengths, kind="stable")[::-1]
    at = 0
    while at < len(order):
        count = max(1, budget // max(1, lengths[order[at]]))
        yield order[at : at + count].astype(np.intp)
        at += count


def tune(
    weights: Sequence[Mapping[str, Tensor]],
    below: Sequence[Tensor],
    targets: Targets,
    rows: Rows,
    start: tuple[Matrix, Matrix, Matrix, float],
    settings: TuneSettings,
    seed: int,
    after_epoch: Callable[[int, Scorer], None],
) -> Scorer:
    """Tune on ``rows``. ``below`` are the states at the frozen layers' end; ``start`` a linear head on standardised
    features of the untuned encoder (mean, scale, weights, bias): the consensus score begins there, the others at 0."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    device = below[0].device
    model = Scorer(weights, settings, 1 + targets.ranks.shape[1])
    mean, scale, coefficients, bias = start
    with torch.no_grad():
        model.mean.copy_(torch.as_tensor(mean))
        model.scale.copy_(torch.as_tensor(scale))
        model.head.weight.copy_(torch.as_tensor(coefficients).expand_as(model.head.weight))
        model.head.bias.fill_(bias)
    optimizer = torch.optim.AdamW(_groups(model, settings), betas=(0.9, 0.98), fused=device.type == "cuda")
    rates = [group["lr"] for group in optimizer.param_groups]
    steps = settings.epochs * (len(rows) // settings.batch)
    originals = [p.detach().clone() for p in model.layers.parameters()] if settings.pull and not settings.rank else []
    done = 0
    for epoch in range(1, settings.epochs + 1):
        model.train()
        deck = rng.permutation(rows)
        for part in np.array_split(deck, len(rows) // settings.batch):
            scale_now = _schedule(done / steps, settings.warm_up)
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * scale_now
            chosen = torch.as_tensor(part, device=device)
            picked = Targets(targets.place[chosen], targets.weight[chosen], targets.ranks[chosen])
            packed = Packed.of([len(below[i]) for i in part], device)
            with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
                scores = model(torch.cat([below[i] for i in part]).float(), packed)
            loss = loss_of(scores.float(), picked, settings.losses)
            optimizer.zero_grad(set_to_none=True)
            torch.autograd.backward(loss)
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            if originals:
                with torch.no_grad():
                    share = rates[0] * scale_now * settings.pull
                    torch._foreach_lerp_(list(model.layers.parameters()), originals, share)
            done += 1
        after_epoch(epoch, model)
    return model


def score(model: Scorer, below: Sequence[Tensor], rows: Rows, budget: int = 32_768) -> NDArray[np.float32]:
    """Scores (len(rows), 1 + M) of prompts."""
    model.eval()
    found = np.empty((len(rows), model.head.out_features), dtype=np.float32)
    device = below[0].device
    for part in by_length([len(below[i]) for i in rows], budget):
        packed = Packed.of([len(below[i]) for i in rows[part]], device)
        with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            x = torch.cat([below[i] for i in rows[part]]).float()
            found[part] = model(x, packed).float().cpu().numpy()
    return found


def _groups(model: Scorer, settings: TuneSettings) -> list[dict[str, object]]:
    groups: list[dict[str, object]] = []
    for depth, layer in enumerate(reversed(model.layers)):
        own = list(layer.parameters())
        decay = settings.pull if settings.rank else 0.0
        rate = settings.learning_rate * settings.layer_decay**depth
        groups.append({"params": own, "lr": rate, "weight_decay": decay})
    groups.append({"params": list(model.head.parameters()), "lr": settings.head_rate, "weight_decay": 0.01})
    return groups


def _schedule(done: float, warm_up: float) -> float:
    return done / warm_up if done < warm_up else 0.5 * (1 + math.cos(math.pi * (done - warm_up) / (1 - warm_up)))
