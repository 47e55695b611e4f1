"""Building ``deep``'s encoder on this machine, from a GGUF file of SmolLM2-135M-Instruct and, where there is one, what
fine-tuning changed.

    python -m predictors.length.deep.build --gguf FILE --out FOLDER [--exit 16] [--changes FILE]

The encoder is too large to ship; the changes (low-rank, a few MB) and the head are not. Needs the package onnx.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from predictors.length.deep.encoder import ABOUT, GRAPH, TOKENIZER
from predictors.length.deep.gguf import Floats, read_gguf
from predictors.length.deep.text import AFTER, BEFORE, ENDS, tokenizer_of
from predictors.length.deep.weights import layers_of

EXIT: Final = 16
_OPSET: Final = 17
BLOCK: Final = 32
_EPSILON: Final = 1e-5
_BASE: Final = 100_000.0


def build(gguf: Path, out: Path, leave: int = EXIT, changes: Path | None = None) -> None:
    """Write the encoder's folder: the first ``leave`` layers, changed, in int8.

    Raises:
        GgufError: the file is not the checkpoint.
        ValueError: the changes do not fit it.
    """
    file = read_gguf(gguf)
    layers = layers_of(file, leave)
    if changes is not None:
        with np.load(changes, allow_pickle=False) as stored:
            layers = changed(layers, dict(stored))
    write_encoder(file.tensor("token_embd.weight"), layers, tokenizer_of(file.metadata).to_str(), out)


def changed(layers: Sequence[Mapping[str, Floats]], changes: Mapping[str, NDArray[Any]]) -> list[dict[str, Floats]]:
    """Layers with low-rank products added: arrays ``layers-I-NAME_a`` (r, in) and ``layers-I-NAME_b`` (out, r), where I
    counts the last layers of ``layers`` upwards.

    Raises:
        ValueError: a product is not of its matrix's shape.
    """
    count = 1 + max((int(name.split("-")[1]) for name in changes if name.startswith("layers-")), default=-1)
    if count > len(layers):
        raise ValueError(f"{count} layers are changed, and the encoder has only {len(layers)}")
    found = [dict(layer) for layer in layers]
    for i, layer in enumerate(found[len(layers) - count :]):
        for name, value in layer.items():
            if f"layers-{i}-{name}_a" not in changes:
                continue
            a, b = (changes[f"layers-{i}-{name}_{side}"].astype(np.float32) for side in "ab")
            if (len(b), a.shape[1]) != value.shape:
                raise ValueError(f"the change of {name} is {(len(b), a.shape[1])}, and the matrix {value.shape}")
            layer[name] = value + b @ a
    return found


def in_blocks(matrix: Floats, block: int = BLOCK) -> tuple[NDArray[np.uint8], Floats]:
    """Eight bits a weight: codes (out, in / block, block) around 128, and a scale for each block.

    Activations are then quantised by blocks too, so the few very large ones that such models have spoil their own block
    alone; one scale a row for all of them (dynamic int8) leaves nothing of the differences between prompts.
    """
    blocks = matrix.reshape(len(matrix), -1, block)
    scales = np.maximum(np.abs(blocks).max(axis=2), 1e-12) / 127.0
    return (np.rint(blocks / scales[:, :, None]) + 128.0).astype(np.uint8), scales.astype(np.float32)


def write_encoder(
    embedding: Floats,
    layers: Sequence[Mapping[str, Floats]],
    tokenizer: str,
    out: Path,
    around: tuple[str, str] = (BEFORE, AFTER),
    width: int = 64,
) -> None:
    """Write graph, tokenizer and ``encoder.json``. Heads are ``width`` wide; three query heads share a key head."""
    out.mkdir(parents=True, exist_ok=True)
    (out / GRAPH).write_bytes(_graph(embedding, layers, width).SerializeToString())
    (out / TOKENIZER).write_text(tokenizer)
    digest = hashlib.sha256(b"".join((out / name).read_bytes() for name in sorted((GRAPH, TOKENIZER)))).hexdigest()
    about = {"before": around[0], "after": around[1], "ends": ENDS, "layers": len(layers), "sha256": digest}
    (out / ABOUT).write_text(json.dumps(about))


class _Nodes:
    """A graph under construction: ``add`` gives the name of a node's output, ``hold`` that of a constant."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def add(self, operator: str, *inputs: str, **attributes: Any) -> str:
        from onnx import helper

        name = f"{operator.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, list(inputs), [name], name=name, **attributes))
        return name

    def times(self, x: str, matrix: Floats) -> str:
        """``x @ matrix.T``, in blocks of eight bits."""
        codes, scales = in_blocks(matrix)
        return self.add(
            "MatMulNBits",
            x,
            self.hold(codes),
            self.hold(scales.reshape(-1)),
            domain="com.microsoft",
            K=matrix.shape[1],
            N=len(matrix),
            bits=8,
            block_size=BLOCK,
            accuracy_level=4,
        )

    def split(self, x: str, sizes: Sequence[int], axis: int) -> list[str]:
        from onnx import helper

        names = [f"split_{len(self.nodes)}_{i}" for i in range(len(sizes))]
        self.nodes.append(helper.make_node("Split", [x, self.hold(np.array(sizes))], names, axis=axis))
        return names

    def hold(self, value: NDArray[Any] | float) -> str:
        from onnx import numpy_helper

        array = np.float32(value) if isinstance(value, float) else value
        name = f"constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name


