"""Weight-only quantization: what is stored, what it costs, what is refused, and that ONNX Runtime reads it fused."""

from __future__ import annotations

import functools

import numpy as np
import pytest
from onnx import TensorProto, helper

import lwgraph
from lwgraph import ir, registry
from lwgraph.arrays import Array
from lwgraph.check import verify
from lwgraph.errors import UsageError
from lwgraph.measure import paired_latency
from lwgraph.passes.quantize.graph.raise_opset import OpsetError, raise_opset
from lwgraph.passes.quantize.grids.block_weights import Writer, encode
from lwgraph.passes.quantize.quantize_weights import QuantizeWeights
from lwgraph.rewrite import Context
from tests.passes.quantize.quantize_models import Net

ROWS, DEPTH, WIDTH = 24, 72, 96


def language(opset: int = 17, alpha: float = 1.0) -> ir.Model:
    """An embedding, a MatMul with a bias, and a Gemm with its weight transposed."""
    n = Net(opset)
    n.inputs.append(helper.make_tensor_value_info("ids", TensorProto.INT64, ["n"]))
    table = n.constant(
        n.rng.normal(size=(200, DEPTH)).astype(np.float32) * np.geomspace(1, 9, 200)[:, None].astype(np.float32),
        "table",
    )
    x = n.op("Gather", table, "ids", name="embed")
    weight = n.constant((n.rng.normal(size=(DEPTH, WIDTH)) / 8).astype(np.float32), "weight")
    h = n.op("Add", n.op("MatMul", x, weight, name="product"), n.constant(np.ones(WIDTH, np.float32), "bias"))
    return n.model(
        n.op(
            "Gemm",
            n.op("Relu", h),
            n.constant((n.rng.normal(size=(48, WIDTH)) / 8).astype(np.float32)),
            transB=1,
            name="head",
            alpha=alpha,
        )
    )


def sqnr(truth: Array, found: Array) -> float:
    """Signal over noise in dB."""
    return float(10 * np.log10(np.square(truth).mean() / np.square(truth - found).mean()))


def feeds(count: int = 4) -> list[dict[str, Array]]:
    rng = np.random.default_rng(3)
    return [{"ids": rng.integers(0, 200, ROWS)} for _ in range(count)]


def run(model: ir.Model, executor: str = "ort") -> list[Array]:
    call = registry.executor(executor).prepare(model)
    return [next(iter(call(f).values())) for f in feeds()]


def quantized(model: ir.Model, **options: object) -> tuple[ir.Model, Context]:
    made, context = ir.clone(model), Context(executor=registry.executor("ort"), data=feeds())  # type: ignore[arg-type]
    assert QuantizeWeights(**options).run(made, context) > 0  # type: ignore[arg-type]
    verify(made)
    return made, context


@pytest.mark.parametrize(
    ("bits", "block", "decibel", "size"), [(8, None, 38, 0.3), (8, 32, 38, 0.35), (4, None, 18, 0.3), (4, 16, 19, 0.31)]
)
def test_close_and_small(bits: int, block: int | None, decibel: float, size: float) -> None:
    model = language()
    made, _ = quantized(model, bits=bits, block_size=block)
    before, after = run(model), run(made)
    assert sqnr(np.concatenate(before), np.concatenate(after)) > decibel
    assert ir.size(made) < size * ir.size(model) + 4000
    floats = [
        v.const_value.size
        for v in made.graph.initializers.values()
        if v.dtype == ir.DataType.FLOAT and v.const_value is not None
    ]
    assert max(floats) <= 8 * WIDTH, "a weight is still stored as floats"


def test_a_matrix_is_not_taken_for_one_that_is_gone() -> None:
    """Python gives a new object the number of one that was freed; each layer reads its own integers all the same."""
    n = Net()
    model = n.model(n.op("Identity", n.input("x", [2, 2])))
    writer, node = Writer(model.graph), next(iter(model.graph))
    for number in range(1, 9):
        value = writer.dequantized(encode(np.full((2, 2), number, np.float32), 8, 0, None), f"w{number}", node)
        maker = value.producer()
        assert maker is not None
        integers, scale = (ir.constant(source) for source in maker.inputs)
        assert integers is not None and scale is not None
        np.testing.assert_allclose(integers * scale, number, rtol=1e-6)


