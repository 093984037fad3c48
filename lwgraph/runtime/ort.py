"""ONNX Runtime behind the executor protocol (CPU execution provider)."""

from __future__ import annotations

import ctypes
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime

from lwgraph import heap, ir
from lwgraph.arrays import Array
from lwgraph.errors import DataError, ModelError, UsageError
from lwgraph.executor import Feeds, Kernel, before_run
from lwgraph.runtime.fatal import DivisionGuard
from lwgraph.runtime.interface import FeedCheck, one_line, requested, unpacked, untimed_threads
from lwgraph.temporary import TemporaryFolder

LEVELS = {
    "none": onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL,
    "basic": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "extended": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    "all": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL,
}
SHARED_BYTES = 1024  # initializers from this size on are lent to ONNX Runtime instead of being serialized
_KERNEL = "_kernel_time"  # suffix of a kernel's event in the profile
_OLDEST = 7  # of the opsets all of whose operators ONNX Runtime has
_SILENT = 4  # ONNX Runtime's "fatal": everything else reaches the caller as an exception
_LENDABLE = {
    ir.DataType.FLOAT,
    ir.DataType.DOUBLE,
    ir.DataType.FLOAT16,
    ir.DataType.BOOL,
    ir.DataType.INT8,
    ir.DataType.INT16,
    ir.DataType.INT32,
    ir.DataType.INT64,
    ir.DataType.UINT8,
    ir.DataType.UINT16,
    ir.DataType.UINT32,
    ir.DataType.UINT64,
}
_FAILURE = re.compile(r"\[ONNXRuntimeError\] : \d+ : [A-Z_]+ : |/\S*onnxruntime_src/\S+:\d+ [^)]*\)( const)? ")


