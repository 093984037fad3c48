"""The reference executor: what ONNX says a model computes, by code that ONNX Runtime does not share."""

from __future__ import annotations

from collections.abc import Sequence

from lwgraph import ir
from lwgraph.arrays import Array
from lwgraph.errors import UsageError
from lwgraph.executor import Feeds, before_run
from lwgraph.runtime.interface import FeedCheck, requested
from lwgraph.runtime.ops import Options
from lwgraph.runtime.program import Program
from lwgraph.runtime.qdq import integer_groups

EMULATE = ("no-vnni",)
QDQ = ("float", "integer")


class ReferenceExecutor:
    """Runs models with NumPy and C kernels; what those lack is onnx's own reference operators.

    Args:
        threads: threads inside an operator; results do not depend on it. At least 1.
        precise: sum float32 in float64 and round once; elementary functions, too.
        qdq: what a DequantizeLinear - operator - QuantizeLinear group computes: "float", what the graph says, or
            "integer", what a runtime fuses it into. The prepared model's `fused` names those that became integer.
        emulate: "no-vnni": integer products saturate 16-bit sums of pairs as processors without VNNI do.

    Raises:
        UsageError: an option is not allowed.
    """

    name = "reference"

    def __init__(self, threads: int = 1, precise: bool = False, qdq: str = "float", emulate: str | None = None) -> None:
        if threads < 1:
            raise UsageError(f"threads={threads}: the reference executor needs at least 1")
        if qdq not in QDQ:
            raise UsageError(f"qdq='{qdq}' is unknown to the reference executor; one of {', '.join(QDQ)}")
        if emulate is not None and emulate not in EMULATE:
            raise UsageError(f"emulate='{emulate}' is unknown to the reference executor; one of {', '.join(EMULATE)}")
        self.qdq = qdq
        self._options = Options(threads=threads, precise=precise, saturate=emulate == "no-vnni")

    def prepare(self, model: ir.Model, outputs: Sequence[str] | None = None) -> ReferenceRun:
        """See `lwgraph.executor.Executor.prepare`. O(nodes); constants stay where the model holds them."""
        return ReferenceRun(ir.inlined(model), requested(model, outputs), self._options, self.qdq)


class ReferenceRun:
    """A prepared model.

    Attributes:
        mode: "float" or "integer": how quantize-dequantize groups are computed.
        fused: the names of the outputs of groups that are computed in integers.
    """

    def __init__(self, model: ir.Model, names: list[str], options: Options, mode: str) -> None:
        self.mode = mode
        groups = integer_groups(model, names, options) if mode == "integer" else {}
        self.fused = tuple(replacement.output.name or "" for replacement in groups.values())
        self._inputs = FeedCheck(model.graph)
        self._program = Program(model, names, options, groups)

    def __call__(self, feeds: Feeds) -> dict[str, Array]:
        """Run once; see `lwgraph.executor.Run`."""
        before_run()
        return self._program.run(self._inputs.check(feeds))


__all__ = ["EMULATE", "QDQ", "ReferenceExecutor", "ReferenceRun"]
