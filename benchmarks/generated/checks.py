"""What lwgraph must do with a network: no error, a valid model, equal outputs in ONNX Runtime, nothing left to do."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx

from benchmarks.generated.grow import Network, session
from lwgraph import ir, registry
from lwgraph.arrays import Array
from lwgraph.check import verify
from lwgraph.contract import Contract
from lwgraph.errors import CheckError, LwgraphError
from lwgraph.executor import Feeds
from lwgraph.measure.compare import compare
from lwgraph.measure.sized_by_values import sized_by_values
from lwgraph.measure.tolerances import FINITE
from lwgraph.optimizer.annotations import make_lean
from lwgraph.optimizer.first_run import FirstRuns
from lwgraph.rewrite import Context, Pipeline

DEFAULT = "clean,fuse,clean"
TIED = 1e-6  # of the largest value: two that differ by less are equal to rounding
COMPARES = ("Greater", "GreaterOrEqual", "Less", "LessOrEqual")
ORDERS = "NonMaxSuppression"
CHOOSES = ("ArgMax", "ArgMin", ORDERS)
GROWTH = 1024  # bytes that fold-constants may add for each node that goes
SPELLED = 64  # bytes that another spelling may take, such as a longer operator's name
DATA = 6  # feeds to calibrate on
EXACT = ("clean",)
ROUNDING = (DEFAULT, "remove-dead-channels")
APPROXIMATE = (
    "prune-channels{ratio=0.4,multiple=2,importance=l1}",
    "prune-channels{ratio=0.3,multiple=1}",
    "prune-channels{ratio=0.5,scope=group,multiple=1,importance=activation}",
    "prune-blocks{ratio=0.3,most_error=1.0}",
    "prune-weights",
    "low-rank{rank=2}",
    "low-rank{rank=1,split=output}",
    "tucker{ratio=0.5}",
    "cp",
    "depthwise",
    "grouped",
    "ghost",
    "fire",
    "shift",
    "shuffle",
    "octave",
    "smaller-kernel",
    "quantize",
    "quantize{calibration_method=minmax,keep=none,rounding=nearest}",
    "quantize{target=openvino,keep=none}",
    "quantize{target=qnn,keep=none}",
    "quantize-weights{minimum=16}",
    "quantize-weights{minimum=16,bits=4,block_size=16}",
    "quantize-recurrent",
    "round-weights",
    "half{minimum=16}",
    "half{activations=true}",
    "equalize",
    "absorb-bias",
    "repair-statistics",
    "refit-layers",
)


@dataclass
class Case:
    """A model with feeds, what it gives on them in ONNX Runtime, and feeds to calibrate on."""

    proto: onnx.ModelProto
    feeds: list[Feeds]
    data: list[Feeds]
    known: dict[bool, list[dict[str, Array]]] = field(default_factory=dict)  # outputs, by whether it optimizes

    @functools.cached_property
    def resizable(self) -> frozenset[str]:
        """Names of outputs that are as long as values say, which approximations may change."""
        return sized_by_values(ir.load(self.proto))

    def outputs(self, optimize: bool) -> list[dict[str, Array]]:
        if optimize not in self.known:
            self.known[optimize] = outputs(self.proto, self.feeds, optimize)
        return self.known[optimize]


def outputs(proto: onnx.ModelProto, feeds: Sequence[Feeds], optimize: bool) -> list[dict[str, Array]]:
    """What a model gives on each feed in ONNX Runtime."""
    run = session(proto, optimize)
    names = [output.name for output in run.get_outputs()]
    return [dict(zip(names, run.run(None, dict(each)), strict=True)) for each in feeds]


def case_of(net: Network, most: int = 100) -> Case | None:
    """The network with the feeds that it takes: other sizes, other values, larger ones; None where it runs on none.

    At most `most` feeds are tried.
    """
    try:
        runs = [session(net.proto, optimize) for optimize in (True, False)]
    except Exception:  # what ONNX Runtime cannot load is no network
        return None
    sizes = net.sizes()
    wanted = [net.feeds(sizes[0], 0), net.feeds(sizes[0], 50, 4.0), net.feeds(sizes[0], 51, -0.1)]
    wanted += [net.feeds(each, i) for i, each in enumerate(sizes) if i]
    names = [output.name for output in net.proto.graph.output]
    feeds: list[Feeds] = []
    known: dict[bool, list[dict[str, Array]]] = {True: [], False: []}
    for each in wanted[:most]:
        try:
            made = [dict(zip(names, run.run(names, dict(each)), strict=True)) for run in runs]
        except Exception:  # sizes that the network does not take
            if not feeds:
                return None
        else:
            feeds.append(each)
            for optimize, values in zip((True, False), made, strict=True):
                known[optimize].append(values)
    return Case(net.proto, feeds, [net.feeds(sizes[0], 100 + i) for i in range(DATA)], known)


@dataclass(frozen=True)
class Fault:
    """What went wrong: kind is wrong, error, invalid, larger, unsettled or undone."""

    action: str
    kind: str
    message: str

    @property
    def signature(self) -> tuple[str, str, str]:
        """What stays of it while the network shrinks."""
        where = re.search(r"pass '([\w-]+)'", self.message)
        what = re.search(r"\b(\w*Error)\b", self.message)
        return self.kind, where[1] if where else "", what[1] if what else ""


@dataclass
class Outcome:
    """Of one action: a fault, or a refusal with its reason, or neither; the relative error of approximate results."""

    fault: Fault | None = None
    refused: str = ""
    rewrites: int = 0
    error: float = 0.0
    ill: bool = False


def check(case: Case, action: str) -> Outcome:
    """Do one action, a pipeline's text, and look at what it made."""
    original = ir.load(case.proto)
    before = ir.fingerprint(original)
    model = ir.clone(original)
    approximate = action in APPROXIMATE

    def fault(kind: str, message: object) -> Outcome:
        return Outcome(Fault(action, kind, " ".join(str(message).split())[:600]))

    executor = registry.executor("ort")
    if "activations=true" in action:  # ONNX Runtime may die of float16, which a run guards against in this way
        executor = FirstRuns(executor)
    context = Context(
        executor=executor, reference=registry.executor("reference"), data=case.data if approximate else None
    )
    try:
        steps = _pipeline(action).rewrite(model, context)
    except CheckError as error:
        return fault("error", f"CheckError: {error}")
    except LwgraphError as error:
        text = " ".join(str(error).split())
        if not approximate or "\n" in str(error):
            return fault("error", f"{type(error).__name__}: {error}")
        return Outcome(refused=f"{type(error).__name__}: {text}")
    except Exception as error:
        return fault("error", f"traceback: {type(error).__name__}: {error}")
    undone = [line for line in context.warnings if "undone" in line or "Error" in line]
    if undone:
        return fault("undone", undone[0])
    rewrites = sum(step.count for step in steps)
    if ir.fingerprint(original) != before:
        return fault("wrong", "wrote into data that other models share")
    try:
        verify(model)
        after = ir.to_proto(model)
        if valid(case.proto):
            onnx.checker.check_model(after)
    except Exception as error:
        return fault("invalid", error)
    told = Outcome(rewrites=rewrites)
    for optimize in (False,) if action in EXACT else (True,) if approximate else (True, False):
        contract = Contract.EXACT if action in EXACT else Contract.ROUNDING
        found = _compared(case, after, optimize, contract, approximate)
        if isinstance(found, str):
            return fault("invalid" if found.startswith("ONNX") else "wrong", found)
        told.error = max(told.error, found[0])
        told.ill |= found[1]
    if action == DEFAULT:
        lean = ir.clone(model)
        make_lean(lean, original, ir.size(original))
        gone = sum(len(scope) for scope in ir.scopes(original)) - sum(len(scope) for scope in ir.scopes(lean))
        if ir.size(lean) > ir.size(original) + SPELLED + GROWTH * max(gone, 0):
            return fault("larger", f"{ir.size(original)} bytes became {ir.size(lean)}")
        again = _pipeline(action).rewrite(model, Context())
        more = [f"pass '{step.spec.name}' {step.count}" for step in again if step.count]
        if more:
            return fault("unsettled", "a second run found: " + ", ".join(more))
    return told


