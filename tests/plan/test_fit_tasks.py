"""Fits through any executor: the same results in the same order, tasks that pickle, few under way at once."""

import pickle
from collections.abc import Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from typing import Any

import numpy as np
import pytest

from lwgraph import registry
from lwgraph.calibrate import Statistics
from lwgraph.errors import DataError, UsageError
from lwgraph.layers.form import parse_form
from lwgraph.layers.moments import Moments, Pooled
from lwgraph.plan.fit_tasks import FitTask, run_task, run_tasks
from lwgraph.testing.layers import layers, patches

FORMS = ("low-rank{rank=6,split=output}", "low-rank{rank=4,split=output}")
CHOSEN = {"plain", "strided", "grouped", "gemm", "matmul", "transposed"}


def tasks(*, estimate: bool = False) -> Iterator[FitTask]:
    for layer in layers():
        if layer.name in CHOSEN:
            site = layer.site
            x = patches(site, layer.samples())
            gram = Pooled(np.asarray(x.swapaxes(1, 2) @ x) / x.shape[1], x.mean(1), x.shape[1])
            yield FitTask.of(site, gram, [parse_form(text) for text in FORMS], estimate=estimate)


def same(a: Any, b: Any) -> bool:
    pairs = list(zip(a.fits, b.fits, strict=True))
    equal = all(
        np.array_equal(p.kernel, q.kernel)
        and np.array_equal(p.shift, q.shift)
        and p.error == q.error
        and all(np.array_equal(p.arrays[n], q.arrays[n]) for n in p.arrays)
        and p.form == q.form
        for p, q in pairs
    )
    return equal and a.errors == b.errors and bool(pairs or a.errors)


@pytest.mark.parametrize("kind", ["threads", "processes"])
def test_a_pool_gives_the_same_fits_in_the_same_order(kind: str) -> None:
    here = list(run_tasks(tasks()))
    assert len(here) == len(CHOSEN)
    pool: Executor = (
        ThreadPoolExecutor(2) if kind == "threads" else ProcessPoolExecutor(1, mp_context=get_context("spawn"))
    )
    with pool:
        there = list(run_tasks(tasks(), pool))
        estimates = list(run_tasks(tasks(estimate=True), pool))
    assert all(same(a, b) for a, b in zip(here, there, strict=True))
    assert all(same(a, run_task(t)) for a, t in zip(estimates, tasks(estimate=True), strict=True))
    assert all(
        e >= 0.9 * f.error for a, b in zip(estimates, here, strict=True) for e, f in zip(a.errors, b.fits, strict=True)
    )


def test_fits_belong_to_the_layer_in_its_graph_again() -> None:
    layer = next(layers())
    site, form = layer.site, parse_form(FORMS[0])
    task = pickle.loads(pickle.dumps(FitTask.of(site, None, [form])))
    assert task.site.nodes == () and task.site.key() == site.key() and task.site.macs() == site.macs()
    (fitted,) = run_task(task).at(site).fits
    assert fitted.site is site
    assert np.array_equal(fitted.kernel, form.fit(site, Moments(site)).kernel)


def test_what_a_form_looks_at_travels_with_the_task() -> None:
    layer = next(layers())
    site, x = layer.site, layer.samples()
    form = parse_form("octave{inputs=0.5}")
    ort = registry.executor("ort")
    known = Statistics(layer.model, [{"x": x}], ort)
    task = FitTask.of(site, known.gram(site), [form], measure=known.gram)
    (fitted,) = run_task(pickle.loads(pickle.dumps(task))).fits
    expected = form.fit(site, Moments(site, known.gram(site), lambda look: known.gram(look(site))))
    assert np.array_equal(fitted.kernel, expected.kernel) and fitted.error == expected.error
    with pytest.raises(DataError, match="only the moments of its own input patches"):
        run_task(FitTask.of(site, known.gram(site), [form]))


class Recorder(Executor):
    """Runs a task when its result is asked for, and notes how many are waiting."""

    def __init__(self) -> None:
        self.waiting, self.most, self.cancelled = 0, 0, 0

    def submit(self, function: Any, /, *args: Any, **named: Any) -> Any:
        self.waiting += 1
        self.most = max(self.most, self.waiting)
        outer = self

        class Lazy(Future[Any]):
            def result(self, timeout: float | None = None) -> Any:
                outer.waiting -= 1
                return function(*args, **named)

            def cancel(self) -> bool:
                outer.cancelled += 1
                return True

        return Lazy()


def test_few_tasks_are_under_way_at_once() -> None:
    made = 0

    def counted() -> Iterator[FitTask]:
        nonlocal made
        for task in tasks():
            made += 1
            yield task

    pool = Recorder()
    results = run_tasks(counted(), pool, ahead=2)
    next(results)
    assert made == 2
    assert len(list(results)) == len(CHOSEN) - 1 and pool.most == 2


def test_a_failure_arrives_with_its_result_and_stops_the_rest() -> None:
    good = list(tasks())[:3]
    bad = FitTask(good[0].site, None, ("no-such-form{}",))
    pool = Recorder()
    results = run_tasks([good[0], bad, *good[1:]], pool, ahead=3)
    next(results)
    with pytest.raises(UsageError, match="no-such-form"):
        next(results)
    assert pool.cancelled == 2
