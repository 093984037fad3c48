"""What a run holds of a model whose weights are large beside its allowance."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lwgraph import ir
from lwgraph.executor import Array, Feeds, Run, fit_together
from lwgraph.ir.saving import LARGE
from lwgraph.ir.tensors import MappedTensor
from lwgraph.measure import paired_latency
from lwgraph.measure.latency import shortest
from lwgraph.optimizer.first_run import FirstRuns
from lwgraph.optimizer.memory import keep_on_disk, room_of_sessions, weights
from lwgraph.optimizer.sessions import Sessions
from lwgraph.optimizer.timing import APART, time_models
from lwgraph.tasks.isolated import Isolated
from tests.layers.chain import FEEDS, ORT, chain
from tests.passes.quantize.quantize_models import Net
from tests.runtime.products_in_files import LAYER, X, products


class Counting:
    """An executor that counts the sessions it made, and how many of them are there."""

    name = "ort"

    def __init__(self) -> None:
        self.made, self.alive, self.most = 0, 0, 0

    def prepare(self, model: ir.Model, outputs: Any = None) -> Run:
        """See `Executor`."""
        return _Counted(self, ORT.prepare(model, outputs))


class _Counted:
    def __init__(self, executor: Counting, run: Run) -> None:
        self.executor, self.run = executor, run
        executor.made += 1
        executor.alive += 1
        executor.most = max(executor.most, executor.alive)

    def __call__(self, feeds: Feeds) -> dict[str, Array]:
        return self.run(feeds)

    def __del__(self) -> None:
        self.executor.alive -= 1


def test_sessions_that_do_not_fit_together_are_made_anew() -> None:
    executor, size = Counting(), weights(chain())
    sessions = Sessions(room=1.5 * size)
    runs = [sessions.prepare(executor, chain(), None) for _ in range(2)]
    wanted = next(iter(ORT.prepare(chain())(FEEDS).values()))
    for run in (*runs, *runs):
        np.testing.assert_array_equal(next(iter(run(FEEDS).values())), wanted)
    assert executor.most == 1 and executor.made == 6
    assert not fit_together(runs) and fit_together(runs[:1])


def test_sessions_that_fit_are_made_once() -> None:
    executor, size = Counting(), weights(chain())
    sessions = Sessions(room=2.5 * size)
    runs = [sessions.prepare(executor, chain(), None) for _ in range(2)]
    for run in (*runs, *runs):
        run(FEEDS)
    assert executor.made == 2 and fit_together(runs)
    del run, runs
    assert executor.alive == 0  # nothing is held that nobody runs
    assert isinstance(Sessions(room=100.0 * size).prepare(executor, chain(), None), _Counted)


def test_a_model_that_changes_later_runs_as_it_was() -> None:
    model, size = chain(), weights(chain())
    sessions = Sessions(room=1.2 * size)
    run = sessions.prepare(ORT, model, None)
    wanted = run(FEEDS)
    model.graph[1].op_type = "Abs"
    sessions.prepare(ORT, chain(), None)(FEEDS)
    np.testing.assert_array_equal(*[next(iter(found.values())) for found in (run(FEEDS), wanted)])


@pytest.mark.parametrize("room", [1.5, 2.5])
def test_models_that_do_not_fit_together_are_timed_one_after_the_other(room: float) -> None:
    executor, size = Counting(), weights(chain())
    sessions = Sessions(room=room * size)
    runs = {name: sessions.prepare(executor, chain(), None) for name in "ab"}
    times = paired_latency(runs, [FEEDS], rounds=7)
    assert times.apart is (room < 2) and times.rounds == 7
    assert executor.made == (4 if times.apart else 2)  # not anew in each round
    low, high = times.speedup("b").interval
    assert low <= times.speedup("b").ratio <= high
    before = executor.made
    least, rounds = shortest(list(runs.values()), FEEDS, seconds=0.05)
    assert len(least) == 2 and min(least) > 0 and rounds >= 5
    assert executor.made - before == (2 if times.apart else 0)


class InRoom:
    """An executor whose sessions have so much room."""

    name = "ort"

    def __init__(self, room: float) -> None:
        self.sessions = Sessions(room)

    def prepare(self, model: ir.Model, outputs: Any = None) -> Run:
        """See `Executor`."""
        return self.sessions.prepare(ORT, model, outputs)


@pytest.mark.parametrize(("room", "notes"), [(1.5, (APART,)), (2.5, ())])
def test_the_report_says_that_models_were_not_timed_in_turn(room: float, notes: tuple[str, ...]) -> None:
    executor, models = InRoom(room * weights(chain())), {"input": chain(), "cleaned": chain()}
    timed = time_models(models, executor, [FEEDS], "ort", 1, lambda *_: None, stated=True, seconds=0.1)
    assert tuple(note for note in timed.notes if note == APART) == notes


def test_timed_models_are_let_go_before_their_shapes_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    executor, held = Counting(), list[int]()
    shapes = "lwgraph.optimizer.timing.layer_shapes"
    monkeypatch.setattr(shapes, lambda *_: held.append(executor.alive) or {})
    models = {"input": chain(), "cleaned": chain()}
    time_models(models, executor, [FEEDS], "ort", 1, lambda *_: None, stated=True, seconds=0.1)
    assert held == [0, 0]


class Elsewhere:
    """In place of a worker, which takes a second to start."""

    def __init__(self, executor: Counting) -> None:
        self.executor, self.held, self.timeout = executor, list[int](), None

    def forget(self) -> None:
        """See `Isolated`."""

    def prepare(self, model: ir.Model, outputs: Any = None) -> Run:
        """Note how many sessions are held here meanwhile."""
        self.held.append(self.executor.alive)
        return ORT.prepare(model, outputs)


def test_a_worker_gets_room_before_it_loads() -> None:
    executor = Counting()
    worker: Any = Elsewhere(executor)
    first = FirstRuns(executor, sessions=Sessions(room=1.5 * weights(chain())), _isolated=worker)
    run, changed = first.prepare(chain()), chain()
    run(FEEDS)
    changed.graph[1].op_type = "Abs"
    assert executor.alive == 1
    first.prepare(changed)
    assert worker.held == [0, 0]


def test_the_room_is_what_is_promised() -> None:
    """A run may take the allowance and 1.5 times the model; statistics and fits take most of the allowance."""
    assert room_of_sessions(2_000, 1_000) == 2_000
    assert room_of_sessions(0, 1_000) == 1_500


def test_a_worker_reads_weights_where_they_are(tmp_path: Path) -> None:
    model, isolated = ir.load(products(tmp_path)), Isolated(ORT)
    run: Any = isolated.prepare(model)
    np.testing.assert_array_equal(*[next(iter(found.values())) for found in (run(X), ORT.prepare(model)(X))])
    assert sum(path.stat().st_size for path in Path(run.path).parent.iterdir()) < LAYER
    isolated._worker.close()


def made() -> ir.Model:
    """A product with a weight of LARGE bytes in memory, and a small one."""
    net = Net()
    width = int((LARGE / 4) ** 0.5)
    x = net.op("MatMul", net.input("x", ["n", width]), net.constant(net.rng.normal(size=(width, width)).astype("f")))
    return net.model(net.op("Add", x, net.constant(np.ones(width, np.float32))))


def test_what_passes_made_of_large_weights_lies_on_disk(tmp_path: Path) -> None:
    model, same = made(), made()
    held = {name: value.const_value for name, value in model.graph.initializers.items()}
    keep_on_disk(model, 8 * LARGE + 4096 * 8)
    assert all(value.const_value is held[name] for name, value in model.graph.initializers.items())  # it fits
    keep_on_disk(model, None)
    assert weights(model, in_memory=True) == weights(model)
    assert keep_on_disk(model, 8 * LARGE) is model
    mapped = [v.const_value for v in model.graph.initializers.values() if isinstance(v.const_value, MappedTensor)]
    assert [tensor.nbytes for tensor in mapped] == [LARGE] and weights(model, in_memory=True) == 2048
    feed = {"x": np.ones((1, 512), np.float32)}
    np.testing.assert_array_equal(*[next(iter(ORT.prepare(m)(feed).values())) for m in (model, same)])
    assert ir.fingerprint(model) == ir.fingerprint(same)
    ir.save(model, tmp_path / "saved.onnx")  # of what came without external data, none is made
    assert [path.name for path in tmp_path.iterdir()] == ["saved.onnx"]
    file = mapped[0].file.path
    assert file.exists()
    del model, mapped, held
    gc.collect()
    assert not file.exists()


def test_a_full_disk_costs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    model = made()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("lwgraph.ir.saving._write_data", full)
    assert weights(keep_on_disk(model, LARGE), in_memory=True) == weights(model)