def valid(proto: onnx.ModelProto) -> bool:
    """Whether onnx's checker accepts it, which asks for more than runtimes do."""
    try:
        onnx.checker.check_model(proto)
    except onnx.checker.ValidationError:
        return False
    return True


@functools.cache
def _pipeline(text: str) -> Pipeline:
    return Pipeline.parse(text)


def _compared(
    case: Case, after: onnx.ModelProto, optimize: bool, contract: Contract, approximate: bool
) -> tuple[float, bool] | str:
    """The relative error and whether a feed was too delicate to say anything; or what is wrong."""
    before = case.outputs(optimize)
    try:
        found = outputs(after, case.feeds, optimize)
    except Exception as error:
        return f"ONNX Runtime cannot load or run the result: {error}"
    worst, ill = 0.0, False
    for index, (old, new) in enumerate(zip(before, found, strict=True)):
        told = compare(
            old,
            new,
            contract,
            tolerances=(lambda dtype: FINITE) if approximate else None,
            resizable=case.resizable if approximate else (),
        )
        if not told.ok:
            if fragile(case, index) if approximate else contract is not Contract.EXACT and delicate(case, index, after):
                ill = True
                continue
            sizes = {name: list(np.shape(array)) for name, array in case.feeds[index].items()}
            return (
                f"{told} (feed {index} of shapes {sizes}, ONNX Runtime's optimizations {'on' if optimize else 'off'})"
            )
        if approximate:
            worst = max([worst, *(d.rms for d in told.differences if np.isfinite(d.rms))])
    return worst, ill


