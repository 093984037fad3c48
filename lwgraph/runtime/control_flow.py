"""Loop and Scan, as nodes of onnx's evaluator; its own ones differ from the standard in many places."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper
from onnx.reference.op_run import OpRun

from lwgraph.arrays import Array
from lwgraph.errors import ModelError

MOST_TRIPS = 100_000  # of one Loop; one that ends later is taken to be without end


class _Body(OpRun):
    """An operator with a body, which may use values of the graphs around it."""

    body: Any

    def need_context(self) -> bool:
        return True

    def _trip(self, around: dict[str, Any], values: Sequence[Any], options: dict[str, Any]) -> list[Any]:
        """The outputs of the body for its inputs, in their order."""
        feeds = {**around, **dict(zip(self.body.input_names, values, strict=False))}
        found: list[Any] = self._run_body(feeds, **options)  # type: ignore[attr-defined]
        return found

    def _empty(self, index: int) -> Array:
        """What a scan output is when there was no trip: no items, of sizes that the body states, 0 where it does not.

        ONNX Runtime fills in the same.
        """
        kind: onnx.TypeProto.Tensor = self.body.proto_.output[index].type.tensor_type
        dtype = helper.tensor_dtype_to_np_dtype(kind.elem_type or onnx.TensorProto.FLOAT)
        return np.empty((0, *(dim.dim_value for dim in kind.shape.dim)), dtype)


def _options(given: dict[str, Any]) -> dict[str, Any]:
    return {key: given[key] for key in ("attributes", "bindings") if given.get(key) is not None}


class Loop(_Body):
    """Loop-1 to 25: a trip count and a condition, of which either or both may be absent.

    Raises:
        ModelError: it makes more than `MOST_TRIPS` trips.
    """

    def _run(
        self, trips: Any = None, go_on: Any = None, *carried: Any, context: Any = None, **given: Any
    ) -> tuple[Any, ...]:
        count = len(self.body.input_names) - 2
        state = [*carried, *[None] * count][:count]  # trailing inputs that are left out
        scans: list[list[Any]] = [[] for _ in self.body.output_names[1 + count :]]
        most = None if trips is None else int(np.asarray(trips).reshape(-1)[0])
        condition = True if go_on is None else bool(np.asarray(go_on).reshape(-1)[0])
        trip = 0
        while condition and (most is None or trip < most):
            if trip == MOST_TRIPS:
                name = self.onnx_node.name or next(iter(self.onnx_node.output), "")
                raise ModelError(
                    f"Loop '{name}' did not end after {MOST_TRIPS:,} trips, the most that the reference executor makes"
                )
            results = self._trip(
                context or {}, [np.array(trip, np.int64), np.array(condition), *state], _options(given)
            )
            condition = bool(np.asarray(results[0]).reshape(-1)[0])
            state = results[1 : 1 + count]
            for items, item in zip(scans, results[1 + count :], strict=True):
                items.append(item)
            trip += 1
        first = 1 + count
        return (*state, *(np.stack(items) if items else self._empty(first + k) for k, items in enumerate(scans)))


class Scan(_Body):
    """Scan-9 and later: any axes, both directions."""

    def _run(
        self,
        *inputs: Any,
        num_scan_inputs: int = 1,
        scan_input_axes: Sequence[int] | None = None,
        scan_input_directions: Sequence[int] | None = None,
        scan_output_axes: Sequence[int] | None = None,
        scan_output_directions: Sequence[int] | None = None,
        context: Any = None,
        **given: Any,
    ) -> tuple[Any, ...]:
        count = len(inputs) - num_scan_inputs
        outputs = len(self.body.output_names) - count
        axes = scan_input_axes or [0] * num_scan_inputs
        scanned = [np.moveaxis(x, axis, 0) for x, axis in zip(inputs[count:], axes, strict=True)]
        directions = scan_input_directions or [0] * num_scan_inputs
        scanned = [x[::-1] if backwards else x for x, backwards in zip(scanned, directions, strict=True)]
        state, found = self._scan(context or {}, list(inputs[:count]), scanned, _options(given))
        for k, (backwards, axis) in enumerate(
            zip(scan_output_directions or [0] * outputs, scan_output_axes or [0] * outputs, strict=True)
        ):
            found[k] = np.moveaxis(found[k][::-1] if backwards else found[k], 0, axis)
        return (*state, *found)

    def _scan(
        self, around: dict[str, Any], state: list[Any], scanned: list[Array], options: dict[str, Any]
    ) -> tuple[list[Any], list[Array]]:
        """The last state, and the items of each scan output along a new first axis."""
        first = len(state)
        scans: list[list[Any]] = [[] for _ in self.body.output_names[first:]]
        for trip in range(len(scanned[0])):
            results = self._trip(around, [*state, *(x[trip] for x in scanned)], options)
            state = results[:first]
            for items, item in zip(scans, results[first:], strict=True):
                items.append(item)
        return state, [np.stack(items) if items else self._empty(first + k) for k, items in enumerate(scans)]


class BatchedScan(Scan):
    """Scan-8: a batch of sequences, each of its own length; what lies behind a sequence's end is zero."""

    def _run(  # type: ignore[override]
        self,
        lengths: Any,
        *inputs: Any,
        num_scan_inputs: int = 1,
        directions: Sequence[int] | None = None,
        context: Any = None,
        **given: Any,
    ) -> tuple[Any, ...]:
        count = len(inputs) - num_scan_inputs
        batch, longest = inputs[count].shape[:2]
        ends = [longest] * batch if lengths is None else [int(length) for length in lengths]
        backwards = directions or [0] * num_scan_inputs
        rows = []
        for b, end in enumerate(ends):
            scanned = [
                x[b, :end][::-1] if back else x[b, :end] for x, back in zip(inputs[count:], backwards, strict=True)
            ]
            state, found = self._scan(context or {}, [x[b] for x in inputs[:count]], scanned, _options(given))
            padded = [np.concatenate([y, np.zeros((longest - end, *y.shape[1:]), y.dtype)]) for y in found]
            rows.append([*state, *padded])
        return tuple(np.stack(column) for column in zip(*rows, strict=True))


def control_flow(op_type: str, version: int) -> type[OpRun] | None:
    """The class of an operator of the standard domain that has a body and is ours."""
    if op_type == "Loop":
        return Loop
    if op_type == "Scan":
        return Scan if version >= 9 else BatchedScan
    return None


__all__ = ["MOST_TRIPS", "control_flow"]
