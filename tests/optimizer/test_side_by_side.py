"""Work side by side, through `optimize`: the same result with any number of workers, also when one of them dies."""

from __future__ import annotations

import os
import signal
import threading
import time
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lwgraph
from lwgraph import ir
from lwgraph.calibrate.layer_shapes import layer_shapes
from lwgraph.executor import watched
from lwgraph.failures import Failures
from lwgraph.measure.distance import Loss
from lwgraph.optimizer.clock import OutOfTime
from lwgraph.plan.search import site_sensitivity
from lwgraph.plan.search.planner import Planner, open_planner
from lwgraph.plan.search.trials import Trials
from lwgraph.rewrite.base import Context
from lwgraph.tasks import open_pool
from lwgraph.tasks.pool import finished
from tests.layers.chain import FEEDS, ORT, Measured, chain
from tests.optimizer.redundant import network
from tests.plan.search.by_work import ByWork
from tests.tasks.jobs import DeadlyLoss

DATA = [{"x": np.random.default_rng(i).standard_normal((4, 3, 16, 16)).astype(np.float32)} for i in range(24)]


def optimized(folder: Path, monkeypatch: pytest.MonkeyPatch, **options: Any) -> lwgraph.Result:
    """A run from an empty cache, without a search that goes on for long."""
    monkeypatch.setenv("LWGRAPH_CACHE", str(folder))
    monkeypatch.setattr("lwgraph.plan.search.plan_search.BARREN", 6)
    options = {"metric": "sqnr", "max_drop": 65.0, "target": "macs", **options}
    return lwgraph.optimize(network(rank=24, width=48), data=DATA, **options)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> lwgraph.Result:
    with pytest.MonkeyPatch.context() as patch:
        return optimized(tmp_path_factory.mktemp("alone"), patch)


def test_two_workers_find_what_one_finds(
    alone: lwgraph.Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = optimized(tmp_path, monkeypatch, workers=2)
    assert not alone.plan.empty and not result.report.failures
    assert result.plan == alone.plan and ir.fingerprint(result.model) == ir.fingerprint(alone.model)


def test_a_cluster_that_loses_a_worker_finds_the_same(
    alone: lwgraph.Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    distributed = pytest.importorskip("distributed")
    import dask

    with (
        dask.config.set({"distributed.worker.memory.terminate": False}),
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address=":0", memory_limit=0
        ) as cluster,
    ):
        killed: list[int] = []

        def kill_one(what: str, done: int, total: int) -> None:
            if "measuring sensitivities" in what and done == 2 and not killed:
                killed.append(next(iter(cluster.workers.values())).pid)
                os.kill(killed[0], signal.SIGKILL)

        result = optimized(tmp_path, monkeypatch, dask=cluster.scheduler_address, progress=kill_one)
    assert killed and not result.report.failures
    assert result.plan == alone.plan and ir.fingerprint(result.model) == ir.fingerprint(alone.model)


def planner(folder: Path) -> Planner:
    model = chain()
    context = Context(executor=ORT, reference=ORT, statistics=Measured(ir.clone(model), FEEDS), data=[FEEDS])
    return open_planner(model, context, ByWork(folder), shapes=layer_shapes(model, FEEDS, ORT), forms=["low-rank"])


def test_sensitivities_are_the_same_to_the_last_bit(tmp_path: Path) -> None:
    made = planner(tmp_path)
    loss = Loss(ORT.prepare(made.model), [FEEDS])
    here = site_sensitivity.measure(made.model, made.items, loss, ORT, feeds=loss.feeds)
    with open_pool(2) as pool:
        assert site_sensitivity.measure(made.model, made.items, loss, ORT, feeds=loss.feeds, pool=pool) == here
    assert len(set(here.values())) == len(made.items) > 1


def test_a_network_that_kills_its_workers_costs_only_its_own_figure(tmp_path: Path) -> None:
    made, failures = planner(tmp_path), Failures()
    with open_pool(2) as pool:
        found = site_sensitivity.measure(made.model, made.items, DeadlyLoss(), ORT, pool=pool, failures=failures)
    assert found == {item.name: 1.0 for item in made.items}  # the median, of none
    assert {row.step for row in failures.rows} == {f"forms: the sensitivity of layer '{i.name}'" for i in made.items}
    assert all("worker processes died" in row.reason for row in failures.rows)


def test_the_budget_ends_the_wait_for_a_task() -> None:
    def over() -> None:
        raise OutOfTime

    with watched(over), pytest.raises(OutOfTime):
        finished(Future[int]())


def test_a_run_that_ends_leaves_no_task_at_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A task that hangs is not waited for at the end of a run."""
    monkeypatch.setattr("lwgraph.plan.search.trials.LINGER", 0.2)
    begun: list[float] = []
    real = Trials.stop

    def stop(trials: Trials) -> None:
        if not begun:
            begun.append(time.monotonic())
            trials._running[(-1,)] = trials.pool.submit(time.sleep, 300)  # type: ignore[assignment]
            time.sleep(0.5)
        real(trials)

    monkeypatch.setattr(Trials, "stop", stop)
    ends = threading.Timer(200, lambda: os.kill(os.getpid(), signal.SIGINT))
    ends.start()
    result = optimized(tmp_path, monkeypatch, workers=2)
    ends.cancel()
    assert begun and not result.plan.empty and time.monotonic() - begun[0] < 150
