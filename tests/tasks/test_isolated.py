"""Models that kill ONNX Runtime, or never end, in a process of their own."""

from __future__ import annotations

import gc
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jobs
import numpy as np
import onnx
import pytest
from onnx import helper

from lwgraph import ir, registry
from lwgraph.errors import DataError, ModelError
from lwgraph.executor import Executor, untimed
from lwgraph.tasks.isolated import Isolated, loaded_runs
from lwgraph.tasks.worker import DeathError, HangError, Worker

ORT = registry.executor("ort")
LEAST = np.iinfo(np.int64).min


def model_of(nodes: list[Any], inputs: dict[str, Any], outputs: dict[str, Any], name: str = "g") -> ir.Model:
    def infos(values: dict[str, Any]) -> list[onnx.ValueInfoProto]:
        return [helper.make_tensor_value_info(name, kind, shape) for name, (kind, shape) in values.items()]

    graph = helper.make_graph(nodes, name, infos(inputs), infos(outputs))
    return ir.load(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))


def divided() -> list[Any]:
    """q = a / b. Behind a product, what is divided by is not looked at before the runtime does it."""
    one = helper.make_node("Constant", [], ["one"], value=helper.make_tensor("one", 7, [1, 1], [1]))
    return [one, helper.make_node("MatMul", ["b", "one"], ["c"]), helper.make_node("Div", ["a", "c"], ["q"])]


def division() -> ir.Model:
    """Kills ONNX Runtime where it divides the least integer by -1."""
    pair = {name: (7, [1]) for name in "ab"}
    return model_of(divided(), pair, {"q": (7, [1])}, "division")


def endless() -> ir.Model:
    """A Loop without an end, after which a sum."""
    body = helper.make_graph(
        [helper.make_node("Identity", ["c"], ["d"]), helper.make_node("Add", ["v", "v"], ["w"])],
        "body",
        [helper.make_tensor_value_info(n, k, []) for n, k in (("i", 7), ("c", 9), ("v", 1))],
        [helper.make_tensor_value_info(n, k, []) for n, k in (("d", 9), ("w", 1))],
    )
    loop = helper.make_node("Loop", ["", "go", "x"], ["y"], body=body)
    return model_of([loop], {"go": (9, []), "x": (1, [])}, {"y": (1, [])}, "endless")


@pytest.fixture(scope="module")
def isolated() -> Isolated:
    return Isolated(ORT, timeout=60)


def pair(a: int, b: int) -> dict[str, np.ndarray[Any, Any]]:
    return {"a": np.array([a]), "b": np.array([b])}


def test_a_signal_becomes_a_model_error_and_the_next_run_works(isolated: Isolated) -> None:
    run = isolated.prepare(division())
    other = isolated.prepare(division())
    assert run(pair(7, 2))["q"] == 3
    with pytest.raises(ModelError, match="the runtime died with signal SIGFPE while running model 'division'") as error:
        run(pair(LEAST, -1))
    assert "\n" not in str(error.value)
    assert run(pair(9, 2))["q"] == 4 and other(pair(9, 3))["q"] == 3  # both are loaded again


def test_a_death_while_the_model_is_loaded(isolated: Isolated) -> None:
    constants = [
        helper.make_node("Constant", [], [name], value=helper.make_tensor(name, 7, [1], [value]))
        for name, value in (("a", LEAST), ("b", -1))
    ]
    nodes = [*constants, *divided(), helper.make_node("Add", ["q", "x"], ["y"])]
    model = model_of(nodes, {"x": (7, [1])}, {"y": (7, [1])}, "folded")
    with pytest.raises(ModelError, match="died with signal SIGFPE while loading model 'folded'"):
        isolated.prepare(model)


def test_a_run_without_end_costs_its_time() -> None:
    run = Isolated(ORT, timeout=20).prepare(endless())
    x = np.array(1, np.float32)
    start = time.monotonic()
    with pytest.raises(ModelError, match=r"gave no answer in 0\.5 s while running model 'endless'"):
        run.isolated.timeout = 0.5  # type: ignore[attr-defined]
        run({"go": np.array(True), "x": x})
    assert time.monotonic() - start < 5
    run.isolated.timeout = 20  # type: ignore[attr-defined]
    assert run({"go": np.array(False), "x": x})["y"] == 1


def test_outputs_are_those_of_the_executor_bit_for_bit(isolated: Isolated) -> None:
    rng = np.random.default_rng(0)
    nodes = [
        helper.make_node("MatMul", ["x", "x"], ["m"]),
        helper.make_node("Softmax", ["m"], ["s"]),
        helper.make_node("Transpose", ["s"], ["y"]),
        helper.make_node("Cast", ["x"], ["t"], to=8),
    ]
    model = model_of(nodes, {"x": (1, ["n", "n"])}, {"y": (1, None), "t": (8, None)})
    for size in (0, 3, 700):
        feeds = {"x": rng.standard_normal((size, size)).astype(np.float32)[:, ::-1]}
        for names in (None, ["m", "y"]):
            for executor in (ORT, untimed(ORT)):
                there = isolated if executor is ORT else untimed(isolated)
                found, expected = there.prepare(model, names)(feeds), executor.prepare(model, names)(feeds)
                assert list(found) == list(expected)
                for name, array in found.items():
                    assert array.dtype == expected[name].dtype and array.shape == expected[name].shape
                    if array.dtype != object:
                        assert array.tobytes() == expected[name].tobytes() and array.flags.writeable
                    else:
                        assert (array == expected[name]).all()


def test_it_is_an_executor_and_its_errors_are_the_executors(isolated: Isolated) -> None:
    assert isinstance(isolated, Executor) and isolated.name == "ort"
    with pytest.raises(DataError, match="'b'"):
        isolated.prepare(division())({"a": np.array([1])})
    with pytest.raises(ModelError, match="no value 'z'"):
        isolated.prepare(division(), ["z"])


