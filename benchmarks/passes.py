"""The passes alone: python -m benchmarks.passes [--cases ...] [--runs N].

Scaling: each clean pass on chains of 10,000 and 20,000 nodes; the ratio of their times may be 2.3 at most.
Simplifying: nodes left by the default pipeline, onnxsim and onnxslim on each case, and the time of their own calls,
interleaved, the median of several runs. onnxslim is optional.
"""

from __future__ import annotations

import copy
import gc
import statistics
import time
from collections.abc import Callable
from typing import Any

import click
import numpy as np
import onnx
import onnxsim
from onnx import TensorProto, helper, numpy_helper

from benchmarks import zoo
from benchmarks.tables import table
from lwgraph import ir
from lwgraph.rewrite import Context, Pass, Pipeline

LIMIT = 2.3
SIZES = (10_000, 20_000)


def chain(count: int) -> onnx.ModelProto:
    """`count` nodes in a row: identities, foldable constants, repeated and dead nodes, moved data among plain ones."""
    nodes: list[onnx.NodeProto] = []
    last = "x"

    def add(op_type: str, inputs: list[str], **attributes: Any) -> str:
        name = f"v{len(nodes)}"
        nodes.append(helper.make_node(op_type, inputs, [name], name=f"n{len(nodes)}", **attributes))
        return name

    initializers = [numpy_helper.from_array(np.float32([2.0]), "shared")]
    while len(nodes) < count - 10:
        last = add("Relu", [add("Identity", [last])])
        factor = add("Neg", [add("Constant", [], value=numpy_helper.from_array(np.float32([len(nodes)])))])
        last = add("Mul", [add("Mul", [last, factor]), "shared"])
        last = add("Transpose", [add("Transpose", [last], perm=[1, 0])], perm=[1, 0])
        last = add("Add", [add("Abs", [last]), add("Abs", [last])])
        add("Exp", [last])
    while len(nodes) < count:
        last = add("Sigmoid", [last])
    graph = helper.make_graph(
        nodes,
        "chain",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])],
        [helper.make_tensor_value_info(last, TensorProto.FLOAT, ["n", 4])],
        initializers,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def scaling(runs: int) -> list[list[str]]:
    """One row for each clean pass: seconds on both chains, the rewrites on the longer one, the ratio of the times."""
    models = {size: ir.load(chain(size)) for size in SIZES}
    rows = []
    everything = ("all of clean", Pipeline.parse("clean").passes)
    for name, passes in [*((p.name, (p,)) for p in dict.fromkeys(Pipeline.parse("clean"))), everything]:
        times: dict[int, list[float]] = {size: [] for size in SIZES}
        count = 0
        for _ in range(runs):
            for size in SIZES:
                model = ir.clone(models[size])
                gc.collect()
                start = time.process_time()
                count = _run(passes, model)
                times[size].append(time.process_time() - start)
        short, long = (min(times[size]) for size in SIZES)
        rows.append([name, f"{short:.3f}", f"{long:.3f}", str(count), f"{long / short:.2f}"])
    return rows


def _run(passes: tuple[Pass, ...], model: ir.Model) -> int:
    context = Context()
    return sum(p.run(model, context) for p in passes)


def simplifying(cases: tuple[str, ...], runs: int) -> list[list[str]]:
    """One row for each case: nodes before and left by each tool, and milliseconds."""
    tools: dict[str, tuple[Callable[[Any], Any], Callable[[Any], Any], Callable[[Any], int]]] = {
        "lwgraph": (ir.load, _lwgraph, lambda model: len(model.graph)),
        "onnxsim": (copy.deepcopy, lambda proto: onnxsim.simplify(proto)[0], lambda proto: len(proto.graph.node)),
    }
    try:
        import onnxslim
    except ImportError:
        click.echo("onnxslim is not installed; pip install onnxslim to compare with it", err=True)
    else:
        tools["onnxslim"] = (copy.deepcopy, onnxslim.slim, lambda proto: len(proto.graph.node))
    rows = []
    for case in cases:
        proto = onnx.load(zoo.case(case).model())
        left: dict[str, str] = {}
        times: dict[str, list[float]] = {name: [] for name in tools}
        for run in range(runs + 1):
            for name, (prepare, call, count) in tools.items():
                given = prepare(proto)
                start = time.perf_counter()
                try:
                    left[name] = str(count(call(given)))
                except Exception as error:  # another tool's own
                    left[name] = type(error).__name__
                if run:  # the first one warms up
                    times[name].append(time.perf_counter() - start)
        row = [case, str(len(proto.graph.node)), *left.values()]
        rows.append([*row, *(f"{1e3 * statistics.median(t):.0f}" for t in times.values())])
    return rows


def _lwgraph(model: ir.Model) -> ir.Model:
    Pipeline.parse("default").run(model, Context())
    return model


@click.command()
@click.argument("cases", nargs=-1, type=click.Choice(zoo.NAMES), metavar="[CASE]...")
@click.option("--runs", default=5, show_default=True)
@click.option("--only", type=click.Choice(["scaling", "simplifying"]), help="One of the two.")
def main(cases: tuple[str, ...], runs: int, only: str | None) -> None:
    """Measure the passes."""
    if only != "simplifying":
        rows = scaling(runs)
        click.echo(table(["pass", "10,000 nodes, s", "20,000 nodes, s", "rewrites", "ratio"], rows))
        slow = [row[0] for row in rows if float(row[-1]) > LIMIT and float(row[2]) > 0.05]
        click.echo(f"ratio over {LIMIT}: {', '.join(slow) or 'none'}\n")
    if only != "scaling":
        rows = simplifying(cases or tuple(zoo.NAMES), runs)
        names = ["lwgraph", "onnxsim", "onnxslim"][: (len(rows[0]) - 2) // 2]
        header = ["case", "nodes", *names, *(f"{name}, ms" for name in names)]
        click.echo(table(header, rows))


if __name__ == "__main__":
    main()
