"""OpenVINO behind the executor protocol (CPU)."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper

from lwgraph import ir
from lwgraph.arrays import Array
from lwgraph.errors import DataError, ModelError, UsageError
from lwgraph.executor import Feeds, Kernel, before_run
from lwgraph.runtime.fatal import DivisionGuard
from lwgraph.runtime.interface import FeedCheck, named_values, one_line, packed, requested, unpacked, untimed_threads
from lwgraph.temporary import TemporaryFolder

# What floats are computed in -> what OpenVINO calls a processor that has it.
PRECISIONS = {"f32": "FP32", "bf16": "BF16", "f16": "FP16"}
IN_MEMORY = 1 << 30  # bytes of a model from which on it is handed over as files
_SETS = ("avx2", "avx512f", "avx_vnni", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_tile", "amx_int8", "amx_bf16")
_NOISE = re.compile(
    r"Exception from \S+:|Check '.*?' failed at \S+:?|\S*/src/\S+:\d+:?|(?<=\s)FrontEnd API failed with "
)
_EXOTIC = {
    "bf16": ir.DataType.BFLOAT16,
    "f8e4m3": ir.DataType.FLOAT8E4M3FN,
    "f8e5m2": ir.DataType.FLOAT8E5M2,
    "f8e8m0": ir.DataType.FLOAT8E8M0,
    "f4e2m1": ir.DataType.FLOAT4E2M1,
    "i4": ir.DataType.INT4,
    "u4": ir.DataType.UINT4,
}


class OpenVinoExecutor:
    """Runs models with OpenVINO on the CPU: one stream, the fewest milliseconds for one input, a stated precision.

    OpenVINO by itself computes in bfloat16 wherever the processor can, and says so nowhere; here float32 is what is
    computed in unless something else is asked for.

    Args:
        threads: threads inside an operator. At least 1.
        precision: what floating-point operators compute in, of PRECISIONS; integer ones stay integers.
        sizes: of inputs by name, where models leave them open and all inputs will have these; {}: they stay open.

    Attributes:
        name: of an instance with the precision, `openvino:bf16`.
        version: of OpenVINO.
        level: the instruction sets that its kernels choose between.

    Raises:
        UsageError: OpenVINO is not installed, or an option is not allowed on this processor.
    """

    name = "openvino"

    def __init__(
        self, threads: int = 1, precision: str = "f32", sizes: Mapping[str, Sequence[int]] | None = None
    ) -> None:
        openvino = _openvino()
        if threads < 1:
            raise UsageError(f"threads={threads}: the openvino executor needs at least 1")
        allowed = precisions()
        if precision not in allowed:
            lacks = "this processor does not compute in it" if precision in PRECISIONS else "it is unknown"
            raise UsageError(f"precision='{precision}' of the openvino executor: {lacks}; one of {', '.join(allowed)}")
        self.threads, self.precision, self.sizes = threads, precision, dict(sizes or {})
        self.name = f"openvino:{precision}"
        self.version, self.level = str(openvino.__version__), _instruction_sets()

    @property
    def in_calling_thread(self) -> bool:
        """Whether all of a run is done by the thread that asked for it, so that its own clock tells the time taken."""
        return self.threads == 1

    def prepare(self, model: ir.Model, outputs: Sequence[str] | None = None) -> OpenVinoRun:
        """Compile for the sizes that the model states, which may be dynamic; see `lwgraph.executor.Executor.prepare`.

        The run's `kernels` tell what OpenVINO made of each node.
        """
        return self._prepare(model, outputs)

    def at_sizes(self, sizes: Mapping[str, Sequence[int]]) -> OpenVinoExecutor:
        """See `lwgraph.executor.FixesSizes`."""
        return OpenVinoExecutor(self.threads, self.precision, sizes)

    def as_written(self) -> OpenVinoExecutor:
        """A twin that computes in the types of the graph."""
        return OpenVinoExecutor(self.threads)

    def untimed(self) -> OpenVinoExecutor:
        """A twin for runs whose time does not matter: on more cores of this process."""
        threads = untimed_threads()
        return self if threads <= self.threads else OpenVinoExecutor(threads, self.precision)

    def optimized(self, model: ir.Model) -> onnx.ModelProto:
        """The graph that OpenVINO really runs. An operator's name ends in the precision that it runs in.

        `Convolution_u8`, say. The outputs of a node are the names of the nodes of the model that it stands for.

        Raises:
            ModelError: OpenVINO cannot load the model.
        """
        nodes = [
            helper.make_node(f"{kernel.op_type}_{kernel.precision}", [], kernel.nodes, name=kernel.name)
            for kernel in self._prepare(model, None).kernels
        ]
        return helper.make_model(helper.make_graph(nodes, model.graph.name or "model", [], []))

    def profile(self, model: ir.Model, feeds: Sequence[Feeds]) -> list[Kernel]:
        """The time and precision of each operator that ran; the model runs once on every feed, after one to warm up.

        Raises:
            ModelError: OpenVINO cannot load the model. DataError: it cannot run on a feed.
        """
        run = self._prepare(model, None, PERF_COUNT=True)
        times: dict[str, list[float]] = {}
        run(feeds[0])
        for feed in feeds:
            run(feed)
            for name, seconds in run.seconds():
                times.setdefault(name, []).append(seconds)
        known = {kernel.name: kernel for kernel in run.kernels}
        return [
            Kernel(
                name, kernel.op_type, float(np.median(found)) * len(found) / len(feeds), kernel.precision, kernel.nodes
            )
            for name, found in times.items()
            if (kernel := known.get(name)) is not None
        ]

    @property
    def precisions(self) -> list[str]:
        """Those that this processor computes in."""
        return precisions()

    def code(self, path: str) -> str:
        """Two lines of Python, four with `sizes`; see `lwgraph.executor.ToldAsCode`."""
        options, loaded, steps = json.dumps(self._options), json.dumps(path), ""
        if self.sizes:
            sizes = json.dumps({name: list(shape) for name, shape in self.sizes.items()})
            steps = (
                f"loaded = openvino.Core().read_model({loaded})\n"
                f"loaded.reshape({sizes})  # as in the data; without this line, any\n"
            )
            loaded = "loaded"
        return (
            f'{steps}model = openvino.Core().compile_model({loaded}, "CPU", {options})\n'
            "outputs = model(inputs)  # {name: array}"
        )

    @property
    def _options(self) -> dict[str, Any]:
        return {
            "INFERENCE_PRECISION_HINT": self.precision,
            "INFERENCE_NUM_THREADS": self.threads,
            "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY",
        }

    def _prepare(self, model: ir.Model, outputs: Sequence[str] | None, **more: Any) -> OpenVinoRun:
        names = requested(model, outputs)
        inputs, guard = FeedCheck(model.graph), DivisionGuard(model)
        options = {
            **self._options,
            "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0,  # else activations before 4- and 8-bit weights are rounded unasked
            "ENABLE_CPU_PINNING": False,
            **more,
        }
        with TemporaryFolder() as folder:
            try:
                read = _core().read_model(_handed_over(model, names, folder), config={"ENABLE_MMAP": False})
                if self.sizes:
                    read.reshape({name: list(shape) for name, shape in self.sizes.items()})
                compiled = _core().compile_model(read, "CPU", options)
            except ModelError:
                raise
            except Exception as error:  # OpenVINO's exceptions have no common base but Exception
                raise ModelError(f"OpenVINO cannot load the model: {_clean(error)}") from error
        unique = list(dict.fromkeys(names))
        for port in (*compiled.inputs, *compiled.outputs):
            if port.element_type.get_type_name() == "string":
                raise ModelError(f"OpenVINO's texts are not exchanged here: '{', '.join(port.names)}' holds them")
        if len(compiled.outputs) != len(unique):
            raise ModelError(f"OpenVINO gives {len(compiled.outputs)} of the model's {len(unique)} outputs")
        return OpenVinoRun(compiled, unique, model, inputs, guard)


class OpenVinoRun:
    """A compiled model with checked feeds; `compiled` is the openvino.CompiledModel.

    Attributes:
        kernels: what it runs, in order, with precisions and without times.
    """

    def __init__(
        self, compiled: Any, names: list[str], model: ir.Model, inputs: FeedCheck, guard: DivisionGuard
    ) -> None:
        self.compiled = compiled
        self._names, self._inputs, self._guard = names, inputs, guard
        self._constants = set(model.graph.initializers)
        self._nodes = {node.name for node in model.graph if node.name}
        self._makers = {v.name: node.name for node in model.graph for v in node.outputs if v.name}
        self._request = compiled.create_infer_request()
        # An input that is an output, too, has lost its own name: then only its place tells which one it is.
        fed = [v.name or "" for v in model.graph.inputs if v.name not in self._constants]
        in_order = dict(zip(fed, compiled.inputs, strict=False)) if len(fed) == len(compiled.inputs) else {}
        self._ports = in_order | {name: port for port in compiled.inputs for name in port.names if name in fed}
        if len(set(self._ports.values())) != len(compiled.inputs):
            raise ModelError("OpenVINO has inputs under names that the model lacks")
        self._exotic = [_EXOTIC.get(port.element_type.get_type_name()) for port in compiled.outputs]

    def __call__(self, feeds: Feeds) -> dict[str, Array]:
        """Run once.

        Raises:
            DataError: a feed is missing, unknown or of the wrong dtype or shape, or the model cannot compute with it.
        """
        checked = self._inputs.check(feeds)
        self._guard.check(checked)
        for name in checked:
            if name not in self._ports and name in self._constants:
                raise DataError(f"OpenVINO takes input '{name}' for a constant; leave it out of the data")
        try:
            arrays = {name: _plain(checked[name], port) for name, port in self._ports.items() if name in checked}
            before_run()
            for name, array in arrays.items():  # whose memory OpenVINO reads, and does not own
                port = self._ports[name]
                self._request.set_tensor(port, _tensor(array, port, np.shape(checked[name])))
            self._request.infer()
            return {name: self._output(index) for index, name in enumerate(self._names)}
        except Exception as error:  # as above
            raise DataError(f"OpenVINO could not run the model: {_clean(error)}") from error

    def _output(self, index: int) -> Array:
        tensor, exotic = self._request.get_output_tensor(index), self._exotic[index]
        if exotic is None:
            return np.array(tensor.data)
        return unpacked(tensor.data.reshape(-1).view(np.uint8), exotic, tuple(tensor.shape))

    @cached_property
    def kernels(self) -> list[Kernel]:
        """See above."""
        told = [
            (node.get_friendly_name(), {key: value.astype(str) for key, value in node.get_rt_info().items()})
            for node in self.compiled.get_runtime_model().get_ordered_ops()
        ]
        made = [
            (name, facts, facts.get("originalLayersNames", "").split(","))
            for name, facts in told
            if facts.get("layerType") not in ("Const", "Input", "Output", "Result", None)
        ]
        stated = {self._node(origin) for _, _, origins in made for origin in origins}
        found = []
        for name, facts, origins in made:
            nodes = [self._node(origin) or self._step_of(origin, stated) for origin in origins]
            named = tuple(dict.fromkeys(node for node in nodes if node))
            found.append(Kernel(name, facts["layerType"], 0.0, facts["runtimePrecision"], named))
        return found

    def seconds(self) -> list[tuple[str, float]]:
        """What each operator took in the last run, by its name; without those that did not run."""
        return [
            (info.node_name, info.real_time.total_seconds())
            for info in self._request.profiling_info
            if info.status.name == "EXECUTED"
        ]

    def _node(self, name: str) -> str:
        """The node of the model that has this name, or makes the value that has; "" where there is none."""
        return name if name in self._nodes else self._makers.get(name) or ""

    def _step_of(self, name: str, stated: Collection[str]) -> str:
        """The node of which OpenVINO made several steps, this one among them, if none of these has the node's name."""
        while name := name.rpartition("/")[0]:
            if node := self._node(name):
                return "" if node in stated else node
        return ""


