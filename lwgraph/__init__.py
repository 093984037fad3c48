"""lwgraph: a compiler that makes ONNX models smaller and faster, with proof.

    import lwgraph
    result = lwgraph.optimize("model.onnx", data="calib.npz", max_drop=0.01)
    result.save("model.lw.onnx")

The public names are imported when they are used, so that `import lwgraph` is quick.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lwgraph.faces import lazy

if TYPE_CHECKING:
    from lwgraph.errors import CheckError, DataError, LwgraphError, ModelError, UsageError
    from lwgraph.family import load_family, write_family
    from lwgraph.ir import load, save
    from lwgraph.optimizer import Result, optimize
    from lwgraph.plan.plan import Plan
    from lwgraph.report import Report
    from lwgraph.rewrite import Const, Context, Contract, Pass, Pipeline, RewritePass, Skip
    from lwgraph.version import __version__

_HOME = {
    "CheckError": "errors",
    "Const": "rewrite",
    "Context": "rewrite",
    "Contract": "rewrite",
    "DataError": "errors",
    "LwgraphError": "errors",
    "ModelError": "errors",
    "Pass": "rewrite",
    "Pipeline": "rewrite",
    "Plan": "plan.plan",
    "Report": "report",
    "Result": "optimizer",
    "RewritePass": "rewrite",
    "Skip": "rewrite",
    "UsageError": "errors",
    "__version__": "version",
    "load": "ir",
    "load_family": "family",
    "optimize": "optimizer",
    "save": "ir",
    "write_family": "family",
}


__getattr__, __dir__ = lazy(__name__, _HOME)

__all__ = [
    "CheckError",
    "Const",
    "Context",
    "Contract",
    "DataError",
    "LwgraphError",
    "ModelError",
    "Pass",
    "Pipeline",
    "Plan",
    "Report",
    "Result",
    "RewritePass",
    "Skip",
    "UsageError",
    "__version__",
    "load",
    "load_family",
    "optimize",
    "save",
    "write_family",
]
