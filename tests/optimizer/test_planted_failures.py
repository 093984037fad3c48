"""A run always ends well: whatever fails, in whatever place, a proved result is delivered, and one line tells it."""

from __future__ import annotations

import json
import math
import signal
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from lwgraph import ir, registry
from lwgraph.errors import CheckError, DataError, ModelError, UsageError
from lwgraph.failures import Failures
from lwgraph.optimizer import first_run, improve, optimize, setting
from lwgraph.optimizer.candidates import Made
from lwgraph.optimizer.clock import OutOfTime
from lwgraph.optimizer.first_run import FirstRuns
from lwgraph.optimizer.making import Making
from lwgraph.optimizer.stages import Codes, Forms, Integers, PlanSearch, Stage, Structures, Training, Work
from lwgraph.plan.plan import Plan
from lwgraph.plan.search.front import Candidate
from lwgraph.plan.search.trials import Setting, Trials, run_trial
from lwgraph.report import Check
from lwgraph.rewrite import Context
from lwgraph.tasks.isolated import Isolated
from tests.optimizer.planting import ALLOWED, ends_well, is_told, network, plant, run, samples, stand_ins, watch

ERRORS: list[type[BaseException]] = [
    RuntimeError,
    MemoryError,
    np.linalg.LinAlgError,
    ModelError,
    SystemExit,
    DataError,
    UserWarning,
    CheckError,
    UsageError,
]
WORDS = "planted here"
HERE = "tests.optimizer.planting"
FIRST, THEN = "lwgraph.optimizer", "lwgraph.plan.search"

STAGES: dict[str, Stage] = {"i": Integers(), "s": Structures(), "f": Forms(), "S": PlanSearch(), "t": Training()}

# What may fail, where, the step that it costs, and the stages of the run that are there.
PLACES: list[tuple[str, str, str, str]] = [
    ("a pass", "lwgraph.passes.clean.identities:RemoveIdentities.run", "pass 'identities'", ""),
    ("the passes as a whole", "lwgraph.rewrite:Pipeline.rewrite", "clean", ""),
    ("the proof of the cleaned model", f"{FIRST}.prove:same_outputs", "clean", ""),
    ("the proof of a plan", f"{FIRST}.prove:Proof.checks", "quantized: the proof of a plan", "i"),
    ("the quantizer", "lwgraph.passes.quantize.role:PlanQuantizer.exactly", "integers", "i"),
    ("the quantizing pass", "lwgraph.passes.quantize.quantize:Quantize.run", "quantized: a plan", "is"),
    ("the quantizer's survey", "lwgraph.passes.quantize.role:PlanQuantizer.survey", "forms: integers", "if"),
    ("what channels may go", "lwgraph.passes.prune.channels:PruneChannels.options", "structure: prune-channels", "is"),
    (
        "a group of channels",
        "lwgraph.passes.prune.channels:PruneChannels.apply",
        "prune-channels: sensitivity of",
        "is",
    ),
    ("what blocks may go", "lwgraph.passes.prune.blocks:PruneBlocks.options", "structure: prune-blocks", "is"),
    ("removing a block", "lwgraph.passes.prune.blocks:PruneBlocks.apply", "structure: what blocks leave", "is"),
    ("a form's estimate", "lwgraph.passes.forms.depthwise:Depthwise.estimate", "forms: layer", "f"),
    ("a form's fit", f"{THEN}.planner:Planner.fitted", "forms: the fit of depthwise", "fS"),
    ("a form's nodes", "lwgraph.passes.forms.depthwise:Depthwise.emit", "search: a plan", "ifS"),
    ("the price of a layer", f"{HERE}:BySize.prices", "the price of layer", "is"),
    ("the price of a switch", f"{HERE}:BySize.switch", "forms: layer", "f"),
    ("the time of the network", f"{HERE}:BySize.whole", "preparation", "i"),
    ("the time of a plan", f"{HERE}:BySize.against", "quantized: a plan", "i"),
    ("the time of a trial", f"{FIRST}.stages.base:Work.milliseconds", "search: the time of a plan", "fS"),
    ("statistics of a layer", "lwgraph.calibrate:Statistics.gram", "forms: layer", "if"),
    ("statistics together", "lwgraph.calibrate:Statistics.prefetch", "forms: statistics of all layers", "if"),
    ("a layer's sensitivity", f"{THEN}.site_sensitivity:Replacement.within", "forms: the sensitivity of layer", "f"),
    ("the groups' sensitivities", f"{THEN}.structure:measure_sensitivity", "structure: prune-channels", "s"),
    ("the metric", f"{FIRST}.judge:Judge.raced", "quantized: a plan", "i"),
    ("the solver", f"{THEN}.plan_search:Knapsack.front", "forms", "if"),
    ("a trial", "lwgraph.measure.distance:Loss.__call__", "search: a plan", "fS"),
    ("the trunk", f"{FIRST}.making:Making.trunk", "quantized: a plan", "i"),
    ("refits of one layer", "lwgraph.plan.refit.sequential:_Refit._unit", "prune-channels: layer", "is"),
    ("the race", f"{FIRST}.candidates:Candidates.settle", "race", "i"),
    ("the front", f"{FIRST}.improve:front_rows", "front", "i"),
    ("remembering the front", f"{FIRST}.improve:keep_front", "front", "i"),
    ("timing", f"{FIRST}.deliver:time_models", "timing", "i"),
    ("the sizes of layers in the end", f"{FIRST}.timing:layer_shapes", "timing", "i"),
    ("rows of the report", f"{FIRST}.report_rows:choices", "report: choices", "i"),
    ("layers of the report", f"{FIRST}.deliver:layers_of", "report: layers", "i"),
    ("trials of the report", f"{FIRST}.report_rows:searched", "report: search", "i"),
    ("alternatives of the report", f"{FIRST}.deliver:alternatives", "report: promise", "i"),
    ("what a stage has to do", f"{FIRST}.stages:Structures.idle", "structure", "is"),
]
SPARED = {"the proof of a plan": 1, "the trunk": 1, "the time of a trial": 2}  # calls that do as they should first


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    stand_ins(monkeypatch, tmp_path)


