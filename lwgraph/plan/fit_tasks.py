"""Fits as tasks that any `concurrent.futures.Executor` can run: threads, processes, machines."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from lwgraph.errors import DataError
from lwgraph.layers.form import Fitted, Form, parse_form
from lwgraph.layers.moments import GramLike, Moments, Pooled
from lwgraph.layers.probe import Probe
from lwgraph.layers.site import Site

AHEAD = 4  # tasks under way at once: enough for a few workers, and no more Gram matrices in memory than that


class DetachedSite(Site):
    """A layer without its graph: geometry, weight and bias. It pickles; what asks for nodes or values fails."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """The element type of the weight."""
        found: np.dtype[Any] = vars(self)["_dtype"]
        return found

    @property
    def activation(self) -> str:
        """The operator behind the layer; see `Site.activation`."""
        return str(vars(self)["_activation"])

    @classmethod
    def of(cls, site: Site) -> DetachedSite:
        """A copy of all that fits need of `site`. O(weight)."""
        given = {f.name: getattr(site, f.name) for f in fields(site)} | {"nodes": (), "graph": None}
        twin = cls(**given)
        vars(twin).update(
            shape=site.shape, weight=site.weight, bias=site.bias, _dtype=site.dtype, _activation=site.activation
        )
        return twin


@dataclass(frozen=True, eq=False)
class FitTask:
    """The forms to fit to one layer; they share the factorizations of its moments.

    Attributes:
        site: the layer, detached from its graph.
        gram: moments of its input patches; None: fits for white inputs.
        forms: in their spelling.
        estimate: only estimate the errors (`Form.estimate`).
        seen: moments of what forms look at beside the layer's patches, by the geometry of that.
    """

    site: DetachedSite
    gram: Pooled | None
    forms: tuple[str, ...]
    estimate: bool = False
    seen: tuple[tuple[object, Pooled], ...] = ()

    @classmethod
    def of(
        cls,
        site: Site,
        gram: GramLike | None,
        forms: Sequence[Form],
        *,
        estimate: bool = False,
        measure: Callable[[Site | Probe], GramLike] | None = None,
    ) -> FitTask:
        """A task for a layer of a model.

        `measure` gives the moments of what a form looks at where that is more than the layer's patches, such as
        `Statistics.gram`; without it, a form that does fails in the task.
        """
        seen: dict[object, Pooled] = {}
        for form in forms if gram is not None and measure is not None else ():
            probe = form.seen(site)
            if isinstance(probe, Probe) and probe.patches not in seen:
                seen[probe.patches] = Pooled.of([measure(probe)])  # type: ignore[misc]
        pooled = None if gram is None else Pooled(gram.matrix, gram.mean, gram.count)
        return cls(DetachedSite.of(site), pooled, tuple(map(str, forms)), estimate, tuple(seen.items()))


@dataclass(frozen=True, eq=False)
class FitResult:
    """The result of a task, one entry per form in their order: fits, or estimated relative output errors."""

    fits: tuple[Fitted, ...] = ()
    errors: tuple[float, ...] = ()

    def at(self, site: Site) -> FitResult:
        """The fits at the layer in its graph."""
        return replace(self, fits=tuple(fit.moved(site) for fit in self.fits))


def run_task(task: FitTask) -> FitResult:
    """Fit every form of the task. The same task gives the same bytes wherever it runs with the same BLAS threads."""
    seen = dict(task.seen)

    def measure(look: Callable[[Site], Site | Probe]) -> GramLike:
        probe = look(task.site)
        assert isinstance(probe, Probe)
        if probe.patches not in seen:
            raise DataError(f"for layer '{task.site.name}', only the moments of its own input patches are known")
        return seen[probe.patches]

    moments = Moments(task.site, task.gram, None if task.gram is None else measure)
    forms = [parse_form(text) for text in task.forms]
    if task.estimate:
        return FitResult(errors=tuple(form.estimate(task.site, moments) for form in forms))
    return FitResult(fits=tuple(form.fit(task.site, moments) for form in forms))


def run_tasks(tasks: Iterable[FitTask], pool: Executor | None = None, *, ahead: int = AHEAD) -> Iterator[FitResult]:
    """The results in the order of the tasks.

    Tasks are taken from the iterable only as they are needed, so that a generator that makes them holds few Gram
    matrices at once; each is sent with its arrays, 8 D^2 bytes for patches of length D.

    Args:
        tasks: what to fit.
        pool: runs them; None: this process, one after another. A process pool should start its workers with
            OMP_NUM_THREADS=1 in the environment, or they compete for the processors.
        ahead: how many may be under way at once.

    Raises:
        whatever a task raises, when its result is due; tasks not yet started are cancelled then.
    """
    if pool is None:
        yield from map(run_task, tasks)
        return
    waiting: deque[Future[FitResult]] = deque()
    source = iter(tasks)
    try:
        while True:
            while len(waiting) < max(1, ahead) and (task := next(source, None)) is not None:
                waiting.append(pool.submit(run_task, task))
            if not waiting:
                return
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()


__all__ = ["AHEAD", "DetachedSite", "FitResult", "FitTask", "run_task", "run_tasks"]