def delicate(case: Case, index: int, after: onnx.ModelProto | None = None) -> bool:
    """Whether the original itself turns over as much where its inputs and weights move by a rounding, or whether ONNX
    Runtime's optimizations change what it gives, or the result of a rewrite."""
    if after is not None:
        plain, optimized = (outputs(after, [case.feeds[index]], optimize)[0] for optimize in (False, True))
        if not compare(plain, optimized, Contract.ROUNDING).ok:
            return True
    base = case.outputs(False)[index]
    moved = [compare(base, each, Contract.ROUNDING) for each in _nearby(case, index, 1e-7)]
    other = compare(base, case.outputs(True)[index], Contract.ROUNDING)
    return any(d.excess > 0.3 for each in moved for d in each.differences) or not other.ok or tied(case, index, after)


def tied(case: Case, index: int, after: onnx.ModelProto | None = None) -> bool:
    """Whether the original's ArgMax or ArgMin chooses between values that are equal to rounding, or its
    NonMaxSuppression orders such scores: saturated ones stay so where inputs move, and a rewrite may round them apart.
    Of detectors, which have many equal scores, only where `after` has the scores, too, equal to rounding."""
    chosen = {node.input[node.op_type == ORDERS]: node for node in case.proto.graph.node if node.op_type in CHOOSES}
    try:
        found = _inner(case.proto, chosen, case.feeds[index])
        scores = [name for name, node in chosen.items() if node.op_type == ORDERS]
        theirs = _inner(after, scores, case.feeds[index]) if after is not None and scores else {}
    except Exception:  # a value that cannot be an output, or is no more
        return False
    same = theirs and compare({name: found[name] for name in scores}, theirs, Contract.ROUNDING).ok
    for name, node in chosen.items():
        orders = node.op_type == ORDERS
        if orders and not same:
            continue
        axis = next((each.i for each in node.attribute if each.name == "axis"), -1 if orders else 0)
        value = np.asarray(found[name], np.float64)
        if value.ndim and value.shape[axis] > 1 and value.size:
            gap = np.diff(np.sort(-value if node.op_type == "ArgMin" else value, axis=axis), axis=axis)
            gap = gap if orders else np.take(gap, -1, axis)
            if (gap <= TIED * np.abs(value).max()).any():
                return True
    return False


def _inner(model: onnx.ModelProto, names: Iterable[str], feeds: Feeds) -> dict[str, Any]:
    """What values of a model are."""
    proto, names = onnx.ModelProto(), list(names)
    proto.CopyFrom(model)
    known = {output.name for output in proto.graph.output}
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in known)
    found = outputs(proto, [feeds], False)[0]
    return {name: found[name] for name in names}


def fragile(case: Case, index: int) -> bool:
    """Whether the original itself computes NaN on the way, or some values of an output that are not finite, or masks
    with infinity what is below a threshold: where that is depends on the values then, which approximations move, and a
    Softmax of a row that is masked as a whole gives NaN."""
    found = case.outputs(False)[index].values()
    if any(_floats(value) and np.isfinite(value).any() and not np.isfinite(value).all() for value in found):
        return True
    nodes = case.proto.graph.node
    inner = _inner(case.proto, [name for node in nodes for name in node.output if name], case.feeds[index])
    if any(_floats(value) and bool(np.isnan(value).any()) for value in inner.values()):
        return True
    compared = {name for node in nodes if node.op_type in COMPARES for name in node.output}
    masks = [node.output[0] for node in nodes if node.op_type == "Where" and node.input[0] in compared]
    return any(_floats(inner[name]) and bool(np.isinf(inner[name]).any()) for name in masks if name in inner)


def _floats(value: object) -> bool:
    return isinstance(value, np.ndarray) and value.dtype.kind == "f"


def _nearby(case: Case, index: int, by: float) -> Iterator[dict[str, Array]]:
    """What the original gives where each number of its inputs and weights moves by a normal share of itself."""
    rng = np.random.default_rng(0)
    for _ in range(4):
        moved = {name: _moved(np.asarray(array), rng, by) for name, array in case.feeds[index].items()}
        proto = onnx.ModelProto()
        proto.CopyFrom(case.proto)
        for tensor in proto.graph.initializer:
            array = onnx.numpy_helper.to_array(tensor)
            if array.dtype == np.float32 and array.size > 1:
                tensor.CopyFrom(onnx.numpy_helper.from_array(_moved(array, rng, by), tensor.name))
        try:
            made = outputs(proto, [moved], False)
        except Exception:  # values that it does not take
            continue
        yield made[0]


def _moved(array: Array, rng: np.random.Generator, by: float) -> Array:
    if array.dtype != np.float32:
        return array
    return (array * (1 + by * rng.standard_normal(array.shape))).astype(np.float32)


def actions_of(net: Network, count: int = 6) -> list[str]:
    """Some of the approximate actions, chosen by the seed; the recurrent one where there is something for it."""
    rng = np.random.default_rng((net.seed, 3))
    chosen = list(rng.choice(APPROXIMATE, count, replace=False))
    return ["remove-dead-channels", *map(str, chosen)]
