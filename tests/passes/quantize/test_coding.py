"""Weights as codes: what is stored, that decoding is exact, that the runtime folds it, and what is refused."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

from lwgraph import ir, registry
from lwgraph.arrays import Array
from lwgraph.check import verify
from lwgraph.errors import UsageError
from lwgraph.executor import ShowsGraph, offered
from lwgraph.layers.coded_weights import find_coded
from lwgraph.passes.quantize import coding
from lwgraph.passes.quantize.power_of_two import PowerOfTwo
from lwgraph.passes.quantize.quantize import Quantize
from lwgraph.passes.quantize.share_weights import ShareWeights
from lwgraph.report.words import codes
from lwgraph.rewrite import Context, Pass
from lwgraph.views.written import layers
from tests.passes.quantize.quantize_models import Net

ORT = registry.executor("ort")


def network(opset: int = 17) -> ir.Model:
    """All kinds of layers whose weights are coded: Conv (plain and in groups), ConvTranspose, Gemm, MatMul."""
    n = Net(opset)

    def weight(*shape: int) -> str:
        return n.constant((n.rng.normal(size=shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32))

    def ones(count: int) -> str:
        return n.constant(np.ones(count, np.float32))

    x = n.input("x", [2, 8, 6, 6])
    h = n.op("Relu", n.op("Conv", x, weight(24, 8, 3, 3), ones(24), pads=[1] * 4, name="conv"))
    h = n.op("Relu", n.op("Conv", h, weight(24, 6, 3, 3), ones(24), group=4, name="grouped"))
    h = n.op("Relu", n.op("ConvTranspose", h, weight(24, 12, 2, 2), ones(12), strides=[2, 2], name="up"))
    h = n.op("Flatten", n.op("GlobalAveragePool", h))
    h = n.op("Relu", n.op("Gemm", h, weight(96, 12), ones(96), transB=1, alpha=0.5, name="gemm"))
    h = n.op("Gemm", h, weight(96, 40), ones(40), name="turned")
    return n.model(n.op("Add", n.op("MatMul", h, weight(40, 33), name="product"), ones(33)))


def feeds(count: int = 24) -> list[dict[str, Array]]:
    rng = np.random.default_rng(1)
    return [{"x": rng.standard_normal((2, 8, 6, 6)).astype(np.float32)} for _ in range(count)]


def recurrent() -> ir.Model:
    """An embedding into an LSTM and a GRU."""
    n = Net(17)
    n.inputs.append(helper.make_tensor_value_info("ids", TensorProto.INT64, [5, 1]))

    def weight(*shape: int) -> Any:
        return n.constant((n.rng.normal(size=shape) / 4).astype(np.float32))

    x = n.op("Gather", weight(50, 16), "ids", name="embed")
    h = n.op("LSTM", x, weight(1, 64, 16), weight(1, 64, 16), hidden_size=16, name="lstm")
    h = n.op("Squeeze", h, n.constant(np.array([1])))
    h = n.op("GRU", h, weight(1, 48, 16), weight(1, 48, 16), hidden_size=16, name="gru")
    return n.model(h)


def coded(model: ir.Model, step: Pass, context: Context | None = None) -> ir.Model:
    made = ir.clone(model)
    assert step.run(made, context or Context(executor=ORT)) > 0
    verify(made)
    return made


def decoded_by(
    executor: str, model: ir.Model, values: list[ir.Value], fed: dict[str, Array] | None = None
) -> list[Array]:
    """What an executor makes of decoders, as outputs of a model of their own."""
    copy = ir.clone(model)
    named = {each.name: each for node in copy.graph for each in node.outputs}
    copy.graph.outputs.clear()
    copy.graph.outputs.extend(named[value.name] for value in values)
    for value in list(copy.graph.inputs):
        assert value.name in ("x", "ids")
    found = registry.executor(executor).prepare(copy)(fed or feeds(1)[0])
    return [found[str(value.name)] for value in values]


def optimized(model: ir.Model) -> list[Any]:
    able = offered(ORT, ShowsGraph)
    assert able is not None
    return list(able.optimized(model).graph.node)


PASSES = [
    PowerOfTwo(),
    PowerOfTwo(bits=3),
    PowerOfTwo(bits=5),
    PowerOfTwo(bits=6, terms=1),
    ShareWeights(),
    ShareWeights(bits=2),
    ShareWeights(bits=3, per="channel", minimum=1),
    ShareWeights(bits=8),
    ShareWeights(bits=2, per="block", block_size=6),
]


@pytest.mark.parametrize(
    ("step", "opset"),
    [(step, 17) for step in PASSES] + [(PASSES[0], 11), (PASSES[2], 18), (PASSES[4], 21), (PASSES[6], 21)],
    ids=repr,
)
def test_decoding_is_exact_and_folded(step: PowerOfTwo | ShareWeights, opset: int) -> None:
    """The same bits from NumPy, the reference and ONNX Runtime; nothing of the decoder is left when it has loaded."""
    made = coded(network(opset), step)
    found = list(find_coded(made.graph))
    assert found and all(each.bits == step.bits for _, each in found)
    values = [value for value, _ in found]
    for executor in ("reference", "ort"):
        for array, (_, each) in zip(decoded_by(executor, made, values), found, strict=True):
            np.testing.assert_array_equal(array, each.decode())
            assert array.dtype == each.decode().dtype == np.float32
    left = {node.op_type for node in optimized(made)}
    assert not left & {"BitShift", "BitwiseAnd", "Mod", "Gather", "GatherElements", "Cast"}
    counts = [len(np.unique(each.tables)) for _, each in found]
    assert max(counts) <= (1 << step.bits) * max(len(each.tables) for _, each in found)


@pytest.mark.parametrize("step", PASSES[::2], ids=repr)
def test_each_weight_has_a_level_of_its_table(step: PowerOfTwo | ShareWeights) -> None:
    made = coded(network(), step)
    for _, each in find_coded(made.graph):
        rows = each.codes.reshape(len(each.tables), -1)
        assert rows.max() < each.tables.shape[1] <= 1 << step.bits
        if isinstance(step, PowerOfTwo):
            levels = np.abs(each.tables[each.tables != 0])
            sums = {1: levels, 2: levels}[1 if step.terms == 1 or step.bits <= 4 else 2]
            terms = [bin(int(level * 2.0**40)).count("1") for level in sums]
            assert max(terms) == (1 if step.terms == 1 or step.bits <= 4 else 2)


@pytest.mark.parametrize("step", [PowerOfTwo(), ShareWeights()], ids=repr)
def test_data_halve_the_error(step: PowerOfTwo | ShareWeights) -> None:
    """Rounding by the inputs' moments loses less than half of what each weight by itself loses."""
    model, unseen = network(), feeds(40)[30:]
    original = ORT.prepare(model)
    blind = coded(model, step)
    seen = coded(model, step, Context(executor=ORT, data=feeds(30)))

    def error(made: ir.Model) -> float:
        run = ORT.prepare(made)
        pairs = [(next(iter(original(f).values())), next(iter(run(f).values()))) for f in unseen]
        return float(sum(np.square(a - b).sum() for a, b in pairs))

    assert error(seen) < 0.5 * error(blind)


