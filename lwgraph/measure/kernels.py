"""What a runtime really runs in the place of each node, read from its own optimized graph."""

from __future__ import annotations

import re

from lwgraph import ir
from lwgraph.executor import Executor, ShowsGraph, offered

_INTEGER = re.compile(
    r"QLinear\w+|QGemm|QAttention|QEmbed\w+|QMoE|ConvInteger|MatMulInteger\w*|MatMulNBits|"
    r"DynamicQuantize\w+|NhwcMaxPool|"
    r"\w+_[iu]8"  # of runtimes that tell the precision
)
_SUFFIX = re.compile(r"(_token_\d+|_quant|_transpose\w*|_nhwc|_nchwc)+$")


def is_integer_kernel(op_type: str) -> bool:
    """Whether an operator computes with integers."""
    return _INTEGER.fullmatch(op_type) is not None


def plain_name(name: str) -> str:
    """The name that a node or value had before the runtime's optimizer renamed it, as far as suffixes tell."""
    return _SUFFIX.sub("", name.removeprefix("fused "))


def kernels(executor: Executor, model: ir.Model) -> dict[str, str] | None:
    """Node name -> the operator that the runtime runs in its place, as far as names survive its optimizer.

    None when the executor cannot show its optimized graph (`ShowsGraph`).
    """
    able = offered(executor, ShowsGraph)
    if able is None:
        return None
    found: dict[str, str] = {}
    for node in able.optimized(model).graph.node:
        for name in (node.name, *node.output):
            found.setdefault(_SUFFIX.sub("", name), node.op_type)
            found.setdefault(plain_name(name), node.op_type)
    return found


__all__ = ["is_integer_kernel", "kernels", "plain_name"]
