"""The first run of a model with operators that this process has not run: in a worker, which may die in its place."""

from __future__ import annotations

from collections.abc import Sequence

from lwgraph import ir
from lwgraph.executor import Executor, Feeds
from lwgraph.tasks.isolated import Isolated

SECONDS = 60.0  # that a worker may take to start and to run once, besides 20 times what the network takes
PATIENCE = 20.0


class FirstRuns:
    """Runs models with new operators in a worker process first, so that a runtime that dies takes only that along.

    Args:
        executor: the target.
        feeds: one is run.
        run_ms: milliseconds of one run of the network, about.
    """

    def __init__(self, executor: Executor, feeds: Sequence[Feeds], run_ms: float = 0.0) -> None:
        self._isolated = Isolated(executor, timeout=SECONDS + PATIENCE * run_ms / 1e3)
        self._feeds = list(feeds[:1])
        self._known: set[tuple[str, str, int]] = set()

    def check(self, model: ir.Model) -> None:
        """Run the model once in the worker if it has operators that no model had before.

        Raises:
            ModelError: the runtime refuses the model, dies or hangs.
        """
        found = _operators(model)
        if found <= self._known:
            return
        run = self._isolated.prepare(model)
        for feed in self._feeds:
            run(feed)
        del run  # the worker frees its weights
        self._isolated.forget()
        self._known |= found


def _operators(model: ir.Model) -> set[tuple[str, str, int]]:
    return {(node.domain, node.op_type, ir.opset(node)) for scope in ir.scopes(model) for node in scope}


__all__ = ["FirstRuns"]
