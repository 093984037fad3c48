"""The commands do what they say, for people and for machines."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

import lwgraph
from lwgraph import registry
from lwgraph.errors import UsageError
from lwgraph.rewrite import Pass

from .conftest import Ended, small_model

Call = Callable[..., Ended]


def test_help_imports_no_runtime() -> None:
    code = (
        "import sys, lwgraph.cli\nsys.argv = ['lwgraph', '--help']\n"
        "try:\n    lwgraph.cli.main()\nexcept SystemExit as e:\n    assert not e.code, e.code\n"
        "heavy = {'onnx', 'onnxruntime', 'onnx_ir', 'numpy', 'networkx'} & set(sys.modules)\nassert not heavy, heavy"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    for command in ("optimize", "inspect", "verify", "bench", "diff", "passes", "bisect", "demo"):
        assert command in ended.stdout


@pytest.mark.parametrize("command", ["optimize", "inspect", "verify", "bench", "diff", "passes", "bisect", "demo"])
def test_each_command_has_help(lw: Call, command: str) -> None:
    ended = lw(command, "--help")
    assert ended.code == 0 and "Usage:" in ended.out


@pytest.mark.usefixtures("no_trials")
def test_optimize_with_data(lw: Call, model_file: Path, samples: Path) -> None:
    report = model_file.parent / "report"
    flags = ("--data", samples, "--max-drop", "0.2")
    ended = lw("optimize", model_file, *flags, "--report", report, "--json")
    assert ended.code == 0, ended.err
    found = json.loads(ended.out)
    why = "no approximation was tried: the 16 samples cannot judge anything: all of them are of one class"
    assert any(why in note for note in found["notes"]), found["notes"]
    assert found["score"]["verdict"] == "kept" and found["score"]["bound"] == 0  # nothing but what keeps the outputs
    result = onnx.load(found["output"])
    assert [i.name for i in result.graph.input] == ["x"] and [o.name for o in result.graph.output] == ["logits"]
    assert "BatchNormalization" not in {n.op_type for n in result.graph.node}
    assert found["score"]["name"] == "agreement" and found["score"]["drop"] <= 0.2
    assert all(check["ok"] for check in found["checks"]) and found["checks"]
    assert found["stages"][-1]["facts"]["bytes"] <= found["stages"][0]["facts"]["bytes"]
    assert (report / "report.html").exists() and (report / "report.json").exists()
    assert json.loads((report / "plan.json").read_text())["lwgraph_plan"] == 2


def test_optimize_without_data_says_that_accuracy_was_not_measured(lw: Call, model_file: Path) -> None:
    ended = lw("optimize", model_file)
    assert ended.code == 0, ended.err
    assert "accuracy was not measured" in " ".join(ended.out.split())
    assert lw("verify", model_file, model_file.parent / "small.lw.onnx", "--executor", "reference,ort").code in (0, 1)


@pytest.mark.usefixtures("no_trials")
def test_same_input_and_options_give_the_same_bytes(lw: Call, model_file: Path, samples: Path) -> None:
    for out in ("a.onnx", "b.onnx"):
        ended = lw("optimize", model_file, "--data", samples, "-o", model_file.parent / out, "--quiet")
        assert ended.code == 0, ended.err
    assert (model_file.parent / "a.onnx").read_bytes() == (model_file.parent / "b.onnx").read_bytes()


def test_a_plan_is_applied_again(lw: Call, model_file: Path, samples: Path) -> None:
    plan = model_file.parent / "plan.json"
    plan.write_text('{"lwgraph_plan": 2, "sites": {"conv2": {"form": "low-rank{rank=16}"}}}')
    ended = lw("optimize", model_file, "--data", samples, "--plan", plan, "--json")
    assert ended.code == 0, ended.err
    names = [s["form"] for s in json.loads(ended.out)["sites"] if s["name"] == "conv2"]
    assert names and names[0] is not None and names[0].startswith("low-rank{rank=16")


@pytest.mark.usefixtures("no_trials")
def test_a_promise_that_cannot_be_kept_ends_with_1_and_still_writes(lw: Call, model_file: Path, samples: Path) -> None:
    ended = lw("optimize", model_file, "--data", samples, "--speedup", "1000")
    assert ended.code == 1
    assert "--speedup 1000" in ended.err
    assert (model_file.parent / "small.lw.onnx").exists()


def test_pipeline_and_explain(lw: Call, model_file: Path) -> None:
    ended = lw("optimize", model_file, "-p", "fold-batch-norm", "--explain")
    assert ended.code == 0, ended.err
    assert "fold-batch-norm" in ended.out and "rounding" in ended.out


@pytest.mark.parametrize("form", ["low-rank{rank=16}", "depthwise{terms=1}", "tucker", "shift", "grouped", "cp"])
def test_each_form_works_from_the_command_line(lw: Call, model_file: Path, samples: Path, form: str) -> None:
    ended = lw("optimize", model_file, "--data", samples, "-p", f"default,{form}", "--json")
    assert ended.code == 0, ended.err
    assert json.loads(ended.out)["passes"][-1]["name"].startswith(form.split("{")[0])


def test_forms_work_on_what_others_left(lw: Call, model_file: Path, samples: Path) -> None:
    forms = ["octave", "ghost{cheap=depthwise}", "fire", "smaller-kernel"]
    ended = lw("optimize", model_file, "--data", samples, "-p", ",".join(["default", *forms]), "--json")
    assert ended.code == 0, ended.err
    done = json.loads(ended.out)["passes"][-len(forms) :]
    assert [each["name"].partition("{")[0] for each in done] == [form.partition("{")[0] for form in forms]


def test_verify(lw: Call, model_file: Path) -> None:
    other = model_file.parent / "other.onnx"
    onnx.save(small_model(seed=1), other)
    assert lw("verify", model_file, model_file).code == 0
    ended = lw("verify", model_file, other, "--json")
    assert ended.code == 1
    assert json.loads(ended.out)["equal"] is False


def test_emulating_an_older_processor_shows_saturation(lw: Call, tmp_path: Path) -> None:
    """255 * 127 twice exceeds 16 bits: vpmaddubsw saturates the pair, VNNI does not."""
    from onnx import TensorProto, helper, numpy_helper

    weight = numpy_helper.from_array(np.full((4, 2), 127, np.int8), "w")
    nodes = [helper.make_node("MatMulInteger", ["x", "w"], ["y"])]
    x = helper.make_tensor_value_info("x", TensorProto.UINT8, [1, 4])
    y = helper.make_tensor_value_info("y", TensorProto.INT32, [1, 2])
    path = tmp_path / "integer.onnx"
    graph = helper.make_graph(nodes, "g", [x], [y], [weight])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    data = tmp_path / "x.npz"
    np.savez(data, x=np.full((1, 4), 255, np.uint8))
    same = ("verify", path, path, "--data", data, "--executor", "ort,reference")
    assert lw(*same).code == 0
    ended = lw(*same, "--emulate", "no-vnni")
    assert ended.code == 1 and "'y'" in ended.out
    assert lw("verify", path, path, "--emulate", "no-vnni").code == 2


def test_diff(lw: Call, model_file: Path) -> None:
    other = model_file.parent / "other.onnx"
    model = small_model()
    model.graph.node[3].name = "renamed"
    model.graph.node[3].attribute[0].ints[:] = [2, 1, 1, 1]
    onnx.save(model, other)
    assert lw("diff", model_file, model_file).code == 0
    ended = lw("diff", model_file, other)
    assert ended.code == 1 and "pads" in ended.out


def test_bench(lw: Call, model_file: Path, tmp_path: Path) -> None:
    """A model of thirty times the work: no disturbance of a machine turns the median of three rounds around."""
    proto = small_model()
    nodes = list(proto.graph.node)
    last = next(i for i, node in enumerate(nodes) if node.name == "relu2")
    chain = []
    for k in range(30):
        chain.append(
            helper.make_node("Conv", ["r2" if k == 0 else f"d{k}", "w2", "b2"], [f"d{k + 1}"], f"deep{k}", pads=[1] * 4)
        )
    nodes[last + 1].input[0] = "d30"
    del proto.graph.node[:]
    proto.graph.node.extend([*nodes[: last + 1], *chain, *nodes[last + 1 :]])
    deep = tmp_path / "deep.onnx"
    onnx.save(proto, deep)
    ended = lw("bench", model_file, deep, "--runs", "3", "--json")
    assert ended.code == 0, ended.err
    found = json.loads(ended.out)
    assert found["rounds"] == 3 and [m["model"] for m in found["models"]] == [str(model_file), str(deep)]
    first, second = found["models"]
    assert first["speed"] == 1.0 and second["interval"][0] < 0.5
    assert second["milliseconds"] > first["milliseconds"] > 0
    assert all(0 < m["fastest"] <= m["milliseconds"] for m in found["models"])
    low, high = second["interval"]
    assert second["settled"] == (second["speed"] is not None)
    assert second["speed"] is None or low <= second["speed"] <= high
    turned = json.loads(lw("bench", deep, model_file, "--runs", "3", "--json").out)["models"]
    assert turned[1]["interval"][1] > 2


def test_bench_of_several_runtimes(lw: Call, model_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A row for each runtime that is here; what one of them cannot run is told, and costs its row alone."""
    pytest.importorskip("openvino")
    from lwgraph.errors import ModelError
    from lwgraph.runtime.openvino import OpenVinoExecutor

    found = json.loads(lw("bench", model_file, "--runs", "3", "--json", "--target", "any").out)
    places = [row["target"] for row in found["models"]]
    assert places[:2] == ["ort-cpu", "openvino:f32"] and not found["failed"]
    assert found["models"][0]["speed"] == 1.0 and found["best"]["target"] in places
    assert str(model_file) in found["best"]["code"] and found["best"]["code"].count("\n") == 1

    def refuse(*_: object) -> None:
        raise ModelError("not this one")

    monkeypatch.setattr(OpenVinoExecutor, "prepare", refuse)
    ended = lw("bench", model_file, "--runs", "3", "--target", "any")
    assert ended.code == 0 and "does not run in openvino:f32: not this one" in " ".join(ended.out.split())


