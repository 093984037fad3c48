"""The networks that runs are timed on are what they are called, and growth is told right."""

from functools import partial

import numpy as np
import onnx
import pytest

from benchmarks import judge, run, seconds, whole, zoo


def test_growth_is_the_power_of_the_layers():
    assert seconds.growth({75: 10.0, 150: 25.0, 300: 160.0}) == pytest.approx(2.0)


def test_the_resnet_has_the_layers_of_table_1():
    model = seconds.resnet50()
    shapes = [list(weight.dims) for weight in model.graph.initializer if len(weight.dims) > 1]
    assert len(shapes) == 1 + 16 * 3 + 4 + 1  # four shortcuts have a convolution
    assert sum(np.prod(shape) for shape in shapes) == pytest.approx(25.5e6, rel=0.01)
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True)
    dims = inferred.graph.value_info[-1].type.tensor_type.shape.dim  # what the last layer reads
    assert [d.dim_param or d.dim_value for d in dims] == ["N", 2048]


@pytest.mark.parametrize("layers", [5, 9])
def test_a_chain_has_so_many_convolutions(layers):
    net, _ = run.long_chain(layers)
    assert sum(node.op_type == "Conv" for node in net.nodes) == layers


def test_a_result_is_compared_with_that_of_an_exhaustive_search(monkeypatch, tmp_path):
    case = zoo.case("fmnist_resnet14")
    now, missing = case.model(), tmp_path / "none.onnx"  # a run that failed leaves none
    monkeypatch.setattr(whole, "of", lambda case: {"error": "", "seconds": 12.0, "commit": "abc"})
    monkeypatch.setattr(whole, "result", lambda name: case.model())
    monkeypatch.setattr("benchmarks.judge.race", partial(judge.race, seconds=0.2))
    found = seconds._against_whole(case, {"now": now, "limited": missing})
    assert found["long_seconds"] == 12.0 and found.keys() == {"long_seconds", "long_commit", "now_share"}
    assert 0.5 < found["now_share"] < 2