def fuses_a_product(bits: int) -> bool:
    """Whether this ONNX Runtime multiplies with stored integers of so many bits at all."""
    n = Net(21)
    x, node = n.input("x", [4, 64]), n.op("Identity", n.constant(np.eye(64, dtype=np.float32), "w"))
    model = n.model(n.op("MatMul", x, node))
    reader = next(other for other in model.graph if other.op_type == "MatMul")
    stored = encode(np.eye(64, dtype=np.float32), bits, 32, None)
    reader.replace_input_with(1, Writer(model.graph).dequantized(stored, "w", reader))
    ran = registry.executor("ort").optimized(model).graph.node  # type: ignore[attr-defined]
    return any(node.op_type == "MatMulNBits" for node in ran)


@pytest.mark.parametrize("bits", [8, 4])
def test_onnx_runtime_fuses_every_product(bits: int) -> None:
    made, context = quantized(language(alpha=0.5), bits=bits)
    ran = [node.op_type for node in registry.executor("ort").optimized(made).graph.node]  # type: ignore[attr-defined]
    told = [w for w in context.warnings if "unpacks" in w]
    if bits == 8 and not fuses_a_product(bits):  # such as 1.23
        assert "MatMulNBits" not in ran and len(told) == 2
    else:
        assert ran.count("MatMulNBits") == 2 and "DequantizeLinear" not in ran and not told
    assert {n.name for n in made.graph if n.op_type in ("MatMul", "Gemm")} == {"product", "head"}


def test_a_product_that_stays_packed_nowhere_is_told() -> None:
    """With a bias of two axes ONNX Runtime makes a float Gemm of the product, and no rewrite of ours applies."""
    n = Net()
    x = n.input("x", [4, 64])
    weight = n.constant(n.rng.normal(size=(64, 64)).astype(np.float32))
    y = n.op("Add", n.op("MatMul", x, weight, name="product"), n.constant(np.ones((1, 64), np.float32)))
    model, context = n.model(n.op("Relu", y)), Context(executor=registry.executor("ort"))
    assert QuantizeWeights(minimum=1).run(model, context) == 1
    assert any("'product'" in w and "unpacks" in w for w in context.warnings)


def test_the_reference_runs_the_same_model() -> None:
    """The reference multiplies with the floats that the integers mean; ONNX Runtime rounds activations, too."""
    made, _ = quantized(language(), bits=4)
    assert sqnr(np.concatenate(run(made, "reference")), np.concatenate(run(made))) > 38


def test_alpha_goes_into_the_weight() -> None:
    model = language(alpha=0.25)
    made, _ = quantized(model, op_types_to_quantize=("Gemm",))
    assert sqnr(np.concatenate(run(model)), np.concatenate(run(made))) > 35


def test_gathered_rows_alone_are_scaled() -> None:
    made, _ = quantized(language(), op_types_to_quantize=("Gather",))
    assert [n.op_type for n in made.graph][:4] == ["Gather", "Gather", "Cast", "Mul"]
    assert sqnr(np.concatenate(run(language())), np.concatenate(run(made))) > 40


def test_the_inputs_decide_the_rounding() -> None:
    """On correlated inputs, second-order rounding loses less than half of what rounding to nearest does."""
    rng = np.random.default_rng(0)
    basis = rng.normal(size=(6, 64))
    x = rng.normal(size=(4000, 6)) @ basis + 0.05 * rng.normal(size=(4000, 64))
    weight, moments = rng.normal(size=(32, 64)), x.T @ x / len(x)
    for block in (0, 16):
        lost = [np.square(x @ (encode(weight, 4, block, m).real - weight.T)).sum() for m in (None, moments)]
        assert lost[1] < 0.5 * lost[0]


