"""Plants failures into runs of a small network, through the command line, and says what became of each."""

from __future__ import annotations

import functools
import math
import pkgutil
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

import lwgraph.optimizer
from lwgraph import ir
from lwgraph.cli import main
from lwgraph.executor import Executor
from lwgraph.optimizer import Result, deliver, improve, setting, without_data
from lwgraph.optimizer.candidates import Candidates, Incumbent
from lwgraph.optimizer.prove import sound
from lwgraph.optimizer.timing import compare_untimed
from lwgraph.plan.search import plan_search
from tests.plan.search.by_work import ByWork

BASE_MS = 10.0
SAMPLES = 48
ALLOWED = 0.3  # of the agreement with the input model may be lost
FAILED = re.compile(r"^left out: (?P<what>.*?)(; to reproduce: (?P<folder>.*))?$")  # the step, and why


class BySize(ByWork):
    """Prices that follow from the work, times of whole networks from their bytes: the same on every machine."""

    def whole(self, models: Mapping[str, ir.Model], feeds: Any, seconds: float = 0.0) -> list[float]:
        return [BASE_MS * ir.size(model) / SIZE for model in models.values()]

    def against(self, reference: ir.Model, reference_ms: float, model: ir.Model, feeds: Any, seconds: float) -> float:
        return reference_ms * ir.size(model) / ir.size(reference)


def network() -> ir.Model:
    """x (n, 3, 6, 6) -> logits (n, 5): one group of channels and one residual block may go, and forms may stand."""
    rng, node = np.random.default_rng(0), helper.make_node

    def normal(*shape: int) -> Any:
        return (rng.standard_normal(shape) * np.sqrt(2 / math.prod(shape[1:]))).astype(np.float32)

    constants = {"w0": normal(32, 3, 3, 3), "w1": normal(16, 32, 1, 1), "w2": normal(16, 16, 3, 3), "w3": normal(5, 16)}
    constants["b3"] = np.array([1.0, 0.8, 0.2, -1.5, -3.7], np.float32)  # so that each class is said of some samples
    nodes = [
        node("Identity", ["x"], ["x0"], "same"),
        node("Conv", ["x0", "w0"], ["c0"], "conv0", pads=[1] * 4), node("Relu", ["c0"], ["r0"], "relu0"),
        node("Conv", ["r0", "w1"], ["c1"], "conv1"), node("Relu", ["c1"], ["r1"], "relu1"),
        node("Conv", ["r1", "w2"], ["c2"], "conv2", pads=[1] * 4), node("Add", ["c2", "r1"], ["s2"], "add2"),
        node("Relu", ["s2"], ["r2"], "relu2"),
        node("GlobalAveragePool", ["r2"], ["p"], "pool"), node("Flatten", ["p"], ["f"], "flat"),
        node("Gemm", ["f", "w3", "b3"], ["y"], "head", transB=1),
    ]  # fmt: skip
    face = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", *sizes])
        for name, sizes in (("x", [3, 6, 6]), ("y", [5]))
    ]
    weights = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    graph = helper.make_graph(nodes, "net", face[:1], face[1:], weights)
    return ir.load(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10))


SIZE = ir.size(network())


def in_this_process(executor: Executor, *rest: object) -> Executor:
    """In place of first runs in a worker, which takes a second to start."""
    return executor


def stand_ins(patch: pytest.MonkeyPatch, folder: Path) -> None:
    """Let nothing depend on the machine or take long: prices, times, the number of trials."""
    patch.setenv("LWGRAPH_CACHE", str(folder / "cache"))
    for module in (improve, without_data):
        patch.setattr(module, "open_oracle", lambda target, threads, executor: BySize(folder / "prices"))
    patch.setattr(deliver, "time_models", untimed_models)
    patch.setattr(improve, "with_speeds", lambda rows, *args, **kwargs: rows)
    patch.setattr(plan_search, "BARREN", 2)
    patch.setattr(plan_search, "SLOTS", 3)
    patch.setattr(setting, "FirstRuns", in_this_process)


def untimed_models(
    models: Any,
    executor: Any,
    feeds: Any,
    target: str,
    threads: int,
    progress: Any,
    *,
    stated: bool,
    on_disk: int,
    seconds: float,
    patience: float,
) -> Any:
    return compare_untimed(models, executor, feeds, target, (0.0, 0.0), stated=stated, on_disk=on_disk)


# ------------------------------------------------------------ planting


@dataclass
class Planted:
    """A failure in a run.

    Attributes:
        candidates: those of the run, once there are any.
        stood: the incumbent when the failure came; None: there was none yet.
        times: how often it came.
    """

    candidates: Candidates | None = None
    stood: Incumbent | None = None
    times: int = 0