def test_recurrent_layers_and_embeddings() -> None:
    made = coded(recurrent(), ShareWeights())
    assert len(list(find_coded(made.graph))) == 5
    ids = np.arange(5)[:, None]
    expected = ORT.prepare(recurrent())({"ids": ids})
    for executor in ("ort", "reference"):
        found = registry.executor(executor).prepare(made)({"ids": ids})
        for a, b in zip(expected.values(), found.values(), strict=True):
            assert np.abs(a - b).max() < 0.2 * np.abs(a).max()
    assert not {n.op_type for n in optimized(made)} & {"BitShift", "Mod", "GatherElements", "Mul"}


def test_a_weight_that_two_layers_share_is_stored_once() -> None:
    n = Net(17)
    weight = n.constant((n.rng.normal(size=(32, 32)) / 6).astype(np.float32))
    h = n.op("MatMul", n.op("Relu", n.op("MatMul", n.input("x", [3, 32]), weight, name="a")), weight, name="b")
    made = coded(n.model(h), ShareWeights())
    ((value, _),) = find_coded(made.graph)
    assert {use.node.name for use in value.uses()} == {"a", "b"}


@pytest.mark.parametrize("opset", [11, 17, 21])
@pytest.mark.parametrize("step", [PowerOfTwo(), ShareWeights(bits=3), ShareWeights(bits=2, per="channel")], ids=repr)
def test_weights_with_rows_of_one_shape_share_a_decoder(step: PowerOfTwo | ShareWeights, opset: int) -> None:
    """So loading takes a few nodes for all of them; each is read back as what was stored, whole networks compute it."""
    n = Net(opset)
    h = n.input("x", [2, 16, 5, 5])
    for i in range(2):
        h = n.op("Relu", n.conv(h, 16, 16, name=f"conv{i}"))
    h = n.op("Flatten", n.op("GlobalAveragePool", h))
    for i in range(2):
        h = n.op("MatMul", h, n.constant((n.rng.normal(size=(16, 16)) / 4).astype(np.float32)), name=f"product{i}")
    made = coded(n.model(h), replace(step, minimum=1))
    operators = [node.op_type for node in made.graph]
    found = dict(find_coded(made.graph))
    assert operators.count("GatherElements") == operators.count("Split") == 2 and len(found) == 4
    fed = {"x": np.ones((2, 16, 5, 5), np.float32)}
    for executor in ("reference", "ort"):
        for array, each in zip(decoded_by(executor, made, list(found), fed), found.values(), strict=True):
            np.testing.assert_array_equal(array, each.decode())
    assert not {node.op_type for node in optimized(made)} & {"BitShift", "GatherElements", "Split", "Concat"}