def test_a_shared_weight_is_stored_once() -> None:
    n = Net()
    x = n.input("x", ["n", 64])
    weight = n.constant(n.rng.normal(size=(64, 64)).astype(np.float32), "shared")
    model = n.model(n.op("MatMul", n.op("Relu", n.op("MatMul", x, weight, name="a")), weight, name="b"))
    assert QuantizeWeights(minimum=1).run(model, Context()) == 1
    verify(model)
    assert [v.dtype for v in model.graph.initializers.values()].count(ir.DataType.INT8) == 1


def test_what_is_refused_says_why() -> None:
    n = Net()
    x = n.input("x", [1, 64, 8, 8])
    c = n.conv(x, 64, 64, name="conv")
    flat = n.op("Flatten", n.op("GlobalAveragePool", c))
    tied = n.constant(n.rng.normal(size=(64, 64)).astype(np.float32), "tied")
    y = n.op("Add", n.op("MatMul", flat, tied, name="tied_product"), n.op("ReduceMean", tied, axes=[0], keepdims=0))
    model, context = n.model(n.op("Add", n.gemm(y, 64, 4, name="small"), n.constant(np.float32(1)))), Context()
    before = ir.fingerprint(model)
    assert QuantizeWeights().run(model, context) == 0
    assert ir.fingerprint(model) == before
    reasons = {s.place: s.reason for s in context.skipped}
    assert "slower than float" in reasons["conv"]
    assert "also read by" in reasons["tied_product"]
    assert "256 elements" in reasons["small"]


def test_an_excluded_node_stays() -> None:
    made, context = quantized(language(), nodes_to_exclude=("head",))
    assert not [u for n in made.graph if n.name == "head" for u in [n.inputs[1].producer()] if u is not None]  # type: ignore[union-attr]
    assert {s.place: s.reason for s in context.skipped}["head"] == "excluded by nodes_to_exclude"
    with pytest.raises(UsageError, match="'nobody'"):
        QuantizeWeights(nodes_to_exclude=("nobody",)).run(language(), Context())


@pytest.mark.parametrize(
    "options", [{"bits": 3}, {"block_size": 24}, {"op_types_to_quantize": ("Conv",)}, {"minimum": 0}]
)
def test_options_are_checked(options: dict[str, object]) -> None:
    with pytest.raises(UsageError, match="allowed"):
        QuantizeWeights(**options)  # type: ignore[arg-type]


def test_blocks_raise_the_opset_and_keep_the_outputs() -> None:
    model = language(13)
    made, _ = quantized(model, bits=4)
    assert made.graph.opset_imports[""] == 21 and made.ir_version >= 10
    raised = ir.clone(model)
    raise_opset(raised, 21)
    verify(raised)
    assert all(np.allclose(a, b, rtol=1e-5, atol=1e-5) for a, b in zip(run(model), run(raised), strict=True))
    assert quantized(model, bits=8)[0].graph.opset_imports[""] == 13


def test_an_opset_that_cannot_be_raised_is_a_reason() -> None:
    model, context = language(13), Context()
    model.graph.append(ir.make_node("Thing", [model.graph.inputs[0]], domain="org.example"))
    model.graph[-1].outputs[0].name = "thing"
    model.functions[("org.example", "Thing", "")] = ir.Function(
        "org.example", "Thing", graph=ir.Graph([], [], nodes=[], opset_imports={"": 13}), attributes=[]
    )
    with pytest.raises(OpsetError, match="functions"):
        raise_opset(ir.clone(model), 21)
    assert QuantizeWeights(bits=4).run(model, context) == 0
    assert any("export it" in s.reason or "inline" in s.reason for s in context.skipped)


def test_optimize_proves_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    """ONNX Runtime rounds activations of packed products by default; the proof runs it as the graph is written."""
    monkeypatch.setattr("lwgraph.optimizer.timing.paired_latency", functools.partial(paired_latency, rounds=2))
    result = lwgraph.optimize(ir.to_proto(language()), data=feeds(8), pipeline="quantize-weights", max_drop=1e9)
    assert [check.ok for check in result.report.checks] == [True, True]
