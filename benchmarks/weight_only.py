"""What ONNX Runtime makes of weights that are stored in few bits: python -m benchmarks.weight_only [--write].

One layer at a time, float against DequantizeLinear before the layer, interleaved, one thread. This is why
`quantize-weights` takes MatMul, Gemm and embeddings, and refuses convolutions and recurrent layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click
import numpy as np
from onnx import TensorProto, helper, numpy_helper

from benchmarks import tables
from benchmarks.quantize_table import PAGE
from lwgraph import ir, registry
from lwgraph.arrays import Array
from lwgraph.measure import paired_latency
from lwgraph.passes.quantize.quantize_weights import QuantizeWeights
from lwgraph.rewrite import Context

RNG = np.random.default_rng(0)
SECONDS = 1.5  # for each comparison


def model(
    nodes: Sequence[Any], x: tuple[int, ...], constants: dict[str, Any], kind: int = TensorProto.FLOAT
) -> ir.Model:
    """A model from input "x" to output "y"; constants are arrays or TensorProtos."""
    made = [c if isinstance(c, TensorProto) else numpy_helper.from_array(c, name) for name, c in constants.items()]
    graph = helper.make_graph(
        list(nodes),
        "layer",
        [helper.make_tensor_value_info("x", kind, list(x))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        made,
    )
    return ir.load(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10))


def unpacked(node: Any, x: tuple[int, ...], weights: dict[str, Array], axis: int, bits: int) -> ir.Model:
    """The layer with DequantizeLinear before each of its weights, one scale per index of `axis`."""
    constants: dict[str, Any] = {}
    nodes = []
    limit = 2 ** (bits - 1) - 1
    for name, weight in weights.items():
        others = tuple(i for i in range(weight.ndim) if i != axis)
        scale = (np.abs(weight).max(axis=others) / limit).astype(np.float32)
        spread = scale.reshape([-1 if i == axis else 1 for i in range(weight.ndim)])
        integers = np.rint(weight / spread).astype(np.int8)
        kind = TensorProto.INT8 if bits == 8 else TensorProto.INT4
        constants[f"{name}_q"] = helper.make_tensor(f"{name}_q", kind, weight.shape, integers.reshape(-1).tolist())
        constants[f"{name}_s"] = scale
        nodes.append(helper.make_node("DequantizeLinear", [f"{name}_q", f"{name}_s"], [name], axis=axis))
    return model([*nodes, node], x, constants)


def random(*shape: int) -> Array:
    """Normal weights of a layer's usual size."""
    return (RNG.standard_normal(shape) * 0.05).astype(np.float32)


def layers() -> list[tuple[str, ir.Model, list[tuple[str, ir.Model]], dict[str, Array]]]:
    """(what, float model, [(how, packed model)], feeds)."""
    found = []
    for channels, side in ((64, 56), (256, 14)):
        x, weight = (1, channels, side, side), random(channels, channels, 3, 3)
        node = helper.make_node("Conv", ["x", "w"], ["y"], pads=[1] * 4)
        packed = [(f"int{b}", unpacked(node, x, {"w": weight}, 0, b)) for b in (8, 4)]
        found.append(
            (
                f"Conv 3x3, {channels} channels, {side}x{side}",
                model([node], x, {"w": weight}),
                packed,
                {"x": random(*x)},
            )
        )
    steps = (32, 1, 256)
    weights = {"w": random(1, 1024, 256), "r": random(1, 1024, 256)}
    node = helper.make_node("LSTM", ["x", "w", "r"], ["y"], hidden_size=256)
    found.append(
        (
            "LSTM, 256 units, 32 steps",
            model([node], steps, dict(weights)),
            [("int8", unpacked(node, steps, weights, 1, 8))],
            {"x": random(*steps)},
        )
    )
    for rows in (1, 64):
        weight = random(1024, 1024)
        dense = model([helper.make_node("MatMul", ["x", "w"], ["y"])], (rows, 1024), {"w": weight})
        found.append(
            (
                f"MatMul 1024x1024, {rows} row{'s' * (rows > 1)}",
                dense,
                [("int8", by_pass(dense, 8)), ("int4 in blocks of 32", by_pass(dense, 4))],
                {"x": random(rows, 1024)},
            )
        )
    table = random(20000, 256)
    gather = model([helper.make_node("Gather", ["w", "x"], ["y"])], (64,), {"w": table}, TensorProto.INT64)
    found.append(
        ("Gather, 64 of 20,000 rows", gather, [("int8", by_pass(gather, 8))], {"x": RNG.integers(0, 20000, 64)})
    )
    return found


def by_pass(dense: ir.Model, bits: int) -> ir.Model:
    """As `quantize-weights` writes it."""
    made = ir.clone(dense)
    assert QuantizeWeights(bits=bits).run(made, Context(executor=registry.executor("ort", threads=1)))
    return made


@click.command()
@click.option("--write", is_flag=True, help="Into benchmarks/QUANTIZE.md.")
def main(write: bool) -> None:
    """Measure and print the table."""
    executor, rows = registry.executor("ort", threads=1), []
    for what, dense, packed, feeds in layers():
        runs = {"float": executor.prepare(dense)} | {how: executor.prepare(m) for how, m in packed}
        times = paired_latency(runs, [feeds], seconds=SECONDS)
        for how, quantized in packed:
            rows.append(
                [
                    what,
                    how,
                    f"{1e3 * times.timing('float').minimum:.3f}",
                    f"{1e3 * times.timing(how).minimum:.3f}",
                    f"{times.speedup(how).ratio:.2f}",
                    f"{ir.size(quantized) / ir.size(dense):.2f}",
                ]
            )
    text = tables.table(["layer", "weights", "float, ms", "packed, ms", "speed-up", "size"], rows)
    click.echo(text)
    if write:
        tables.write("weights", f"{tables.conditions()}\n\n{text}", PAGE)


if __name__ == "__main__":
    main()