def _graph(embedding: Floats, layers: Sequence[Mapping[str, Floats]], width: int) -> Any:
    from onnx import TensorProto, helper

    g, size = _Nodes(), embedding.shape[1]
    heads = size // width
    keys = (len(layers[0]["qkv"]) // width - heads) // 2
    scales = np.maximum(np.abs(embedding).max(axis=1, keepdims=True), 1e-12).astype(np.float32) / 127
    codes = g.hold(np.rint(embedding / scales).astype(np.int8))
    whole = g.add("Cast", g.add("Gather", codes, "ids"), to=TensorProto.FLOAT)
    x = g.add("Mul", whole, g.add("Gather", g.hold(scales), "ids"))
    longest = g.add("Gather", g.add("Shape", "ids"), g.hold(np.array(1)))
    places = g.add("Range", g.hold(np.array(0)), longest, g.hold(np.array(1)))
    column = g.add("Unsqueeze", places, g.hold(np.array([1])))
    row = g.add("Unsqueeze", places, g.hold(np.array([0])))
    mask = g.add("Where", g.add("Greater", row, column), g.hold(-1e9), g.hold(0.0))
    speed = np.tile(_BASE ** (-np.arange(0, width, 2) / width), 2)[None].astype(np.float32)
    angle = g.add("Mul", g.add("Cast", column, to=TensorProto.FLOAT), g.hold(speed))
    turn = (g.add("Cos", angle), g.add("Sin", angle))
    for layer in layers:
        x = _layer(g, x, layer, mask, turn, (heads, keys, width))
    end = g.add("Unsqueeze", g.add("Sub", "lengths", g.hold(np.array(1))), g.hold(np.array([1])))
    last = g.add("GatherND", x, end, batch_dims=1)
    lengths = g.add("Unsqueeze", "lengths", g.hold(np.array([1])))
    real = g.add("Cast", g.add("Less", row, lengths), to=TensorProto.FLOAT)
    kept = g.add("Mul", x, g.add("Unsqueeze", real, g.hold(np.array([2]))))
    summed = g.add("ReduceSum", kept, g.hold(np.array([1])), keepdims=0)
    mean = g.add("Div", summed, g.add("Cast", lengths, to=TensorProto.FLOAT))
    g.nodes.append(helper.make_node("Concat", [last, mean], ["features"], axis=1))
    graph = helper.make_graph(
        g.nodes,
        "encoder",
        [
            helper.make_tensor_value_info("ids", TensorProto.INT64, ["rows", "tokens"]),
            helper.make_tensor_value_info("lengths", TensorProto.INT64, ["rows"]),
        ],
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["rows", 2 * size])],
        g.constants,
    )
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", _OPSET), helper.make_opsetid("com.microsoft", 1)], ir_version=9
    )


def _layer(
    g: _Nodes, x: str, layer: Mapping[str, Floats], mask: str, turn: tuple[str, str], shape: tuple[int, int, int]
) -> str:
    heads, keys, width = shape
    found = g.times(_norm(g, x, layer["norm_in"]), layer["qkv"])
    parts = g.split(found, [heads * width, keys * width, keys * width], 2)
    query, key, value = (
        g.add(
            "Transpose", g.add("Reshape", part, g.hold(np.array([0, 0, count, width]))), perm=[0, 2, 1, 3]
        )
        for part, count in zip(parts, (heads, keys, keys), strict=True)
    )  # fmt: skip
    query, key = (_turned(g, part, turn, width) for part in (query, key))
    which = g.hold(np.repeat(np.arange(keys), heads // keys))
    key, value = (g.add("Gather", part, which, axis=1) for part in (key, value))
    likeness = g.add("MatMul", query, g.add("Transpose", key, perm=[0, 1, 3, 2]))
    weight = g.add("Softmax", g.add("Add", g.add("Mul", likeness, g.hold(width**-0.5)), mask), axis=-1)
    seen = g.add("Transpose", g.add("MatMul", weight, value), perm=[0, 2, 1, 3])
    flat = g.add("Reshape", seen, g.hold(np.array([0, 0, heads * width])))
    x = g.add("Add", x, g.times(flat, layer["out"]))
    middle = len(layer["gate_up"]) // 2
    wide = g.times(_norm(g, x, layer["norm_mid"]), layer["gate_up"])
    gate, up = g.split(wide, [middle, middle], 2)
    gated = g.add("Mul", g.add("Mul", gate, g.add("Sigmoid", gate)), up)
    return g.add("Add", x, g.times(gated, layer["down"]))


def _norm(g: _Nodes, x: str, weight: Floats) -> str:
    square = g.add("ReduceMean", g.add("Mul", x, x), axes=[-1])
    return g.add("Mul", g.add("Div", x, g.add("Sqrt", g.add("Add", square, g.hold(_EPSILON)))), g.hold(weight))


def _turned(g: _Nodes, x: str, turn: tuple[str, str], width: int) -> str:
    first, second = g.split(x, [width // 2, width // 2], 3)
    other = g.add("Concat", g.add("Neg", second), first, axis=3)
    return g.add("Add", g.add("Mul", x, turn[0]), g.add("Mul", other, turn[1]))


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gguf", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--exit", type=int, default=EXIT)
    parser.add_argument("--changes", type=Path)
    asked = parser.parse_args()
    build(asked.gguf, asked.out, asked.exit, asked.changes)


if __name__ == "__main__":
    main()
