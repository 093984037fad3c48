"""check_role: does what plays a role do what plans rely on?"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from lwgraph import ir, registry
from lwgraph.calibrate import Statistics
from lwgraph.check import verify
from lwgraph.contract import Contract
from lwgraph.errors import CheckError, LwgraphError, UsageError
from lwgraph.executor import Executor, Feeds
from lwgraph.layers.site import find_sites
from lwgraph.measure import compare_runs
from lwgraph.plan.roles import (
    BLOCKS,
    CODES,
    GROUPS,
    QUANTIZES,
    SHAPES,
    SHRINKS,
    TRAINS,
    CodesLayers,
    CodesWeights,
    Quantizes,
    Removes,
    RemovesBlocks,
    ShrinksInputs,
    Trains,
)
from lwgraph.rewrite import Context, Pass
from lwgraph.rewrite.instruments.verify import interface_difference

PROTOCOLS: Mapping[str, type[object]] = {
    GROUPS: Removes,
    BLOCKS: RemovesBlocks,
    QUANTIZES: Quantizes,
    CODES: CodesWeights,
    TRAINS: Trains,
    SHAPES: Pass,
    SHRINKS: ShrinksInputs,
}
SAMPLES, SECONDS = 48, 1.0  # of data; of training


def check_role(name: str, plays: object | None = None, *, executor: Executor | None = None) -> None:
    """Check what plays a role, on a small network with a residual block.

    - *quantizes*: each pass reads back from its spelling, is approximate and spares nodes that it is told to; the
      network computes in integers afterwards; a survey speaks of the network's own nodes and leaves it as it is;
    - *removes-channels*, *removes-blocks*: the options are of sizes that there are, largest first, and leave the model
      as it is; each can be applied, and an unknown item is refused;
    - *codes-weights*: each pass reads back from its spelling and is approximate; the model that it leaves runs;
    - *shrinks-inputs*: each pass reads back from its spelling and is approximate; the model that it leaves runs;
    - *trains*: weights change, the structure and the interface stay;
    - *infers-shapes*: shapes are known afterwards, and nothing else changes.

    Args:
        name: of the role, see `lwgraph.plan.roles`.
        plays: an instance; None: of what is installed.
        executor: the target; None: ONNX Runtime.

    Raises:
        CheckError: naming the role and the promise.
        UsageError: there is no such role, nothing plays it, or what does needs something that is not installed.
    """
    if name not in PROTOCOLS:
        raise UsageError(f"no role is named '{name}'; allowed: {', '.join(PROTOCOLS)}")
    played = registry.role(name, PROTOCOLS[name]) if plays is None else plays
    if not isinstance(played, PROTOCOLS[name]):
        raise CheckError(f"role '{name}': {type(played).__name__} is no {PROTOCOLS[name].__name__}")
    check = _Check(name, executor or registry.executor("ort"))
    if isinstance(played, Quantizes):
        _check_quantizes(played, check)
    elif isinstance(played, CodesWeights):
        _check_codes(played, check)
    elif isinstance(played, ShrinksInputs):
        _check_shrinks(played, check)
    elif isinstance(played, Removes):
        _check_removes(played, check)
    elif isinstance(played, Trains):
        played.require()
        _check_trains(played, check)
    elif isinstance(played, Pass):
        _check_shapes(played, check)


class _Check:
    """The network, data, and words for what is wrong."""

    def __init__(self, name: str, executor: Executor) -> None:
        self.name, self.executor = name, executor
        self.model = example_network()
        x = np.random.default_rng(1).standard_normal((SAMPLES, 3, 8, 8)).astype(np.float32)
        self.feeds: list[Feeds] = [{"x": x[i : i + 1]} for i in range(SAMPLES)]

    def context(self) -> Context:
        """A new one, with data, statistics and the original as the teacher."""
        statistics = Statistics(ir.clone(self.model), self.feeds, self.executor, 0)
        return Context(self.executor, statistics=statistics, data=self.feeds, teacher=ir.clone(self.model))

    def expect(self, ok: bool, promise: str) -> None:
        """CheckError unless `ok`."""
        if not ok:
            raise CheckError(f"role '{self.name}': {promise}")

    def unchanged(self, model: ir.Model, act: Callable[[], object], what: str) -> None:
        """Do something that must not change the model."""
        before = ir.fingerprint(model)
        act()
        self.expect(ir.fingerprint(model) == before, f"{what} changes the model")

    def sound(self, model: ir.Model, what: str) -> None:
        """The model is valid, has the original's inputs and outputs, and runs."""
        try:
            verify(model)
            self.executor.prepare(model)(self.feeds[0])
        except LwgraphError as error:
            raise CheckError(f"role '{self.name}': {what} leaves a broken model: {error}") from error
        changed = interface_difference(self.model, model)
        self.expect(not changed, f"{what} changes the interface: {changed}")