def test_other_lookups_are_no_decoders() -> None:
    """Tables of a size that is no power of two, codes that lie outside, a Reshape that does not fit, other axes."""
    n = Net(17)
    x = n.input("x", [4, 8])
    table, odd = n.constant(np.eye(4, dtype=np.float32)), n.constant(np.ones((4, 5), np.float32))
    bytes_ = n.constant(np.full((4, 8), 3, np.uint8))
    far = n.op("Cast", n.constant(np.full((4, 8), 1000, np.int64)), to=TensorProto.INT32)
    codes = n.op("Cast", bytes_, to=TensorProto.INT32)
    bent = n.op("Reshape", bytes_, n.constant(np.array([0, -1])))
    for data, index, axis in [(odd, codes, 1), (table, far, 1), (table, codes, 0), (table, "i", 1)]:
        n.op("GatherElements", data, index, axis=axis)
    n.op("GatherElements", table, n.op("Cast", bent, to=TensorProto.INT32), axis=1)
    assert not list(find_coded(n.model(x).graph))


@pytest.mark.parametrize("bits", [3, 5, 6])
def test_no_bit_is_wasted(bits: int) -> None:
    n = Net(17)
    made = coded(n.model(n.gemm(n.input("x", [1, 64]), 64, 40)), ShareWeights(bits=bits))
    stored = [value for name, value in made.graph.initializers.items() if "/codes" in str(name)]
    assert sum(value.const_value.nbytes for value in stored if value.const_value) == 64 * 40 * bits // 8


def test_layers_of_different_widths() -> None:
    """Each layer has its own bits, a recurrent one both of its weights; a shared weight those of its first reader."""
    step = ShareWeights(layer_bits=(("conv", 2), ("product", 6)))
    assert Pass.parse(str(step)) == step and "layer_bits=[[conv,2],[product,6]]" in str(step)
    made = coded(network(), step, Context(executor=ORT, data=feeds()))
    assert bits_by_layer(made) == {"conv": [2], "grouped": [4], "up": [4], "gemm": [4], "turned": [4], "product": [6]}
    made = coded(recurrent(), PowerOfTwo(layer_bits=(("lstm", 6), ("embed", 3))))
    assert bits_by_layer(made) == {"embed": [3], "lstm": [6, 6], "gru": [4, 4]}


def bits_by_layer(model: ir.Model) -> dict[str, list[int]]:
    """Of the layers that read codes, the bits of each."""
    found: dict[str, list[int]] = {}
    for value, each in find_coded(model.graph):
        found.setdefault(str(value.uses()[0].node.name), []).append(each.bits)
    return found


@pytest.mark.parametrize(
    ("layer", "bits", "said"),
    [
        ("conv", 9, "allowed: 2 to 8 for 'conv'"),
        ("konv", 3, "'konv', which the model does not have; did you mean 'conv'"),
    ],
)
def test_bits_of_layers_are_refused(layer: str, bits: int, said: str) -> None:
    with pytest.raises(UsageError, match=re.escape(said)):
        ShareWeights(layer_bits=((layer, bits),)).run(network(), Context(executor=ORT))