def test_optimize_for_any_tells_the_code_that_runs_the_result(lw: Call, model_file: Path, tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    ended = lw("optimize", model_file, "-o", tmp_path / "out.onnx", "--target", "any", "--pipeline", "clean")
    assert ended.code == 0, ended.err
    told = "".join(ended.out.split())
    assert "runtheresultin" in told and str(tmp_path / "out.onnx") in told and "openvino:f32" in told


def test_bench_needs_a_runtime_of_this_machine(lw: Call, model_file: Path) -> None:
    ended = lw("bench", model_file, "--target", "openvina")
    assert ended.code == 2 and "did you mean 'openvino'" in ended.err


def test_stated_input_shapes_are_used(lw: Call, model_file: Path) -> None:
    assert lw("bench", model_file, "--runs", "2", "--input-shape", "x:5,3,16,16").code == 0
    assert lw("verify", model_file, model_file, "--input-shape", "x:5,3,16,16").code == 0


def test_inspect(lw: Call, model_file: Path) -> None:
    found = json.loads(lw("inspect", model_file, "--json").out)
    assert found["nodes"] == 8
    assert found["macs"] == 3 * 9 * 32 * 256 + 32 * 9 * 32 * 256 + 32 * 10
    assert [layer["name"] for layer in found["layers"]] == ["conv1", "conv2", "head"]
    assert "conv2" in lw("inspect", model_file).out


def test_inspect_groups(lw: Call, model_file: Path) -> None:
    first, _, last = json.loads(lw("inspect", model_file, "--groups", "--json").out)["groups"]
    assert (first["makers"], first["readers"], first["channels"], first["frozen"]) == (["conv1"], ["conv2"], 32, "")
    assert last["frozen"].startswith("output ")
    assert "conv1 -> conv2" in lw("inspect", model_file, "--groups").out


def test_passes(lw: Call) -> None:
    names = {entry["name"] for entry in json.loads(lw("passes", "--json").out)}
    assert {"fold-batch-norm", "low-rank"} <= names
    assert "rank" in lw("passes", "low-rank").out


def test_passes_are_listed_beside_one_that_cannot_be_loaded(lw: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    def pass_class(name: str) -> type[Pass]:
        if name == "fold-batch-norm":
            raise UsageError("plugin 'fold-batch-norm' cannot be loaded: no")
        return found(name)

    found = registry.pass_class
    monkeypatch.setattr(registry, "pass_class", pass_class)
    entries = {entry["name"]: entry for entry in json.loads(lw("passes", "--json").out)}
    assert entries["fold-batch-norm"]["error"] == "plugin 'fold-batch-norm' cannot be loaded: no"
    assert "error" not in entries["dead-code"] and "cannot be loaded" in lw("passes").out


def test_bisect_names_the_rewrite(lw: Call, model_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (model_file.parent / "wrongpass.py").write_text(
        "from dataclasses import dataclass\n"
        "from lwgraph.rewrite import Const, Contract, RewritePass\n"
        "@dataclass(frozen=True)\n"
        "class Wrong(RewritePass):\n"
        "    '''Relu becomes Neg.'''\n"
        "    name = 'wrong'\n"
        "    contract = Contract.ROUNDING\n"
        "    def pattern(self, op, x):\n        return op.Relu(x)\n"
        "    def replace(self, op, x):\n        return op.Neg(x)\n"
    )
    monkeypatch.syspath_prepend(str(model_file.parent))
    ended = lw("bisect", model_file, "-p", "fold-batch-norm,wrongpass:Wrong")
    assert ended.code == 1 and "wrong" in ended.out and "relu1" in ended.out
    assert lw("bisect", model_file, "-p", "fold-batch-norm").code == 0


def test_python_api(model_file: Path, samples: Path) -> None:
    result = lwgraph.optimize(model_file, pipeline="fold-batch-norm")
    out = model_file.parent / "new.onnx"
    result.save(out)
    assert result.kept and len(onnx.load(out).graph.node) == 7