def precisions() -> list[str]:
    """The precisions of PRECISIONS that this processor computes in; UsageError without OpenVINO."""
    has = _core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return [name for name, capability in PRECISIONS.items() if capability in has]


def _openvino() -> Any:
    try:
        import openvino
    except ImportError as error:
        raise UsageError("the openvino executor needs OpenVINO; pip install 'lwgraph[openvino]'") from error
    return openvino


@cache
def _core() -> Any:
    return _openvino().Core()


@cache
def _instruction_sets() -> str:
    """Those of `_SETS` that the processor has; "" where the platform does not tell."""
    try:
        words = set(Path("/proc/cpuinfo").read_text("utf-8", "replace").split())
    except OSError:
        return ""
    return " ".join(name for name in _SETS if name in words)


def _handed_over(model: ir.Model, names: list[str], folder: Path) -> Any:
    """The model with `names` as its outputs, as bytes, or where it is large as a file in `folder`."""
    if ir.size(model) < IN_MEMORY:
        return ir.detached_proto(model, names, IN_MEMORY, ())[0].SerializeToString()
    copy, path = ir.clone(model), folder / "model.onnx"
    known = named_values(copy.graph)
    copy.graph.outputs[:] = [known[name] for name in dict.fromkeys(names)]
    ir.save(copy, path)
    return path


def _plain(array: Any, port: Any) -> Array:
    """The array as it lies in OpenVINO's memory."""
    exotic = _EXOTIC.get(port.element_type.get_type_name())
    array = np.require(array, requirements=["C", "W"])
    return array if exotic is None else packed(array, exotic)


def _tensor(array: Array, port: Any, shape: Sequence[int]) -> Any:
    """OpenVINO's tensor over the memory of an array."""
    openvino, kind = _openvino(), port.element_type
    if not array.size:
        return openvino.Tensor(kind, openvino.Shape(shape))
    if kind.get_type_name() in _EXOTIC:
        return openvino.Tensor(array, openvino.Shape(shape), kind)
    return openvino.Tensor(array, shared_memory=True)


def _clean(error: BaseException) -> str:
    return one_line(Exception(_NOISE.sub(" ", str(error))))


__all__ = ["PRECISIONS", "OpenVinoExecutor", "OpenVinoRun", "precisions"]
