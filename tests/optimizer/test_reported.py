"""What a report says of a result is what its file holds, counted here with nothing but onnx."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto

import lwgraph
from lwgraph import ir, registry
from lwgraph.cli.common import console
from lwgraph.cli.show import show_report
from lwgraph.layers.site import find_sites
from lwgraph.optimizer.deliver import layers_of
from lwgraph.optimizer.report_rows import choices
from lwgraph.optimizer.timing import facts_of
from lwgraph.plan.carry_out import Samples, carry_out
from lwgraph.plan.plan import KEEP, Choice, Plan, Precision, Removed, Width
from lwgraph.report import Report, Stage, to_html
from lwgraph.rewrite import Context
from tests.optimizer.planting import network, stand_ins

PLANS, PRECISIONS = 100, 5  # in all, and of each structure
INTEGERS = "quantize{calibration_method=minmax,keep=none,rounding=nearest,equalize=false,bias_correction=false}"
LAYERS = ("Conv", "Gemm", "MatMul")
EIGHT = (TensorProto.INT8, TensorProto.UINT8)
WIDTHS = {"conv0": 32, "conv1": 16, "conv2": 16}
X = np.random.default_rng(3).standard_normal((12, 3, 6, 6)).astype(np.float32)


def random_structure(rng: np.random.Generator, names: list[str]) -> Plan:
    """Fewer channels, a block gone, any layer dense or of low rank."""
    gone = rng.random() < 0.2
    forms = {
        name: Choice(f"low-rank{{rank={rank}}}" if (rank := int(rng.integers(0, 9))) in (2, 4, 8) else KEEP)
        for name in names
        if not gone or name != "conv2"
    }
    groups = {"conv0": Width(int(rng.integers(4, 32)), 32)} if rng.random() < 0.3 else {}
    return Plan(forms, groups=groups, blocks={"add2": Removed()} if gone else {})


def random_precision(rng: np.random.Generator, names: Iterable[str]) -> Precision:
    """In floats, in integers but for some layers, or with 16-bit weights."""
    passes = [(), (INTEGERS,), ("half{minimum=1}",)][rng.choice(3, p=(0.3, 0.5, 0.2))]
    floats = [name for name in names if rng.random() < 0.3] if passes and passes[0] == INTEGERS else []
    return Precision(passes=passes, keep_float=tuple(floats))


class File:
    """A model's file, read by its own rules."""

    def __init__(self, path: Path) -> None:
        self.bytes = path.stat().st_size
        graph = onnx.load(path).graph
        self.nodes, self.stored = list(graph.node), {each.name: each for each in graph.initializer}
        self.makers = {name: node for node in self.nodes for name in node.output}
        self.outputs = {value.name for value in graph.output}

    def layers(self) -> dict[str, str]:
        """Name of each layer -> what it computes in."""
        return {node.name: self.precision(node) for node in self.nodes if node.op_type in LAYERS}

    def precision(self, node: onnx.NodeProto) -> str:
        sources = [self.integers(name) for name in node.input[:2]]
        if all(kind in EIGHT for kind in sources) and self.returned_as_integers(node):
            return "int8"
        maker = self.makers.get(node.input[1])
        weight = self.stored[node.input[1] if maker is None else maker.input[0]]
        if weight.data_type == TensorProto.FLOAT:
            return "float32"
        return f"{TensorProto.DataType.Name(weight.data_type).lower().removeprefix('u')} weights"

    def rows(self, name: str) -> int:
        """Rows of a layer's stored weight."""
        maker = self.makers.get(name)
        return int(self.stored[name if maker is None else maker.input[0]].dims[0])

    def widths(self) -> dict[str, int]:
        """Name of each convolution of the original -> channels that what stands for it puts out."""
        each = {node.name.partition("_low-rank")[0]: node.input[1] for node in self.nodes if node.op_type == "Conv"}
        return {name: self.rows(weight) for name, weight in each.items()}  # the last part of a form puts them out

    def integers(self, name: str) -> int:
        """The type of the integers that a value is dequantized from; 0 for any other."""
        maker = self.makers.get(name)
        return self.stored[maker.input[2]].data_type if maker is not None and maker.op_type[:2] == "De" else 0

    def returned_as_integers(self, node: onnx.NodeProto) -> bool:
        if node.op_type != "Conv":
            return True
        readers = [each for each in self.nodes if node.output[0] in each.input]
        if len(readers) == 1 and readers[0].op_type == "Relu":
            return self.returned_as_integers(onnx.NodeProto(op_type="Conv", output=readers[0].output))
        return node.output[0] not in self.outputs and [each.op_type for each in readers] == ["QuantizeLinear"]


