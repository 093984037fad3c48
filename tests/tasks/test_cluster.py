"""A real Dask cluster of several processes; skipped where Dask is not installed."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lwgraph.errors import CheckError, UsageError
from lwgraph.tasks import Pool, open_pool
from lwgraph.tasks import cluster as module
from tests.tasks import jobs

distributed = pytest.importorskip("distributed")


@pytest.fixture(scope="module")
def running() -> Iterator[Any]:
    import dask

    with (
        dask.config.set({"distributed.worker.memory.terminate": False, "distributed.scheduler.allowed-failures": 1}),
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address=":0", memory_limit=0
        ) as cluster,
    ):
        yield cluster


@pytest.fixture(scope="module")
def pool(running: Any) -> Iterator[Pool]:
    with distributed.Client(running.scheduler_address) as client:
        client.wait_for_workers(2, timeout=60)  # one that another test killed may still be on its way back
    with open_pool(dask=running.scheduler_address) as opened:
        assert opened is not None and opened.workers == 2
        yield opened


def test_results(pool: Pool) -> None:
    assert [f.result() for f in [pool.submit(jobs.add, i, 1) for i in range(8)]] == [*range(1, 9)]
    assert len({f.result() for f in [pool.submit(jobs.pid, 0.2) for _ in range(6)]}) == 2


def test_a_tasks_own_error_arrives(pool: Pool) -> None:
    with pytest.raises(ValueError, match="this one"):
        pool.submit(jobs.fail, "this one").result()


def test_shared_values(pool: Pool) -> None:
    shared = pool.share(np.ones(1000))
    assert [pool.submit(jobs.total, shared, f).result() for f in (1.0, 2.0)] == [1000.0, 2000.0]


def test_a_killed_worker_loses_nothing(pool: Pool, tmp_path: Path) -> None:
    futures = [pool.submit(jobs.die_once, str(tmp_path / "died"), i) for i in range(12)]
    assert [f.result(timeout=60) for f in futures] == [i * i for i in range(12)]
    assert (tmp_path / "died").exists()


def test_one_worker_killed_from_outside_in_the_middle(running: Any, pool: Pool) -> None:
    shared = pool.share(np.ones(1000))
    futures = [pool.submit(jobs.slow_total, shared, float(i), 0.15) for i in range(20)]
    futures[2].result(timeout=60)
    victim = next(iter(running.workers.values())).pid
    os.kill(victim, signal.SIGKILL)
    assert [f.result(timeout=60) for f in futures] == [1000.0 * i for i in range(20)]
    assert victim not in {pool.submit(jobs.pid, 0.1).result(timeout=60) for _ in range(4)}


def test_a_task_that_hangs_is_done_again(running: Any, tmp_path: Path) -> None:
    with open_pool(dask=running.scheduler_address, timeout=1.0) as timed:
        assert timed is not None
        futures = [timed.submit(jobs.hang_once, str(tmp_path / "hung"), i) for i in range(6)]
        assert [f.result(timeout=60) for f in futures] == [i * i for i in range(6)]
        assert (tmp_path / "hung").exists()


def test_a_task_that_always_hangs_is_given_up_and_shared_values_outlive_it(running: Any) -> None:
    with open_pool(dask=running.scheduler_address, timeout=2.0) as timed:
        assert timed is not None
        shared = timed.share(np.ones(1000))
        futures = [timed.submit(jobs.slow_total, shared, 1.0, 600.0) for _ in range(2)]  # one on each worker
        for future in futures:
            with pytest.raises(CheckError, match=r"or did not end within 2 s; it is given up") as caught:
                future.result(timeout=120)
            assert "\n" not in str(caught.value)
        assert patiently(timed, jobs.total, shared, 2.0) == 2000.0


def patiently(pool: Pool, fn: Callable[..., Any], *args: Any) -> Any:
    """What a task gives, where new workers may start more slowly on a busy machine than the pool waits."""
    for _ in range(9):
        with suppress(CheckError):
            return pool.submit(fn, *args).result(timeout=60)
    return pool.submit(fn, *args).result(timeout=60)


def test_a_tasks_own_error_is_not_tried_again(pool: Pool, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="1"):
        pool.submit(jobs.count_and_fail, str(tmp_path / "count")).result(timeout=60)
    assert (tmp_path / "count").read_text() == "x"


def test_another_lwgraph_on_the_workers(running: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "version", lambda name: "0.0.0")
    with pytest.raises(UsageError, match=r"has lwgraph .*, here is 0\.0\.0"), open_pool(dask=running.scheduler_address):
        raise AssertionError("never opened")


def test_nothing_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SECONDS", 0.5)
    for address in ("tcp://127.0.0.1:9", "nonsense://"):
        with pytest.raises(UsageError, match="no Dask scheduler answers there") as caught, open_pool(dask=address):
            raise AssertionError("never opened")
        assert "\n" not in str(caught.value)


def test_without_dask(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(UsageError, match=r"pip install 'lwgraph\[dask\]'"), open_pool(dask="tcp://host:1"):
        raise AssertionError("never opened")