@pytest.fixture
def shared(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    """The plans that stages try before one fails are made once."""
    monkeypatch.setenv("LWGRAPH_CACHE", str(cache / "failures"))


def only(monkeypatch: pytest.MonkeyPatch, stages: str) -> None:
    monkeypatch.setattr(improve, "STAGES", tuple(STAGES[letter] for letter in stages))


# ------------------------------------------------------------ errors


@pytest.mark.parametrize(
    ("error", "name", "place", "step", "stages"),
    [(ERRORS[number % len(ERRORS)], *row) for number, row in enumerate(PLACES)],
    ids=[name for name, *_ in PLACES],
)
def test_what_fails_costs_its_own_contribution(
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    tmp_path: Path,
    error: type[BaseException],
    name: str,
    place: str,
    step: str,
    stages: str,
) -> None:
    only(monkeypatch, stages)
    planted = plant(monkeypatch, place, lambda: error(WORDS), spare=SPARED.get(name, 0))
    ended = run(monkeypatch, capfd, tmp_path)
    assert planted.times
    ends_well(ended, planted)
    is_told(ended, WORDS, step)


@pytest.mark.usefixtures("shared")
@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("stage", STAGES.values(), ids=lambda stage: str(stage.name))
def test_a_stage_that_fails_ends_nothing(
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    tmp_path: Path,
    stage: Stage,
    error: type[BaseException],
) -> None:
    """The plan of the stage before stands, and the stage after it runs."""
    before, after = Integers(), Integers()
    monkeypatch.setattr(improve, "STAGES", (before, stage, after))
    monkeypatch.setattr(type(stage), "idle", lambda self, work: "")
    spare = int(isinstance(stage, Integers))
    planted = plant(monkeypatch, f"{FIRST}.stages:{type(stage).__name__}.run", lambda: error(WORDS), spare=spare)
    ended = run(monkeypatch, capfd, tmp_path, "--explain")
    ends_well(ended, planted)
    is_told(ended, WORDS, stage.name)
    assert planted.stood is not None and planted.stood.candidate is not None
    assert ended.result is not None and not ended.result.plan.empty
    assert [row.outcome for row in ended.result.report.runs[:2]] == ["done", "failed"]
    assert len(ended.result.report.runs) == 3 and "plans looked at" in ended.out


def test_what_a_stage_proposed_before_it_failed_counts(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    only(monkeypatch, "i")
    planted = plant(monkeypatch, f"{FIRST}.stages:Integers.run", lambda: MemoryError(WORDS), after=True)
    ended = run(monkeypatch, capfd, tmp_path)
    ends_well(ended, planted)
    is_told(ended, WORDS, "integers")
    assert planted.stood is not None and planted.stood.candidate is not None


def test_a_plan_that_gives_way_to_the_input_is_not_told_as_delivered(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    only(monkeypatch, "i")
    planted = plant(monkeypatch, f"{FIRST}.deliver:_score", lambda: ValueError(WORDS))
    ended = run(monkeypatch, capfd, tmp_path)
    assert planted.times and planted.stood is not None and planted.stood.candidate is not None
    is_told(ended, WORDS, "judging")
    assert ended.result is not None and ended.result.plan.empty
    front = ended.result.report.details["front"]
    assert front and not any(row["chosen"] for row in front) and "delivered" not in ended.out


def test_a_warning_that_is_an_error_is_one_like_others(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def warn() -> BaseException:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            try:
                np.float32(1e38) * np.float32(10)
            except RuntimeWarning as error:
                return error
        raise AssertionError("nothing was warned of")

    only(monkeypatch, "i")
    planted = plant(monkeypatch, "lwgraph.passes.quantize.quantize:Quantize.run", warn)
    ended = run(monkeypatch, capfd, tmp_path)
    ends_well(ended, planted)
    is_told(ended, "RuntimeWarning: overflow", "quantized: a plan")


@pytest.mark.parametrize("method", ["prepare", "train"])
def test_a_trainer_that_fails_leaves_the_untrained_plan(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path, method: str
) -> None:
    pytest.importorskip("torch")
    only(monkeypatch, "it")
    monkeypatch.setattr("lwgraph.passes.recover.role.Distiller.train", lambda self, model, context, seconds: None)
    planted = plant(monkeypatch, f"lwgraph.passes.recover.role:Distiller.{method}", lambda: RuntimeError(WORDS))
    ended = run(monkeypatch, capfd, tmp_path, "--distill", "--budget", "60s")
    assert planted.times
    ends_well(ended, planted)
    is_told(ended, WORDS, "training: a plan")
    assert planted.stood is not None and planted.stood.candidate is not None


# ------------------------------------------------------------ strict


@pytest.mark.usefixtures("shared")
@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("name", ["a pass", "the quantizing pass", "the solver", "timing"])
def test_where_the_run_is_strict_a_failure_is_the_error_that_it_is(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, error: type[BaseException], name: str
) -> None:
    _, place, _, stages = next(row for row in PLACES if row[0] == name)
    only(monkeypatch, stages.replace("i", "") or "i")
    if name == "the quantizing pass":  # else the plan is in the cache
        monkeypatch.setenv("LWGRAPH_CACHE", str(tmp_path))
    plant(monkeypatch, place, lambda: error(WORDS))
    library = error.__module__ == "lwgraph.errors"
    passes = "pass" in name  # a pass is a plug-in: what it raises becomes an error of one line
    wanted = error if library or (error is not SystemExit and not passes) else CheckError
    with pytest.raises(wanted, match=WORDS):
        optimize(network(), data={"x": samples()}, metric="agreement", max_drop=ALLOWED, strict=True)


@pytest.mark.parametrize(("error", "code"), [(ModelError, 1), (UsageError, 2), (MemoryError, 1), (SystemExit, 1)])
def test_a_strict_run_that_fails_writes_nothing(
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    tmp_path: Path,
    error: type[BaseException],
    code: int,
) -> None:
    only(monkeypatch, "i")
    plant(monkeypatch, f"{FIRST}.stages:Integers.run", lambda: error(WORDS))
    ended = run(monkeypatch, capfd, tmp_path, "--strict")
    assert ended.code == code and ended.result is None and ended.files == []
    assert [line for line in ended.err.splitlines() if line.startswith("lwgraph: error: ")]


# ------------------------------------------------------------ the user, and the clock


def interrupt() -> BaseException:
    """What Ctrl-C does, also where the tests run in the background of a shell, which lets them ignore it."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.raise_signal(signal.SIGINT)
    raise AssertionError("the signal did nothing")


INTERRUPTED = {
    "judging the input": f"{FIRST}.setting:Judge",
    "cleaning": "lwgraph.rewrite:Pipeline.rewrite",
    "the proof of the cleaned model": f"{FIRST}.prove:Proof.checks",
    "integers": f"{FIRST}.stages:Integers.run",
    "a plan": "lwgraph.passes.quantize.quantize:Quantize.run",
    "structure": f"{FIRST}.stages:Structures.run",
    "the last timing": f"{FIRST}.deliver:time_models",
    "the race": f"{FIRST}.candidates:Candidates.settle",
    "the table of plans": f"{FIRST}.improve:front_rows",
    "the last look": f"{FIRST}.last_look:LastLook.verdict",
}


@pytest.mark.parametrize("place", INTERRUPTED.values(), ids=INTERRUPTED)
def test_the_first_interrupt_delivers_what_there_is(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path, place: str
) -> None:
    only(monkeypatch, "is")
    planted = plant(monkeypatch, place, interrupt, once=True)
    ended = run(monkeypatch, capfd, tmp_path)
    assert planted.times == 1
    ends_well(ended, planted)
    assert "stopped by the user" in ended.out and not ended.told


def test_the_second_interrupt_ends_the_run_at_once(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    only(monkeypatch, "i")
    first = plant(monkeypatch, f"{FIRST}.stages:Integers.run", interrupt)
    second = plant(monkeypatch, f"{FIRST}.deliver:time_models", interrupt)
    ended = run(monkeypatch, capfd, tmp_path)
    assert (first.times, second.times) == (1, 1)
    assert ended.code == 130 and ended.files == [] and ended.result is None
    assert ended.err.splitlines()[-1].startswith("lwgraph: error: interrupted; nothing was written; what it measured")


@pytest.mark.parametrize(
    ("place", "options"),
    [
        ("lwgraph.ir.saving:_commit", ()),
        (f"{FIRST}.setting:gather", ()),
        ("lwgraph.rewrite:Pipeline.rewrite", ("--pipeline", "clean")),
        (f"{FIRST}.setting:Judge", ("--pipeline", "clean")),
    ],
)
def test_an_interrupt_where_nothing_is_there_or_in_what_was_named_leaves_nothing_half_written(
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    tmp_path: Path,
    place: str,
    options: tuple[str, ...],
) -> None:
    only(monkeypatch, "")
    monkeypatch.setattr("lwgraph.optimizer.result.Result.save", lambda self, path, **o: ir.save(self.model, path, **o))
    planted = plant(monkeypatch, place, interrupt, spare=int("_commit" in place))  # the kit saves the input, too
    ended = run(monkeypatch, capfd, tmp_path, *options)
    assert planted.times == 1 and ended.code == 130 and ended.files == []


@pytest.mark.usefixtures("shared")
@pytest.mark.parametrize("stage", STAGES.values(), ids=lambda stage: str(stage.name))
def test_a_stage_whose_time_is_over_ends_alone(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path, stage: Stage
) -> None:
    monkeypatch.setattr(improve, "STAGES", (Integers(), stage))
    monkeypatch.setattr(type(stage), "idle", lambda self, work: "")
    spare = int(isinstance(stage, Integers))
    planted = plant(monkeypatch, f"{FIRST}.stages:{type(stage).__name__}.run", OutOfTime, spare=spare)
    ended = run(monkeypatch, capfd, tmp_path)
    ends_well(ended, planted)
    assert ended.result is not None and not ended.told
    assert [row.outcome for row in ended.result.report.runs] == ["done", "its share of the time was over"]


def test_a_stage_that_hangs_is_ended_by_its_share_of_the_time(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def spin(self: Stage, work: object) -> None:
        while True:
            pass

    monkeypatch.setattr(improve, "STAGES", (Integers(),))
    monkeypatch.setattr(Integers, "share", 0.01)
    monkeypatch.setattr(Integers, "run", spin)
    monkeypatch.setattr("lwgraph.optimizer.clock.GRACE_SHARE", 0.0)
    monkeypatch.setattr("lwgraph.optimizer.clock.GRACE", 0.1)
    ended = run(monkeypatch, capfd, tmp_path, "--budget", "60s")
    assert ended.code == 0 and ended.result is not None and not ended.told
    assert [row.outcome for row in ended.result.report.runs] == ["its share of the time was over"]


def test_without_a_budget_the_search_ends_by_itself_and_training_does_not(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    left: list[float] = []

    class Last(PlanSearch):
        name, searches = "last", False

        def run(self, work: Work) -> Work:
            left.append(work.clock.left)
            return work

    def spin(self: Stage, work: object) -> None:
        while True:
            pass

    monkeypatch.setattr(Last, "idle", lambda self, work: "")
    monkeypatch.setattr(improve, "STAGES", (Integers(), Codes(), Last()))
    monkeypatch.setattr(improve, "search_until", lambda setting: 0.1)
    monkeypatch.setattr(Integers, "run", spin)
    monkeypatch.setattr("lwgraph.optimizer.clock.GRACE", 0.1)
    ended = run(monkeypatch, capfd, tmp_path)
    assert ended.code == 0 and ended.result is not None and not ended.told
    outcomes = [row.outcome for row in ended.result.report.runs]
    assert outcomes == ["its share of the time was over", "nothing to do: bytes are not asked for", "done"]
    assert left == [math.inf] and f"note: {improve.ENDED[:20]}" in ended.out


def test_the_end_of_the_budget_delivers_what_there_is(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    planted = watch(monkeypatch)
    ended = run(monkeypatch, capfd, tmp_path, "--budget", "0.1s")
    ends_well(ended, planted)
    assert "note: the budget of 0.1 s was spent" in ended.out and not ended.told


# ------------------------------------------------------------ the second executor, and the cache


@pytest.mark.parametrize("place", ["ReferenceExecutor.prepare", "ReferenceRun.__call__"])
def test_a_second_executor_that_cannot_run_the_model_is_a_note(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path, place: str
) -> None:
    only(monkeypatch, "i")
    planted = plant(monkeypatch, f"lwgraph.runtime.reference:{place}", lambda: KeyError(WORDS))
    ended = run(monkeypatch, capfd, tmp_path)
    ends_well(ended, planted)
    assert "note: no second executor verified the result: KeyError" in ended.out
    assert ended.result is not None and not ended.result.plan.empty


def test_a_plan_that_computes_other_values_is_out(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def differ(*arguments: Any) -> Check:
        return Check("both executors agree", "ort", "rounding", False, WORDS)

    only(monkeypatch, "i")
    monkeypatch.setattr("lwgraph.optimizer.prove.same_in_both", differ)
    ended = run(monkeypatch, capfd, tmp_path)
    ends_well(ended, watch(monkeypatch))
    is_told(ended, WORDS, "quantized: the proof of a plan")
    assert ended.result is not None and ended.result.plan.empty


def test_a_cache_that_cannot_be_written_costs_only_what_it_would_keep(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("LWGRAPH_CACHE", str(tmp_path / "file"))
    planted = plant(monkeypatch, f"{FIRST}.stages:Structures.run", lambda: RuntimeError(WORDS))
    ended = run(monkeypatch, capfd, tmp_path)
    ends_well(ended, planted)
    is_told(ended, WORDS, "structure", written=False)
    assert "set LWGRAPH_CACHE" in ended.out
    assert ended.result is not None and not ended.result.plan.empty


@pytest.mark.parametrize("rubbish", ["{", "[1, 2]", "the right keys"])
def test_a_cache_full_of_rubbish_is_as_good_as_none(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path, rubbish: str
) -> None:
    found = []
    for _ in range(2):
        planted = watch(monkeypatch)
        ended = run(monkeypatch, capfd, tmp_path, "--overwrite")
        ends_well(ended, planted)
        assert not ended.told or (rubbish == "the right keys" and found)
        found.append(ended.output.read_bytes())
        for path in (tmp_path / "cache").rglob("*.*"):
            if rubbish == "the right keys" and path.suffix == ".json":
                path.write_text(json.dumps(dict.fromkeys(json.loads(path.read_text()), "rubbish")))
            elif path.is_file():
                path.write_text(rubbish)
    assert found[0] == found[1] or rubbish == "the right keys"


# ------------------------------------------------------------ a runtime that dies, or hangs


def dying(graph: onnx.GraphProto) -> None:
    """Divide the least integer by a -1 that follows from what is dear to compute, of which ONNX Runtime dies."""
    graph.initializer.append(numpy_helper.from_array(np.array([np.iinfo(np.int64).min], np.int64), "least"))
    steps = {"Size": (["y"], "size"), "Div": (["size", "size"], "one"), "Neg": (["one"], "minus")}
    graph.node.extend(helper.make_node(kind, read, [made]) for kind, (read, made) in steps.items())
    graph.node.append(helper.make_node("Div", ["least", "minus"], ["quotient"]))


def hanging(graph: onnx.GraphProto) -> None:
    """A Loop without an end, which only running it shows."""
    body = helper.make_graph(
        [helper.make_node("GreaterOrEqual", ["v", "v"], ["d"]), helper.make_node("Add", ["v", "v"], ["w"])],
        "body",
        [helper.make_tensor_value_info(n, k, []) for n, k in (("i", 7), ("c", 9), ("v", 1))],
        [helper.make_tensor_value_info(n, k, []) for n, k in (("d", 9), ("w", 1))],
    )
    graph.initializer.append(numpy_helper.from_array(np.array(True), "go"))
    graph.initializer.append(numpy_helper.from_array(np.array(1, np.float32), "one"))
    graph.node.append(helper.make_node("Loop", ["", "go", "one"], ["quotient"], body=body))


@pytest.mark.parametrize(("fault", "words"), [(dying, "died with signal SIGFPE"), (hanging, "gave no answer in")])
def test_a_runtime_that_dies_or_hangs_costs_the_plan_that_it_ran(
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    tmp_path: Path,
    fault: Callable[[onnx.GraphProto], None],
    words: str,
) -> None:
    def faulty(self: Making, candidate: Candidate) -> Made:
        made = stated(self, candidate)
        if seen:
            return made
        seen.append(candidate)
        proto = ir.to_proto(made.model)
        fault(proto.graph)
        kind = TensorProto.INT64 if fault is dying else TensorProto.FLOAT
        proto.graph.output.append(helper.make_tensor_value_info("quotient", kind, None))  # so that it is computed
        return replace(made, model=ir.load(proto))

    stated, seen = Making.stated, list[Candidate]()
    only(monkeypatch, "i")
    monkeypatch.setattr(setting, "FirstRuns", FirstRuns)
    monkeypatch.setattr(first_run, "SECONDS", 4.0)
    monkeypatch.setattr(Making, "stated", faulty)
    planted = watch(monkeypatch)
    ended = run(monkeypatch, capfd, tmp_path)
    ends_well(ended, planted)
    is_told(ended, words, "quantized: a plan")


def test_what_ran_once_needs_no_worker_again(monkeypatch: pytest.MonkeyPatch) -> None:
    prepared = []
    prepare = Isolated.prepare

    def counted(self: Isolated, model: ir.Model, outputs: Sequence[str] | None = None) -> Any:
        prepared.append(model)
        return prepare(self, model, outputs)

    monkeypatch.setattr(Isolated, "prepare", counted)
    executor, feeds = FirstRuns(registry.executor("ort")), {"x": samples()}
    found = [executor.prepare(network())(feeds)["y"] for _ in range(2)]
    assert np.array_equal(*found) and len(prepared) == 1
    executor.untimed().prepare(network())
    assert len(prepared) == 1
    halved = ir.to_proto(network())
    halved.graph.node[6].op_type = "Sub"
    executor.as_written().prepare(ir.load(halved))
    assert len(prepared) == 2


# ------------------------------------------------------------ workers


class Unable(Setting):
    def __init__(self) -> None: ...

    def measure(self, plan: Plan, fits: Any) -> float:
        raise MemoryError(WORDS)


@pytest.mark.parametrize("dead", [False, True], ids=["the task failed", "the worker died"])
def test_a_trial_that_fails_in_a_worker_costs_that_plan(tmp_path: Path, dead: bool) -> None:
    future: Future[tuple[float, float, str]] = Future()
    if dead:
        future.set_exception(RuntimeError(WORDS))
    else:
        future.set_result(run_trial(Unable(), Plan(), ()))
    failures, trials = Failures(), object.__new__(Trials)
    trials.planner = SimpleNamespace(context=Context(failures=failures))  # type: ignore[assignment]
    trials._running = {(0,): future}
    taken = trials.take((0,))
    assert taken is not None and taken[0] == np.inf
    assert [row.step for row in failures.rows] == ["search: a plan"] and WORDS in failures.rows[0].reason