def _check_quantizes(played: Quantizes, check: _Check) -> None:
    check.expect(len(played.ranges) > 0, "it has no ranges")
    passes = [played.judged(), played.blank(), played.quick(), played.exactly()]
    passes += [p for ranges in played.ranges for p in (played.quick(ranges), played.exactly(ranges, even=False))]
    for p in passes:
        check.expect(Pass.parse(str(p)) == p, f"the spelling '{p}' does not read back")
        check.expect(p.contract is Contract.APPROXIMATE, f"'{p}' is not approximate")
        check.expect(bool(p.spares), f"'{p}' cannot be told to spare nodes")
    for p in passes[1:]:
        model = ir.clone(check.model)
        check.expect(p.run(model, check.context()) > 0, f"'{p}' puts nothing into integers")
        check.sound(model, f"'{p}'")
        spared = ir.clone(check.model)
        p.sparing([str(node.name) for node in spared.graph]).run(spared, check.context())
        run, original = check.executor.prepare(spared), check.executor.prepare(check.model)
        same = compare_runs(original, run, check.feeds[:2], Contract.ROUNDING)
        check.expect(same.ok, f"'{p}' told to spare all nodes changes the outputs")
    names = {node.name for node in check.model.graph}
    check.unchanged(check.model, lambda: played.survey(check.model, check.context()), "the survey")
    survey = played.survey(check.model, check.context())
    told = {*survey.damage, *survey.kept, *(name for mix in survey.mixes for name in mix.kept)}
    check.expect(told <= names, "the survey names nodes that the model does not have")
    check.expect(all(damage >= 0 for damage in survey.damage.values()), "a damage in the survey is negative")
    times = [mix.time for mix in survey.mixes]
    check.expect(times == sorted(times), "the mixes in the survey do not go from the fastest to the slowest")


def _check_codes(played: CodesWeights, check: _Check) -> None:
    check.expect(len(played.bits) > 0 and min(played.bits) > 0, "it has no codes of one bit or more")
    names = [str(node.name) for node in check.model.graph]
    passes = [played.coded(max(played.bits)), played.coded(min(played.bits), names[:1])]
    if isinstance(played, CodesLayers):
        layers = [site.name for site in find_sites(check.model)]
        passes.append(played.mixed(dict(zip(layers, played.bits, strict=False)), max(played.bits)))
    for p in passes:
        _check_approximate(p, check)


def _check_approximate(p: Pass, check: _Check) -> None:
    """A pass whose spelling reads back, and that leaves a sound model."""
    check.expect(Pass.parse(str(p)) == p, f"the spelling '{p}' does not read back")
    check.expect(p.contract is Contract.APPROXIMATE, f"'{p}' is not approximate")
    model = ir.clone(check.model)
    p.run(model, check.context())
    check.sound(model, f"'{p}'")


