"""PyTorch behind the executor protocol, with gradients: what distillation trains on. Needs the `torch` extra."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from lwgraph import ir
from lwgraph.arrays import Array
from lwgraph.errors import DataError, ModelError, UsageError
from lwgraph.executor import Feeds, Run
from lwgraph.runtime.interface import FeedCheck

if TYPE_CHECKING:
    from lwgraph.runtime.torch_ops.module import GraphModule


class TorchExecutor:
    """Runs models with PyTorch on the CPU, and makes trainable modules of them.

    Args:
        threads: threads inside an operator, set while a model runs. At least 1.
        precise: compute in float64 what the model computes in float32.

    Raises:
        UsageError: PyTorch is not installed, or `threads` is not allowed.
    """

    name = "torch"

    def __init__(self, threads: int = 1, precise: bool = False) -> None:
        try:
            import torch  # noqa: F401
        except ImportError as error:
            raise UsageError("the torch executor needs PyTorch; pip install 'lwgraph[torch]'") from error
        if threads < 1:
            raise UsageError(f"threads={threads}: the torch executor needs at least 1")
        self.threads, self.precise = threads, precise

    def module(self, model: ir.Model, outputs: Sequence[str] | None = None, *, scales: bool = False) -> GraphModule:
        """The model as a torch.nn.Module over its float initializers; see GraphModule.

        Raises:
            ModelError: control flow, an operator or an option that cannot be run; a name that does not exist.
        """
        from lwgraph.runtime.torch_ops.module import GraphModule

        return GraphModule(model, outputs, precise=self.precise, scales=scales)

    def prepare(self, model: ir.Model, outputs: Sequence[str] | None = None) -> Run:
        """See `lwgraph.executor.Executor.prepare`."""
        import torch

        from lwgraph.runtime.torch_ops import to_numpy, to_torch

        module, inputs = self.module(model, outputs), FeedCheck(model.graph)

        def run(feeds: Feeds) -> dict[str, Array]:
            checked = inputs.check(feeds)
            try:
                tensors = {name: to_torch(array) for name, array in checked.items()}
                with torch.inference_mode(), _threads(torch, self.threads):
                    results = module(tensors)
            except ModelError as error:
                raise DataError(f"the torch executor could not run the model: {error}") from error
            return {name: to_numpy(tensor, _declared(tensor, module.kind(name))) for name, tensor in results.items()}

        return run


def _declared(tensor: Any, kind: ir.DataType | None) -> ir.DataType | None:
    """The type to hand back where torch carries another: 4-bit integers, float32 computed in float64."""
    if kind is None:
        return None
    carried = kind.bitwidth < 8 or (kind == ir.DataType.FLOAT and str(tensor.dtype) == "torch.float64")
    return kind if carried else None


@contextmanager
def _threads(torch: Any, count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    if before != count:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        if before != count:
            torch.set_num_threads(before)


__all__ = ["TorchExecutor"]