def _known() -> list[int]:
    return sorted(loaded_runs)


def test_models_that_nobody_runs_are_dropped() -> None:
    isolated = Isolated(ORT, timeout=60)
    runs = [isolated.prepare(division()) for _ in range(3)]
    assert len(isolated.ask("", _known)) == 3
    folders = [Path(run.path).parent for run in runs]  # type: ignore[attr-defined]
    del runs[:2]
    gc.collect()
    kept = isolated.prepare(division())
    assert isolated.ask("", _known) == [run.number for run in (runs[0], kept)]  # type: ignore[attr-defined]
    assert [folder.exists() for folder in folders] == [False, False, True]


def test_a_worker_starts_once_and_anew_after_a_death() -> None:
    worker = Worker()
    first = worker.call(jobs.pid)
    assert worker.call(jobs.pid) == first != os.getpid()
    with pytest.raises(DeathError, match="died with signal SIGKILL"):
        worker.call(jobs.die)
    with pytest.raises(DeathError, match="ended with exit code 3"):
        worker.call(os._exit, 3)
    with pytest.raises(HangError, match=r"gave no answer in 0\.2 s"):
        worker.call(jobs.pid, 30.0, timeout=0.2)
    last = worker.call(jobs.pid)
    assert last != first
    worker.close()
    with pytest.raises(ProcessLookupError):
        os.kill(last, 0)


def test_a_worker_that_is_started_gets_ready_for_its_first_call() -> None:
    """What it will be asked about is imported by then; what cannot travel changes nothing."""
    modules = set()
    for needed in (ORT, lambda: None):
        worker = Worker(main=False, needed=needed)
        worker.start()
        assert worker._process is not None
        started = worker._process.pid
        modules.add(worker.call(jobs.imported, "lwgraph.runtime.ort"))
        assert worker.call(jobs.pid) == started
        worker.close()
    assert modules == {True, False}


def test_a_late_answer_is_not_that_of_the_next_call() -> None:
    """Ctrl-C while a worker is at work."""
    worker, here = Worker(), os.getpid()
    assert worker.call(jobs.add, 1, 1) == 2

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.2)
    try:
        with pytest.raises(KeyboardInterrupt):
            worker.call(jobs.pid, 0.6)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert worker.call(jobs.add, here, 1) == here + 1


def test_errors_that_do_not_travel_arrive_as_text() -> None:
    worker = Worker()
    with pytest.raises(Exception, match="StrangeError: two words"):
        worker.call(jobs.strange)
    with pytest.raises(Exception, match=r"(?i)pickle|local object"):  # as Python 3.13 says it
        worker.call(jobs.lambdas)
    with pytest.raises((pickle.PicklingError, AttributeError)):
        worker.call(lambda: 1)
    assert worker.call(jobs.add, 1, 1) == 2


def test_a_worker_ends_with_the_process_that_started_it() -> None:
    """Even one that is at work when its parent is killed."""
    outer = Worker()
    inner = outer.call(jobs.nested)
    with pytest.raises(DeathError):
        outer.call(jobs.die)
    for _ in range(100):
        try:
            os.kill(inner, 0)
        except ProcessLookupError:
            return
        if Path(f"/proc/{inner}/stat").exists() and Path(f"/proc/{inner}/stat").read_text().split()[2] == "Z":
            return
        time.sleep(0.05)
    pytest.fail("it lives on")


def test_a_script_that_guards_nothing_does_not_run_again_in_the_worker(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text("print('once')\nfrom lwgraph.tasks.worker import Worker\nprint(Worker().call(abs, -3))\n")
    ended = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=120)
    assert (ended.returncode, ended.stdout.split()) == (0, ["once", "3"]), ended.stderr


def test_what_nobody_runs_any_more_is_freed_when_it_is_asked_for() -> None:
    isolated = Isolated(ORT)
    run = isolated.prepare(model_of([helper.make_node("Neg", ["x"], ["y"])], {"x": (1, [1])}, {"y": (1, [1])}))
    assert len(isolated.ask("counting", _known)) == 1
    del run
    gc.collect()
    isolated.forget()
    assert isolated.ask("counting", _known) == []


def _left() -> tuple[int, int]:
    return os.getpid(), len(loaded_runs)


def test_the_process_of_a_worker_that_is_gone_is_there_for_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    """As good as new; one that died, was let go too long ago, or knows another environment, is not taken."""

    def process(kill: bool = False) -> int:
        isolated = Isolated(ORT)
        found, models = isolated.ask("", _left)
        assert models == 0
        kept = isolated.prepare(division())
        if kill:
            os.kill(found, signal.SIGKILL)
        del isolated, kept
        gc.collect()
        return found

    gc.collect()  # of what other tests have left: a worker that is found only now would take the place of this one
    monkeypatch.setattr("lwgraph.tasks.worker.PATIENCE", 60.0)  # on a busy machine, too
    first = process()
    assert process() == first
    other = Isolated(ORT)  # while another one has it
    assert other.ask("", _left)[0] == first
    second = process(kill=True)
    third = process()
    assert len({first, second, third}) == 3
    monkeypatch.setenv("LWGRAPH_SOMETHING", "else")
    fourth = process()
    assert fourth not in (first, second, third)


def test_a_process_that_nobody_takes_ends_by_itself() -> None:
    waiting = Worker(main=False, reset=jobs.rest_briefly)
    found = waiting.call(jobs.pid)
    process = waiting._process
    assert process is not None
    del waiting
    gc.collect()
    process.join(30)
    assert process.exitcode == 0
    assert Worker(main=False, reset=jobs.rest_briefly).call(jobs.pid) != found