def plant(
    patch: pytest.MonkeyPatch,
    place: str,
    error: Callable[[], BaseException],
    *,
    after: bool = False,
    spare: int = 0,
    once: bool = False,
) -> Planted:
    """Let what stands at `place`, as "module:Class.attribute", raise.

    Args:
        patch: undoes it.
        place: of the function.
        error: makes what is raised.
        after: once it has done its work, in place of returning.
        spare: calls that do as they should first.
        once: so do those that follow the first that fails.
    """
    planted = watch(patch)
    owner, _, name = place.rpartition("." if "." in place.partition(":")[2] else ":")
    holder = pkgutil.resolve_name(owner)
    original = getattr(holder, name)
    calls = 0

    @functools.wraps(original)
    def failing(*arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls <= spare or (once and planted.times):
            return original(*arguments, **options)
        if after:
            original(*arguments, **options)
        planted.times += 1
        if planted.times == 1 and planted.candidates is not None:
            planted.stood = planted.candidates.incumbent
        raise error()

    patch.setattr(holder, name, failing)
    return planted


def watch(patch: pytest.MonkeyPatch) -> Planted:
    """Nothing planted, but the candidates of the run are seen."""
    planted = Planted()
    original = Candidates.__init__

    def seen(self: Candidates, *arguments: Any, **options: Any) -> None:
        original(self, *arguments, **options)
        planted.candidates = self

    patch.setattr(Candidates, "__init__", seen)
    return planted


# ------------------------------------------------------------ running


@dataclass
class Ended:
    """How a run ended.

    Attributes:
        code: the exit code.
        out, err: what the terminal shows.
        files: that lie where the output should.
        result: None where there is none.
        told: the lines about failures.
    """

    code: int
    out: str
    err: str
    files: list[str]
    output: Path
    result: Result | None = None
    told: list[re.Match[str]] = field(default_factory=list)


def run(
    patch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    folder: Path,
    *options: str,
    model: ir.Model | None = None,
    data: np.ndarray[Any, Any] | None = None,
) -> Ended:
    """`lwgraph optimize` of the network, in this process; it may lose ALLOWED where `options` say nothing else."""
    work = folder / "work"
    work.mkdir(exist_ok=True)
    ir.save(network() if model is None else model, work / "net.onnx", overwrite=True)
    np.savez(folder / "data.npz", x=samples() if data is None else data)
    results: list[Result] = []
    optimize = lwgraph.optimizer.optimize_as

    def kept(*arguments: Any, **asked: Any) -> Result:
        results.append(optimize(*arguments, **asked))
        return results[-1]

    with patch.context() as inner:
        inner.setattr(lwgraph.optimizer, "optimize_as", kept)
        given = ["--data", str(folder / "data.npz"), "--metric", "agreement", "--max-drop", str(ALLOWED), *options]
        inner.setattr(sys, "argv", ["lwgraph", "optimize", str(work / "net.onnx"), *given])
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
    shown = capfd.readouterr()
    assert "Traceback" not in shown.out + shown.err
    code = ended.value.code
    told = [found for line in shown.out.splitlines() if (found := FAILED.match(line))]
    files = sorted(path.name for path in work.iterdir() if path.name != "net.onnx")
    return Ended(
        code if isinstance(code, int) else 0,
        shown.out,
        shown.err,
        files,
        work / "net.lw.onnx",
        results[0] if results else None,
        told,
    )


def samples() -> np.ndarray[Any, Any]:
    """The data of each run: smooth images."""
    rng = np.random.default_rng(1)
    x = rng.standard_normal((SAMPLES, 3, 6, 6)) + rng.standard_normal((SAMPLES, 3, 1, 1))
    found: np.ndarray[Any, Any] = (x + np.roll(x, 1, 2) + np.roll(x, 1, 3)).astype(np.float32)
    return found


# ------------------------------------------------------------ what must hold


def ends_well(ended: Ended, planted: Planted) -> None:
    """Assert that a proved result is delivered, no worse than what stood before the failure, and nothing else."""
    result, candidates = ended.result, planted.candidates
    assert result is not None and ended.code == result.status, ended.err
    resolved = not result.report.outcome.startswith("the promise is not resolved: ")
    assert (ended.code, result.report.outcome) == (0, "done") if resolved else ended.code == 3  # the samples are few
    assert ended.files == ["net.lw.onnx"]
    assert result.report.checks or result.untouched is not None  # the input itself needs no proof
    assert all(check.ok for check in result.report.checks)
    delivered = ir.load(ended.output)
    assert sound(delivered, network()).ok
    assert agreement(delivered) >= 1 - ALLOWED - 1e-9
    if candidates is not None and planted.stood is not None and planted.stood.candidate is not None:
        stands = candidates.incumbent.candidate
        assert stands is not None
        faster = candidates.amount(stands) <= candidates.amount(planted.stood.candidate)
        assert faster or (stands.judged or 0.0) >= (
            planted.stood.candidate.judged or 0.0
        )  # the last look may step back


def is_told(ended: Ended, words: str, step: str = "", *, written: bool = True) -> None:
    """Assert that the failure is told once for each step, with what reproduces it."""
    assert ended.result is not None
    assert [f"left out: {line}" for line in ended.result.report.failures] == [line[0] for line in ended.told]
    assert len({line["what"] for line in ended.told}) == len(ended.told)
    mine = [line for line in ended.told if line["what"].startswith(step) and words in line["what"]]
    assert mine, ended.out
    for line in mine:
        if not written:
            assert line["folder"] is None
            continue
        folder = Path(line["folder"])
        assert {path.name for path in folder.iterdir()} == {"traceback.txt", "options.json", "model.onnx"}
        assert words in (folder / "traceback.txt").read_text()
        assert ir.size(ir.load(folder / "model.onnx")) == SIZE


def agreement(model: ir.Model) -> float:
    """With the network, as its classes go, on the data."""
    ort = lwgraph.registry.executor("ort")
    wanted, found = (ort.prepare(each)({"x": samples()})["y"].argmax(1) for each in (network(), model))
    return float((wanted == found).mean())


__all__ = ["Ended", "Planted", "agreement", "ends_well", "is_told", "plant", "run", "stand_ins", "watch"]