class OrtExecutor:
    """Runs models with ONNX Runtime on the CPU.

    Args:
        threads: threads inside an operator; operators run one after another. At least 1.
        optimize: True ("all"), False ("none"), or one of LEVELS: which of ONNX Runtime's own graph optimizations run.
        session_options: called with each new SessionOptions before the session is made, for anything else, such as
            `optimized_model_filepath` or `add_session_config_entry`.

    Raises:
        UsageError: `threads` or `optimize` is not allowed.
    """

    name = "ort"

    def __init__(
        self,
        threads: int = 1,
        optimize: bool | str = True,
        session_options: Callable[[onnxruntime.SessionOptions], None] | None = None,
    ) -> None:
        level = {True: "all", False: "none"}.get(optimize, optimize) if isinstance(optimize, bool) else optimize
        if level not in LEVELS:
            raise UsageError(f"optimize='{optimize}' is unknown to the ort executor; one of {', '.join(LEVELS)}")
        if threads < 1:
            raise UsageError(f"threads={threads}: the ort executor needs at least 1")
        self.threads, self.level, self._hook = threads, level, session_options

    @property
    def in_calling_thread(self) -> bool:
        """Whether all of a run is done by the thread that asked for it, so that its own clock tells the time taken."""
        return self.threads == 1

    def prepare(self, model: ir.Model, outputs: Sequence[str] | None = None) -> OrtRun:
        """Make a session; see `lwgraph.executor.Executor.prepare`.

        Initializers of the main graph from SHARED_BYTES on are lent to the session, not copied into the model's bytes;
        ONNX Runtime copies them. Large ones in files it maps itself, and lets go of each as soon as it is packed.
        """
        names = requested(model, outputs)
        inputs, guard = FeedCheck(model.graph), DivisionGuard(model)
        proto, lent = ir.detached_proto(model, names, SHARED_BYTES, _LENDABLE, ir.ROOT)
        options = onnxruntime.SessionOptions()
        # ONNX Runtime takes files in one folder and those below it.
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(ir.ROOT))
        options.intra_op_num_threads, options.inter_op_num_threads = self.threads, 1
        options.graph_optimization_level = LEVELS[self.level]
        options.log_severity_level = _SILENT
        values = [onnxruntime.OrtValue.ortvalue_from_numpy(array) for array in lent.values()]
        if lent:
            options.add_external_initializers(list(lent), values)
        if self._hook is not None:
            self._hook(options)
        heap.trim()  # what sessions took that are gone
        inside = not {value.name for value in model.graph.outputs}.issuperset(names)
        session = _session(proto, options, as_is=inside)
        del proto
        heap.trim()  # what reading it took
        return OrtRun(session, names, inputs, guard, (values, lent))

    def as_written(self) -> OrtExecutor:
        """A twin of this executor in which products with 4- and 8-bit weights take their activations as they are.

        By default ONNX Runtime rounds those to 8 bits, which the graph does not say: fast, and not to be compared with
        another executor.
        """
        return self._with("session.qdq_matmulnbits_accuracy_level", "0")

    def _with(self, key: str, value: str) -> OrtExecutor:
        def hook(options: onnxruntime.SessionOptions) -> None:
            options.add_session_config_entry(key, value)
            if self._hook is not None:
                self._hook(options)

        return OrtExecutor(self.threads, self.level, hook)

    def ready_sooner(self) -> OrtExecutor:
        """A twin whose sessions pack no weights."""
        return self._with("session.disable_prepacking", "1")

    def code(self, path: str) -> str:
        """Two lines of Python; see `lwgraph.executor.ToldAsCode`."""
        return (
            f"session = onnxruntime.InferenceSession({json.dumps(path)})"
            f"  # with SessionOptions.intra_op_num_threads = {self.threads}\n"
            "outputs = session.run(None, inputs)  # {name: array}"
        )

    def untimed(self) -> OrtExecutor:
        """A twin for runs whose time does not matter: on more cores of this process."""
        threads = untimed_threads()
        return self if threads <= self.threads else OrtExecutor(threads, self.level, self._hook)

    def optimized(self, model: ir.Model) -> onnx.ModelProto:
        """The graph that ONNX Runtime really runs, after its own optimizations; large initializers without data.

        Raises:
            ModelError: the runtime cannot load the model.
        """
        with TemporaryFolder() as folder:
            path = Path(folder, "optimized.onnx")

            def hook(options: onnxruntime.SessionOptions) -> None:
                options.optimized_model_filepath = str(path)
                options.add_session_config_entry("session.optimized_model_external_initializers_file_name", "data")
                options.add_session_config_entry(
                    "session.optimized_model_external_initializers_min_size_in_bytes", str(SHARED_BYTES)
                )

            OrtExecutor(self.threads, self.level, hook).prepare(model)
            return onnx.load(path, load_external_data=False)

    def profile(self, model: ir.Model, feeds: Sequence[Feeds]) -> list[Kernel]:
        """The time of each kernel of the optimized graph; the model runs once on every feed after one run to warm up.

        Raises:
            ModelError: the runtime cannot load the model. DataError: it cannot run on a feed.
        """
        with TemporaryFolder() as folder:

            def hook(options: onnxruntime.SessionOptions) -> None:
                options.enable_profiling = True
                options.profile_file_prefix = str(Path(folder, "profile"))

            run = OrtExecutor(self.threads, self.level, hook).prepare(model)
            for feed in (feeds[0], *feeds):
                run(feed)
            events = json.loads(Path(run.session.end_profiling()).read_text("utf-8"))
        times: dict[tuple[str, str], list[float]] = {}
        for event in events:
            if event.get("cat") == "Node" and event["name"].endswith(_KERNEL):
                key = event["name"].removesuffix(_KERNEL), event["args"]["op_name"]
                times.setdefault(key, []).append(event["dur"])
        runs = len(feeds) + 1
        return [
            Kernel(name, op, float(np.median(found)) * 1e-6 * len(found) / runs) for (name, op), found in times.items()
        ]


