"""lwgraph: a compiler that makes ONNX models smaller and faster, with proof.

    import lwgraph
    result = lwgraph.optimize("model.onnx", data="calib.npz", max_drop=0.01)
    result.save("model.lw.onnx")

The public names are imported when they are used, so that `import lwgraph` is quick.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lwgraph.errors import CheckError, DataError, LwgraphError, ModelError, UsageError
    from lwgraph.ir import load, save
    from lwgraph.optimizer import Result, optimize
    from lwgraph.plan.plan import Plan
    from lwgraph.report import Report
    from lwgraph.rewrite import Const, Context, Contract, Pass, Pipeline, RewritePass, Skip

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
    "load": "ir",
    "optimize": "optimizer",
    "save": "ir",
}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f"lwgraph.{_HOME[name]}"), name)
    raise AttributeError(f"module 'lwgraph' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])


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
    "load",
    "optimize",
    "save",
]
