"""Models as text, and what a pass makes of one."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser

from lwgraph import ir, registry
from lwgraph.check import verify
from lwgraph.measure import compare_runs
from lwgraph.rewrite import Context, Contract, Pass


def model(text: str, opset: int = 17, seed: int = 0) -> ir.Model:
    """A model from onnx's text; initializers declared as `<float[2,3] w>` are filled at random, kept positive."""
    proto = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": {opset}]>\n{text}')
    rng = np.random.default_rng(seed)
    wanted = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in proto.graph.value_info}
    given = {t.name for t in proto.graph.initializer}
    produced = {o for n in proto.graph.node for o in n.output}
    for name, shape in wanted.items():
        if name not in given and name not in produced:
            array = rng.uniform(0.5, 1.5, shape).astype(np.float32)
            proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    return ir.load(proto)


def rewritten(before: ir.Model, name: str) -> tuple[str, list[str]]:
    """Apply a pass; check structure and numbers; give the operators left with the rewrite count, and the refusals."""
    after, context = ir.clone(before), Context()
    count = Pass.parse(name).run(after, context)
    verify(after)
    executor = registry.executor("ort", optimize=False)
    rng = np.random.default_rng(1)
    feeds = []
    for _ in range(2):
        shapes = {v.name: [d if isinstance(d, int) else 2 for d in v.shape or ()] for v in before.graph.inputs}
        feeds.append({str(n): rng.standard_normal(shape).astype(np.float32) for n, shape in shapes.items()})
    found = compare_runs(executor.prepare(before), executor.prepare(after), feeds, Contract.ROUNDING)
    assert found.ok, str(found)
    operators = " ".join(node.op_type for node in after.graph)
    return f"{count}: {operators}", [s.reason for s in context.skipped]
