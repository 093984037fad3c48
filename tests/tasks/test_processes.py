"""Processes of this machine: results, errors, dead workers, shared values."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError, wait
from pathlib import Path

import numpy as np
import pytest

from lwgraph.errors import CheckError, UsageError
from lwgraph.tasks import Pool, open_pool
from lwgraph.tasks.worker import HangError, Worker
from tests.tasks import jobs, slow_to_import


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    with open_pool(2) as opened:
        assert opened is not None
        yield opened


def test_one_worker_is_this_process() -> None:
    with open_pool(1) as pool:
        assert pool is None


@pytest.mark.parametrize(("workers", "dask"), [(0, None), (-1, None), (100_000, None), (2, "tcp://host:1")])
def test_wrong_numbers(workers: int, dask: str | None) -> None:
    with pytest.raises(UsageError, match="--workers"), open_pool(workers, dask):
        raise AssertionError("never opened")


def test_results_in_other_processes(pool: Pool) -> None:
    assert [f.result() for f in [pool.submit(jobs.add, i, 1) for i in range(8)]] == [*range(1, 9)]
    assert list(pool.map(jobs.add, [1, 2], [3, 4])) == [4, 6]
    pids = {f.result() for f in [pool.submit(jobs.pid, 0.2) for _ in range(4)]}
    assert len(pids) == 2 and os.getpid() not in pids


def test_linear_algebra_is_single_threaded(pool: Pool) -> None:
    assert pool.submit(jobs.threads).result() == "1"


def test_ctrl_c_is_left_to_the_caller(pool: Pool) -> None:
    assert pool.submit(jobs.interrupted).result()


def test_a_tasks_own_error_arrives(pool: Pool) -> None:
    with pytest.raises(ValueError, match="this one"):
        pool.submit(jobs.fail, "this one").result()


def test_a_killed_worker_loses_nothing(pool: Pool, tmp_path: Path) -> None:
    futures = [pool.submit(jobs.die_once, str(tmp_path / "died"), i) for i in range(12)]
    assert [f.result() for f in futures] == [i * i for i in range(12)]
    assert (tmp_path / "died").exists()


def test_a_task_that_always_kills_is_given_up(pool: Pool) -> None:
    with pytest.raises(CheckError, match="died 3 times on the same task"):
        pool.submit(jobs.die).result()
    assert pool.submit(jobs.add, 1, 1).result() == 2  # the pool goes on


def test_one_worker_killed_from_outside_in_the_middle(pool: Pool) -> None:
    shared = pool.share(np.ones(1000))
    victim = pool.submit(jobs.pid, 0.0).result()
    futures = [pool.submit(jobs.slow_total, shared, float(i), 0.05) for i in range(30)]
    futures[2].result()
    os.kill(victim, signal.SIGKILL)
    assert [f.result() for f in futures] == [1000.0 * i for i in range(30)]
    assert victim not in {f.result() for f in [pool.submit(jobs.pid, 0.1) for _ in range(6)]}


def test_a_task_that_hangs_is_done_again(tmp_path: Path) -> None:
    with open_pool(2, timeout=2.0) as timed:
        assert timed is not None
        futures = [timed.submit(jobs.hang_once, str(tmp_path / "hung"), i) for i in range(6)]
        assert [f.result(timeout=60) for f in futures] == [i * i for i in range(6)]
        assert (tmp_path / "hung").exists()


def test_a_task_that_always_hangs_is_given_up() -> None:
    with open_pool(2, timeout=2.0) as timed:
        assert timed is not None
        with pytest.raises(CheckError, match=r"did not end within 2 s, 2 times; it is given up"):
            timed.submit(jobs.pid, 600.0).result(timeout=60)
        assert timed.submit(jobs.add, 1, 1).result() == 2


def test_what_a_worker_takes_to_start_is_not_the_task_s_time() -> None:
    worker = Worker()
    assert worker.call(slow_to_import.quick, timeout=slow_to_import.ALLOWED) == 1
    with pytest.raises(HangError, match=r"gave no answer in 0\.5 s"):
        worker.call(slow_to_import.slow, timeout=slow_to_import.ALLOWED)
    worker.close()


def test_the_pool_ends_at_once_when_the_caller_fails() -> None:
    start = time.monotonic()
    with pytest.raises(ZeroDivisionError), open_pool(2) as pool:
        assert pool is not None
        futures = [pool.submit(jobs.pid, 600.0) for _ in range(4)]
        while not futures[0].running():
            time.sleep(0.01)
        raise ZeroDivisionError
    assert time.monotonic() - start < 20
    for future in futures:
        with pytest.raises(CancelledError):
            future.result(timeout=1)
    with pytest.raises(RuntimeError, match="shut down"):
        pool.submit(jobs.add, 1, 1)


def test_shared_values(pool: Pool) -> None:
    shared = pool.share(np.ones(1000))
    assert [pool.submit(jobs.total, shared, f).result() for f in (1.0, 2.0)] == [1000.0, 2000.0]


def test_cancelled_tasks(pool: Pool) -> None:
    busy = [pool.submit(jobs.pid, 0.3) for _ in range(4)]
    late = pool.submit(jobs.add, 1, 1)
    assert late.cancel() and late.cancelled()
    wait(busy)
    assert all(f.result() for f in busy)


def test_the_environment_is_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    with open_pool(2):
        assert os.environ["OMP_NUM_THREADS"] == os.environ["MKL_NUM_THREADS"] == "1"
    assert os.environ["OMP_NUM_THREADS"] == "3" and "MKL_NUM_THREADS" not in os.environ