class OrtRun:
    """A session with checked feeds; `session` is the onnxruntime.InferenceSession."""

    def __init__(self, session: Any, names: list[str], inputs: FeedCheck, guard: DivisionGuard, keep: object) -> None:
        self.session = session
        self._guard = guard
        self._names, self._inputs, self._keep = names, inputs, keep  # ONNX Runtime does not own what it was lent
        self._unique = list(dict.fromkeys(names))
        types = {value.name: value.type for value in session.get_outputs()}
        self._raw = {n for n in self._unique if (t := types[n]).startswith("tensor(") and t[7:-1] in _EXOTIC}
        self._exotic_inputs = {
            value.name: _EXOTIC[value.type[7:-1]]
            for value in session.get_inputs()
            if value.type.startswith("tensor(") and value.type[7:-1] in _EXOTIC
        }

    def __call__(self, feeds: Feeds) -> dict[str, Array]:
        """Run once.

        Raises:
            DataError: a feed is missing, unknown or of the wrong dtype or shape, or the model cannot compute with it.
        """
        checked = self._inputs.check(feeds)
        self._guard.check(checked)
        try:
            if self._raw or self._exotic_inputs:
                return self._run_values(checked)
            before_run()
            results = self.session.run(self._unique, checked)
        except Exception as error:  # ONNX Runtime's exceptions have no common base but Exception
            raise DataError(f"ONNX Runtime could not run the model: {_clean(error)}") from error
        return dict(zip(self._unique, results, strict=True))

    def _run_values(self, feeds: dict[str, Any]) -> dict[str, Array]:
        """Types that ONNX Runtime's Python side cannot exchange as arrays (bfloat16, float8, 4-bit integers)."""
        values = {
            name: onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(np.ascontiguousarray(array), exotic.value)
            if (exotic := self._exotic_inputs.get(name)) is not None
            else onnxruntime.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array))
            for name, array in feeds.items()
        }
        results = self.session.run_with_ort_values(self._unique, values)
        return {
            name: _array(value) if name in self._raw else value.numpy()
            for name, value in zip(self._unique, results, strict=True)
        }


_EXOTIC = {
    "bfloat16": ir.DataType.BFLOAT16,
    "float8e4m3fn": ir.DataType.FLOAT8E4M3FN,
    "float8e4m3fnuz": ir.DataType.FLOAT8E4M3FNUZ,
    "float8e5m2": ir.DataType.FLOAT8E5M2,
    "float8e5m2fnuz": ir.DataType.FLOAT8E5M2FNUZ,
    "int4": ir.DataType.INT4,
    "uint4": ir.DataType.UINT4,
}


def _array(value: Any) -> Array:
    """A copy of a tensor whose type numpy lacks, as an ml_dtypes array."""
    kind = _EXOTIC[value.data_type()[7:-1]]
    shape = tuple(value.shape())
    count = int(np.prod(shape, dtype=np.int64))
    size = (count * kind.bitwidth + 7) // 8
    raw = np.frombuffer(ctypes.string_at(value.data_ptr(), size), np.uint8)
    return unpacked(raw, kind, shape)


def _session(proto: onnx.ModelProto, options: onnxruntime.SessionOptions, as_is: bool) -> Any:
    """A session. An IR version newer than ONNX Runtime knows is lowered: the operators decide what runs.

    `as_is`: where ONNX Runtime's own optimizations lose a value that is to be returned, it goes without them.
    """
    try:
        try:
            return _open(proto, options)
        except Exception as error:
            newest = re.search(r"max supported IR version: (\d+)", str(error))
            if newest is None:
                raise
            proto.ir_version = int(newest[1])
            return _session(proto, options, as_is)
    except ModelError:
        raise
    except Exception as error:
        if as_is and options.graph_optimization_level != LEVELS["none"]:
            options.graph_optimization_level = LEVELS["none"]
            return _session(proto, options, as_is)
        raise ModelError(f"ONNX Runtime cannot load the model: {_clean(error)}{_if_old(proto)}") from error


def _if_old(proto: onnx.ModelProto) -> str:
    """What to do with a model of an opset that ONNX Runtime does not have in full; "" for others."""
    opset = next((each.version for each in proto.opset_import if each.domain in ("", "ai.onnx")), _OLDEST)
    if opset >= _OLDEST:
        return ""
    cure = "raise it with onnx.version_converter.convert_version(model, 17), or export the model anew"
    return f"; it has all operators from opset {_OLDEST} on, the model is of opset {opset}: {cure}"


def _open(proto: onnx.ModelProto, options: onnxruntime.SessionOptions) -> Any:
    return onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])


def _clean(error: BaseException) -> str:
    return one_line(Exception(_FAILURE.sub("", str(error))))


__all__ = ["LEVELS", "Kernel", "OrtExecutor", "OrtRun"]
