"""An executor that counts."""

from __future__ import annotations

from typing import Any

from lwgraph import ir, registry

ORT = registry.executor("ort")


class Counting:
    """Counts how often each operator of the pieces runs."""

    name = "counting"

    def __init__(self) -> None:
        self.runs: dict[str, int] = {}

    def prepare(self, model: ir.Model, outputs: Any = None) -> Any:
        run, names = ORT.prepare(model, outputs), [node.name or "" for node in model.graph]

        def counted(feeds: Any) -> Any:
            for name in names:
                self.runs[name] = self.runs.get(name, 0) + 1
            return run(feeds)

        return counted
