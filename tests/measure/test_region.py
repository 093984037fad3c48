"""Local verification of rewritten regions."""

import math

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from lwgraph import ir, registry
from lwgraph.errors import CheckError, ModelError
from lwgraph.measure.region import (
    adversarial,
    check_region,
    compare_regions,
    extract_region,
    relative_error,
)
from lwgraph.rewrite.base import Contract

RNG = np.random.default_rng(0)
W = RNG.standard_normal((4, 3, 3, 3)).astype(np.float32)
SAMPLES = [{"x": RNG.standard_normal((1, 3, 6, 6)).astype(np.float32)} for _ in range(3)]
ROUNDING = Contract.ROUNDING


def conv(w: np.ndarray, pads: int = 1) -> ir.Model:
    """y = Conv(x, w)."""
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["y"], pads=[pads] * 4)],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, "h", "w"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(w, "w")],
    )
    return ir.load(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9))


def reference() -> object:
    return registry.executor("reference", precise=True)


def test_adversarial_inputs_keep_shape_and_dtype_and_repeat() -> None:
    feeds = {"x": SAMPLES[0]["x"], "i": np.arange(4), "e": np.zeros((0, 3), np.float32)}
    first, second = list(adversarial(feeds, 1)), list(adversarial(feeds, 1))
    assert [kind for kind, _ in first] == [
        "large",
        "tiny",
        "constant",
        "zero",
        "one-hot (middle)",
        "one-hot (first)",
        "one-hot (last)",
        "border",
        "alternating",
    ]
    for (kind, a), (_, b) in zip(first, second, strict=True):
        for name, array in a.items():
            assert array.shape == feeds[name].shape and array.dtype == feeds[name].dtype, kind
            np.testing.assert_array_equal(array, b[name])
        np.testing.assert_array_equal(a["i"], feeds["i"])
    border = dict(first)["border"]["x"]
    assert not border[:, :, 1:-1, 1:-1].any() and border[:, :, 0].all()


def test_equal_regions() -> None:
    assert compare_regions(conv(W), conv(W.copy()), reference(), SAMPLES, ROUNDING) is None
    measured = check_region("c", conv(W), conv(W), conv(W), reference(), SAMPLES, ROUNDING, predicted=0.0)
    assert measured == 0


def test_a_wrong_weight_is_named_with_site_and_position() -> None:
    wrong = W.copy()
    wrong[2] *= 1.01
    with pytest.raises(CheckError, match=r"site 'conv1': the emitted nodes are not the promised layer.*'y'.* at \["):
        check_region("conv1", conv(W), conv(W), conv(wrong), reference(), SAMPLES, ROUNDING)


def test_only_an_adversarial_input_shows_a_wrong_border() -> None:
    """Samples that are zero at the border do not tell a padded convolution from one that crops and pads its output."""
    inner = [{"x": np.pad(s["x"][:, :, 2:-2, 2:-2], ((0, 0), (0, 0), (2, 2), (2, 2)))} for s in SAMPLES]
    graph = helper.make_graph(
        [
            helper.make_node("Slice", ["x", "b", "e", "a"], ["s"]),
            helper.make_node("Conv", ["s", "w"], ["y"], pads=[2] * 4),
        ],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, "h", "w"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [
            numpy_helper.from_array(W, "w"),
            numpy_helper.from_array(np.array([1, 1]), "b"),
            numpy_helper.from_array(np.array([-1, -1]), "e"),
            numpy_helper.from_array(np.array([2, 3]), "a"),
        ],
    )
    cropped = ir.load(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9))
    runs = [reference().prepare(m) for m in (conv(W), cropped)]
    np.testing.assert_allclose(*(run(inner[0])["y"] for run in runs), atol=1e-5)
    failure = compare_regions(conv(W), cropped, reference(), inner, ROUNDING)
    assert failure is not None and "captured" not in failure.kind


def test_measured_error_against_its_definition_and_the_prediction() -> None:
    other = W + 0.1 * RNG.standard_normal(W.shape).astype(np.float32)
    runs = [reference().prepare(m) for m in (conv(W), conv(other))]
    y, z = (np.concatenate([run(s)["y"] for s in SAMPLES]).astype(np.float64) for run in runs)
    expected = np.square(y - z).sum() / np.square(y - y.mean((0, 2, 3), keepdims=True)).sum()
    got = relative_error(conv(W), conv(other), reference(), SAMPLES)
    assert math.isclose(got, expected, rel_tol=1e-9)
    check_region("c", conv(W), conv(other), conv(other), reference(), SAMPLES, ROUNDING, predicted=expected * 1.01)
    with pytest.raises(CheckError, match=r"site 'c'.*predicted"):
        check_region("c", conv(W), conv(other), conv(other), reference(), SAMPLES, ROUNDING, predicted=expected * 1.2)


def test_error_of_constant_and_of_bad_outputs() -> None:
    zero = [{"x": np.zeros((1, 3, 4, 4), np.float32)}]
    assert relative_error(conv(W), conv(2 * W), reference(), zero) == 0
    with pytest.raises(CheckError, match="NaN"):
        relative_error(conv(W), conv(W), reference(), [{"x": np.full((1, 3, 4, 4), np.nan, np.float32)}])
    with pytest.raises(CheckError, match="samples"):
        relative_error(conv(W), conv(W), reference(), [])
    with pytest.raises(CheckError, match="samples"):
        compare_regions(conv(W), conv(W), reference(), [], ROUNDING)


def test_a_region_that_does_not_run_names_the_site() -> None:
    with pytest.raises(CheckError, match="site 'c': the rewritten region does not run"):
        check_region("c", conv(W), conv(W), conv(W[:, :2]), reference(), SAMPLES, ROUNDING)


def two_layers(w2: np.ndarray) -> ir.Model:
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "w"], ["a"], pads=[1] * 4),
            helper.make_node("Relu", ["a"], ["b"]),
            helper.make_node("Conv", ["b", "w2"], ["c"]),
            helper.make_node("Add", ["c", "c"], ["y"]),
        ],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 6, 6])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(W, "w"), numpy_helper.from_array(w2, "w2")],
    )
    return ir.load(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9))


def test_extract_and_verify_a_region() -> None:
    w2 = RNG.standard_normal((2, 4, 1, 1)).astype(np.float32)
    model = two_layers(w2)
    before = ir.fingerprint(model)
    captured = [reference().prepare(model, ["b", "c"])(s) for s in SAMPLES]
    region = extract_region(model, ["b"], ["c"], {"b": captured[0]["b"]})
    assert [v.name for v in region.graph.inputs] == ["b"] and len(region.graph) == 1
    got = reference().prepare(region)({"b": captured[0]["b"]})["c"]
    np.testing.assert_array_equal(got, captured[0]["c"])
    assert ir.fingerprint(model) == before
    feeds = [{"b": c["b"]} for c in captured]
    same, other = (extract_region(m, ["b"], ["c"], feeds[0]) for m in (two_layers(w2), two_layers(1.01 * w2)))
    assert compare_regions(region, same, reference(), feeds, ROUNDING) is None
    failure = compare_regions(region, other, reference(), feeds, ROUNDING)
    assert failure is not None and failure.difference.name == "c"
    with pytest.raises(ModelError, match="no value 'q'"):
        extract_region(model, ["q"], ["c"])
    with pytest.raises(ModelError, match="needs more inputs"):
        extract_region(model, [], ["c"])
