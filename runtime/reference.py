"""The reference executor: what ONNX says a model computes, by code that ONNX Runtime does not share."""

from __future__ import annotations

from collections.abc import Sequence

from onnx.reference import ReferenceEvaluator

from lwgraph import ir
from lwgraph.errors import DataError, ModelError
from lwgraph.executor import Array, Feeds, Run
from lwgraph.runtime.interface import Inputs, named_values, one_line, requested


class ReferenceExecutor:
    """Runs models with onnx's reference operators."""

    name = "reference"

    def __init__(self, threads: int = 1, precise: bool = False) -> None:
        self.threads, self.precise = threads, precise

    def prepare(self, model: ir.Model, outputs: Sequence[str] | None = None) -> Run:
        """See `lwgraph.executor.Executor.prepare`."""
        names = requested(model, outputs)
        inputs = Inputs(model.graph)
        clone = model.clone()
        known = named_values(clone.graph)
        clone.graph.outputs[:] = [known[name] for name in dict.fromkeys(names)]
        try:
            evaluator = ReferenceEvaluator(ir.to_proto(clone))
        except Exception as error:
            raise ModelError(f"the reference executor cannot load the model: {one_line(error)}") from error
        defaults = set(clone.graph.initializers)

        def run(feeds: Feeds) -> dict[str, Array]:
            checked = inputs.check(feeds)
            checked.update(
                {v.name or "": None for v in clone.graph.inputs if v.name not in checked and v.name not in defaults}
            )
            try:
                results = evaluator.run(None, checked)
            except Exception as error:
                raise DataError(f"the reference executor could not run the model: {one_line(error)}") from error
            return dict(zip(dict.fromkeys(names), results, strict=True))

        return run


__all__ = ["ReferenceExecutor"]