def test_integers_of_layers_of_different_widths_take_as_many_bits_as_each_has_values() -> None:
    made = coded(network(), ShareWeights(layer_bits=(("conv", 2), ("product", 6))))
    Quantize(keep="none").run(made, Context(executor=ORT, data=feeds()))
    widths = sorted(each.bits for _, each in find_coded(made.graph))
    assert widths[0] == 2 and 6 not in widths[:-1] and len(widths) >= 4


def test_files_are_small() -> None:
    """Four bits a weight, and little beside them."""
    n = Net(17)
    h = n.input("x", [1, 64, 8, 8])
    for i in range(3):
        h = n.op("Relu", n.conv(h, 64, 64, name=f"conv{i}"))
    model = n.model(h)
    for step in (PowerOfTwo(), ShareWeights()):
        assert ir.size(coded(model, step)) < 0.14 * ir.size(model)


@pytest.mark.parametrize("step", [PowerOfTwo(), PowerOfTwo(bits=5), ShareWeights()], ids=repr)
@pytest.mark.parametrize("quantize", [Quantize(keep="none"), Quantize(activations="dynamic", keep="none")], ids=str)
def test_integers_on_top_keep_to_codes(step: PowerOfTwo | ShareWeights, quantize: Quantize) -> None:
    """Layers compute in integers and their weights stay codes; powers of two lie on the grids exactly."""
    n = Net(17)
    h = n.op("Relu", n.conv(n.input("x", [2, 8, 6, 6]), 8, 96, name="conv"))
    h = n.op("Flatten", n.op("GlobalAveragePool", h))
    model = n.model(n.gemm(n.op("Relu", n.gemm(h, 96, 80)), 80, 96))
    context = Context(executor=ORT, data=feeds(16))
    made = coded(coded(model, step, context), quantize, context)
    found = [each for _, each in find_coded(made.graph) if each.tables.dtype.kind in "iu"]
    static = quantize.activations == "static"
    assert len(found) == (3 if static else 2)
    left = {node.op_type for node in optimized(made)}
    assert not left & {"BitShift", "Mod", "GatherElements", "Gemm", "MatMul", *(["Conv"] if static else [])}
    assert ir.size(made) < 0.9 * ir.size(coded(model, quantize, context))
    for each in found if isinstance(step, PowerOfTwo) and static else []:
        ones = {bin(abs(int(level))).count("1") for level in each.tables.reshape(-1)}
        assert len(each.tables) == 1 and ones <= ({0, 1} if step.bits <= 4 else {0, 1, 2})
    verify(made)


def test_the_report_reads_codes_and_shifts_from_the_file() -> None:
    found = {layer.name: layer for layer in layers(coded(network(), PowerOfTwo(bits=5)))}
    assert found["conv"].codes == "5-bit sums of two powers of two" and found["conv"].shifts == 2
    assert found["turned"].macs == 2 * 96 * 40
    text = codes(list(found.values()))
    work = sum(layer.macs or 0 for layer in found.values())
    assert text.startswith("The weights of 6 layers are stored as 5-bit sums of two powers of two.")
    assert text.endswith(f"{work:,} of {work:,} multiply-adds are {2 * work:,} shifts.")
    assert codes(layers(coded(network(), ShareWeights()))) == "The weights of 6 layers are stored as 4-bit codes."
    assert codes(layers(network())) == ""


def test_what_the_runtime_would_decode_at_every_run_is_taken_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coding, "kept", lambda executor, model, values: set(values))
    model = network()
    made, context = ir.clone(model), Context(executor=ORT)
    assert ShareWeights().run(made, context)
    assert not list(find_coded(made.graph))
    assert any("at every run" in skip.reason for skip in context.skipped)
    assert len(made.graph) == len(model.graph)


def test_refusals() -> None:
    n = Net(17)
    up = n.constant((n.rng.normal(size=(16, 8, 4, 4)) / 8).astype(np.float32))
    h = n.op("ConvTranspose", n.input("x", [1, 16, 6, 6]), up, group=2, name="up")
    h = n.op("Conv", h, n.constant(np.ones((2, 16, 1, 1), np.float32)), name="small")
    context = Context(executor=ORT)
    assert ShareWeights().run(n.model(h), context) == 0
    reasons = {skip.place: skip.reason for skip in context.skipped}
    assert "groups" in reasons["up"] and "32 elements; fewer than minimum=512" in reasons["small"]
    for text in ("power-of-two{bits=7}", "share-weights{bits=1}", "power-of-two{terms=3}", "share-weights{per=row}"):
        with pytest.raises(UsageError):
            Pass.parse(text)
