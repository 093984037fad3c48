"""The quantizer of Optimum, with a model of Optimum's own."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

pytest.importorskip("optimum.quantization_base")

from lwgraph.adapters.optimum import LwgraphQuantizer
from lwgraph.errors import UsageError
from tests.cli.conftest import small_model


@pytest.fixture
def folder(tmp_path):
    onnx.save(small_model(), tmp_path / "model.onnx")
    (tmp_path / "config.json").write_text('{"model_type": "resnet", "num_channels": 3}')
    return tmp_path


def test_as_a_quantizer(folder, tmp_path):
    quantizer = LwgraphQuantizer.from_pretrained(folder)
    made = quantizer.quantize(tmp_path / "smaller", pipeline="clean,fuse")
    assert made == tmp_path / "smaller" and quantizer.result.verdict == "kept"
    assert "BatchNormalization" not in {node.op_type for node in onnx.load(made / "model_lw.onnx").graph.node}
    assert (made / "config.json").read_text() == (folder / "config.json").read_text()
    assert (
        quantizer.quantize(folder, file_suffix="b", pipeline="clean") == folder and (folder / "model_b.onnx").exists()
    )


def test_which_file(folder):
    onnx.save(small_model(), folder / "other.onnx")
    with pytest.raises(UsageError, match=r"it has: model\.onnx, other\.onnx"):
        LwgraphQuantizer.from_pretrained(folder)
    with pytest.raises(UsageError, match="must hold one ONNX file"):
        LwgraphQuantizer.from_pretrained(folder, file_name="nothing.onnx")
    assert LwgraphQuantizer.from_pretrained(folder, file_name="other.onnx").onnx_model_path.name == "other.onnx"
    assert LwgraphQuantizer.from_pretrained(folder / "other.onnx").onnx_model_path.name == "other.onnx"


@pytest.mark.filterwarnings("ignore")  # those of Optimum and of what it imports
def test_a_model_of_onnx_runtime(folder, tmp_path):
    onnxruntime = pytest.importorskip("optimum.onnxruntime")
    model = onnxruntime.ORTModelForImageClassification.from_pretrained(folder)
    quantizer = LwgraphQuantizer.from_pretrained(model)
    assert quantizer.onnx_model_path == folder / "model.onnx"
    quantizer.quantize(tmp_path / "smaller", pipeline="clean,fuse")
    smaller = onnxruntime.ORTModelForImageClassification.from_pretrained(
        tmp_path / "smaller", file_name="model_lw.onnx"
    )
    x = np.random.default_rng(0).standard_normal((1, 3, 16, 16)).astype(np.float32)
    one, two = (m.model.run(None, {"x": x})[0] for m in (model, smaller))
    np.testing.assert_allclose(one, two, rtol=1e-3, atol=1e-4)