def said(report: lwgraph.report.Report) -> Iterator[str]:
    """What the terminal and the page say, tags left out."""
    out = console()
    with out.capture() as lines:
        show_report(out, report)
    yield lines.get()
    yield re.sub("<[^>]+>", "", to_html(report))


def agree(report: lwgraph.report.Report, path: Path) -> Counter[str]:
    """Compare JSON, terminal and page with the file; how many layers it has of each precision, and forms."""
    told: dict[str, Any] = json.loads(report.to_json())
    file = File(path)
    facts, layers = told["stages"][-1]["facts"], file.layers()
    assert (facts["bytes"], facts["nodes"]) == (file.bytes, len(file.nodes))
    assert {layer["name"]: layer["precision"] for layer in told["layers"]} == layers
    fewer = {
        name: f"{was} to {width} channels" for name, width in file.widths().items() if width < (was := WIDTHS[name])
    }
    assert {site["name"]: site["form"] for site in told["sites"] if site["operator"] == "channels"} == fewer
    gone = [site["name"] for site in told["sites"] if site["operator"] == "block"]
    assert gone == ["add2"] * ("conv2" not in file.widths())
    for site in (each for each in told["sites"] if each["operator"] not in ("channels", "block")):
        own = [name for name in layers if re.fullmatch(rf"{site['name']}(_low-rank(_\d+)?)?", name)]
        assert set(site["precision"].split(", ")) == ({layers[name] for name in own} or {""})
        assert (site["form"] is not None) == (len(own) > 1)
    found = Counter(layers.values())
    texts = list(said(report))
    for kind, number in found.items():
        words = kind if " " not in kind else f"floats from {kind}"
        for text in texts:
            assert f"{number} of {len(layers)} layers compute in {words}" in text or (
                f"{number} in {words}" in text or f"All {len(layers)} layers compute in {words}" in text
            )
    assert (f"Channels were removed from {len(fewer)} layer" in texts[0]) == bool(fewer)
    found["forms"] = sum(layer["form"] != "" and layer["name"].endswith("low-rank") for layer in told["layers"])
    found["channels"], found["blocks"] = len(fewer), len(gone)
    return found


def test_reports_of_a_hundred_plans_are_what_the_files_hold(tmp_path: Path) -> None:
    rng, clean, executor = np.random.default_rng(0), network(), registry.executor("ort")
    names, feed = [site.name for site in find_sites(clean)], {"x": X[:2]}
    seen: Counter[str] = Counter()
    for number in range(PLANS):
        if number % PRECISIONS == 0:  # which takes most of the time
            structure = random_structure(rng, names)
            made = carry_out(clean, structure, Context(executor=executor, data=[feed]), samples=Samples(refit=0)).model
        plan = replace(structure, precision=random_precision(rng, structure.sites))
        model = carry_out(made, Plan(precision=plan.precision), Context(executor=executor, data=[feed])).model
        ir.save(model, tmp_path / "out.onnx", overwrite=True)
        report = Report("net", "ort-cpu", 1, 0, stages=[Stage("result", facts_of(model))], environment={})
        report.layers = layers_of(model, executor)
        report.sites = choices(clean, plan, [], {}, model, report.layers)
        seen += agree(report, tmp_path / "out.onnx")
    assert seen["int8"] > PLANS and seen["float32"] > PLANS and seen["float16 weights"] and seen["forms"] > PLANS / 4
    assert seen["channels"] > PLANS / 8 and seen["blocks"] > PLANS / 10


def test_reports_of_whole_runs_are_what_the_files_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_ins(monkeypatch, tmp_path)
    names = [site.name for site in find_sites(network())]
    plan = Plan(
        sites={names[0]: Choice("low-rank{rank=2}")}, precision=Precision(passes=(INTEGERS,), keep_float=(names[1],))
    )
    result = lwgraph.optimize(network(), plan=plan, data={"x": X}, budget="60s")
    result.save(tmp_path / "out.onnx")
    assert agree(result.report, tmp_path / "out.onnx") == {
        "int8": 4,
        "float32": 1,
        "forms": 1,
        "channels": 0,
        "blocks": 0,
    }
    page = result.write_report(tmp_path / "report")
    assert json.loads(page.with_name("report.json").read_text("utf8"))["layers"]