def _check_shrinks(played: ShrinksInputs, check: _Check) -> None:
    check.expect(all(0 < scale < 1 for scale in played.scales), "its scales are not between 0 and 1")
    for p in map(played.shrunk, played.scales):
        _check_approximate(p, check)


def _check_removes(played: Removes, check: _Check) -> None:
    context = check.context()
    check.unchanged(check.model, lambda: played.options(check.model, context), "listing the options")
    options = played.options(check.model, context)
    check.expect(len(options) > 0, "it offers nothing to remove")
    for before, after in pairwise(options):
        ordered = before.item != after.item or before.kept > after.kept
        check.expect(ordered, f"the sizes of '{after.item}' are not largest first")
    for option in options:
        check.expect(0 <= option.kept < option.width, f"'{option.item}' keeps {option.kept} of {option.width}")
        check.expect(len(option.left) == len(option.nodes), f"'{option.item}' does not say what each node keeps")
        model = ir.clone(check.model)
        check.expect(played.apply(model, {option.item: option.kept}, context) > 0, f"'{option.item}' stays as it is")
        check.sound(model, f"'{option.item}' at {option.kept}")
    try:
        played.apply(ir.clone(check.model), {"no such item": 0}, context)
    except UsageError:
        return
    raise CheckError(f"role '{check.name}': an unknown item is not refused with a UsageError")


def _check_trains(played: Trains, check: _Check) -> None:
    model = example_network(0.9)
    operators = [node.op_type for node in model.graph]
    context, before = check.context(), ir.fingerprint(model)
    played.prepare(model, context)
    played.train(model, context, SECONDS)
    check.sound(model, "training")
    check.expect(ir.fingerprint(model) != before, "training changes nothing")
    check.expect([node.op_type for node in model.graph] == operators, "training changes the structure")


def _check_shapes(played: Pass, check: _Check) -> None:
    model = ir.clone(check.model)
    played.run(model, Context())
    check.sound(model, f"'{played}'")
    unknown = [value.name for node in model.graph for value in node.outputs if value.shape is None]
    check.expect(not unknown, f"the shape of '{(unknown or [''])[0]}' is not known afterwards")


def example_network(scale: float = 1.0) -> ir.Model:
    """x (1, 3, 8, 8) -> Conv, residual block of two, Conv, pool, product -> y (1, 5); weights times `scale`."""
    rng = np.random.default_rng(0)
    arrays: dict[str, np.ndarray[tuple[int, ...], np.dtype[np.float32]]] = {}
    nodes = []

    def convolve(name: str, source: str, channels: Sequence[int]) -> str:
        shape = (channels[1], channels[0], 3, 3)
        arrays[f"{name}.w"] = (rng.standard_normal(shape) * scale / np.sqrt(9 * channels[0])).astype(np.float32)
        arrays[f"{name}.b"] = (0.1 * rng.standard_normal(channels[1])).astype(np.float32)
        inputs = [source, f"{name}.w", f"{name}.b"]
        nodes.append(helper.make_node("Conv", inputs, [f"{name}.c"], name, pads=[1] * 4))
        nodes.append(helper.make_node("Relu", [f"{name}.c"], [f"{name}.r"], f"{name}.relu"))
        return f"{name}.r"

    first = convolve("first", "x", (3, 32))
    inner = convolve("inner2", convolve("inner1", first, (32, 32)), (32, 32))
    nodes.append(helper.make_node("Add", [first, inner], ["sum"], "sum"))
    last = convolve("last", "sum", (32, 32))
    arrays["head.w"] = (rng.standard_normal((32, 5)) / np.sqrt(32)).astype(np.float32)
    nodes += [
        helper.make_node("GlobalAveragePool", [last], ["pooled"], "pool"),
        helper.make_node("Flatten", ["pooled"], ["flat"], "flatten"),
        helper.make_node("MatMul", ["flat", "head.w"], ["y"], "head"),
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 5])],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    return ir.load(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9))


__all__ = ["check_role"]
