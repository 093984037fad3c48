"""`lwgraph inspect --sensitivity` and the pictures of its report."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from lwgraph import ir
from lwgraph.report.record import Report
from lwgraph.report.sections.coupling import coupling
from lwgraph.report.sections.sensitivity import sensitivity

from .conftest import Ended

Call = Callable[..., Ended]


@pytest.fixture
def wide(tmp_path: Path) -> tuple[Path, Path]:
    """conv1 (32 channels) -> Relu -> conv2, and eight samples."""
    import onnx

    text = """<ir_version: 10, opset_import: ["" : 17]> g (float[1,3,6,6] x) => (float[1,4,6,6] y)
      <float[32,3,1,1] w, float[4,32,1,1] v> { [conv1] a = Conv(x, w) b = Relu(a) [conv2] y = Conv(b, v) }"""
    proto = onnx.parser.parse_model(text)
    rng = np.random.default_rng(0)
    for name, shape in (("w", (32, 3, 1, 1)), ("v", (4, 32, 1, 1))):
        proto.graph.initializer.append(onnx.numpy_helper.from_array(rng.standard_normal(shape).astype("f"), name))
    del proto.graph.value_info[:]
    onnx.save(proto, tmp_path / "wide.onnx")
    np.savez(tmp_path / "data.npz", x=rng.standard_normal((8, 3, 6, 6)).astype("f"))
    return tmp_path / "wide.onnx", tmp_path / "data.npz"


def test_sensitivities_and_pictures(lw: Call, wide: tuple[Path, Path], tmp_path: Path) -> None:
    model, data = wide
    arguments = ["inspect", model, "--sensitivity", "--data", data, "-p", "prune-channels{multiple=4}"]
    found = json.loads(lw(*arguments, "--json", "--report", tmp_path / "r").out)["sensitivity"]
    assert [(each["item"], each["kept"], each["width"]) for each in found] == [("conv1", 24, 32), ("conv1", 16, 32)]
    assert 0 < found[0]["loss"] < found[1]["loss"] < 1
    page = (tmp_path / "r" / "report.html").read_text("utf8")
    assert "Sensitivity at the outputs" in page and "can only be removed together" in page and "24: " in page
    report = json.loads((tmp_path / "r" / "report.json").read_text("utf8"))
    assert report["details"]["sensitivity"] == found
    assert [group["name"] for group in report["details"]["coupling"]["groups"]] == ["conv1", "conv2"]
    table = lw(*arguments, "--ratios", "0.5").out  # what is known is not measured again
    assert "16 of 32" in table and "24 of 32" not in table


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([], "--sensitivity is measured on samples; give --data"),
        (["--ratios", "0.5,2"], "--ratios '0.5,2' is not a list of shares"),
        (["--ratios", "much"], "--ratios 'much' is not a list"),
        (["--data", "DATA", "-p", "dead-code"], "pass 'dead-code' cannot list what it could remove"),
    ],
)
def test_what_cannot_be_asked(lw: Call, wide: tuple[Path, Path], options: list[str], words: str) -> None:
    model, data = wide
    result = lw("inspect", model, "--sensitivity", *(str(data) if option == "DATA" else option for option in options))
    assert result.code == 2 and words in result.err


def a_report(groups: int, items: int) -> Report:
    drawn = [
        {
            "name": f"layer<{i}>",
            "channels": 8 + i,
            "parameters": 10,
            "makers": [f"layer<{i}>"],
            "readers": [f"layer<{i + 1}>"],
            "frozen": "output 'y' of the graph" * (i == 0),
        }
        for i in range(groups)
    ]
    found = [
        {
            "item": f"item<{i}>",
            "kept": kept,
            "width": 8,
            "macs": 1000,
            "error": 0.1,
            "nodes": [],
            "loss": None if i == 0 and kept == 2 else 1e-4 * (i + 1),
        }
        for i in range(items)
        for kept in (4, 2)
    ]
    return Report(
        "model",
        "ort",
        1,
        0,
        details={
            "coupling": {"layers": [f"layer<{i}>" for i in range(groups + 1)], "groups": drawn},
            "sensitivity": found,
        },
    )


def test_large_models_stay_readable() -> None:
    small, large = a_report(5, 5), a_report(300, 300)
    for section, row in ((coupling, "<line"), (sensitivity, '<text x="0"')):
        assert section(small).count(row) == 5 and section(large).count(row) == 60
        assert "<5>" not in section(small) and "of 300" in section(large) and "of 300" not in section(small)
        assert section(Report("model", "ort", 1, 0)) == ""
    assert "layer&lt;299&gt;" in coupling(large) and "layer&lt;0&gt;: 8" not in coupling(large)  # the largest are drawn
    assert "2: fails" in sensitivity(small) and "item&lt;299&gt;" in sensitivity(large)
    assert "item&lt;0&gt;" in sensitivity(large)  # what fails matters most
    assert "frozen: output" in coupling(small)


def test_the_picture_of_a_model() -> None:
    from lwgraph import demo
    from lwgraph.views.coupling import couple_channels, picture

    found = picture(couple_channels(ir.load(demo.MODEL)))
    assert found["groups"] and json.dumps(found)
    assert {name for group in found["groups"] for name in (*group["makers"], *group["readers"])} == set(found["layers"])


def test_parts_of_a_transformer_are_named(lw: Call, tmp_path: Path) -> None:
    import onnx

    from tests.passes.prune.encoders import SPELLINGS, encoder

    onnx.save(encoder(**SPELLINGS["transformers, keys in a batch"]), tmp_path / "encoder.onnx")
    text = lw("inspect", tmp_path / "encoder.onnx", "--groups").out
    assert text.rstrip().endswith("layer 0: feed-forward, 20 of them; heads, 4")
    groups = json.loads(lw("inspect", tmp_path / "encoder.onnx", "--groups", "--json").out)["groups"]
    assert sorted(group["part"] for group in groups) == ["", "layer 0: feed-forward", "layer 0: heads"]
