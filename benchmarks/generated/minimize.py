"""Makes a failing network small: outputs, nodes and feeds go while the failure stays the same."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import onnx
from onnx import helper

from benchmarks.generated.checks import Case, check
from benchmarks.generated.grow import names_read, session
from lwgraph.arrays import Array
from lwgraph.executor import Feeds

MOST_CHECKS = 400


class _Search:
    """Tries smaller cases, and keeps each in which the same fault is found."""

    def __init__(self, case: Case, action: str) -> None:
        self.case, self.action, self.left = case, action, MOST_CHECKS
        fault = check(case, action).fault
        if fault is None:
            raise ValueError(f"'{action}' does not fail")
        self.fault = fault

    def keep(self, smaller: Callable[..., Case], *of: object) -> bool:
        """Whether a smaller case fails alike; it is the case from then on."""
        if self.left <= 0:
            return False
        self.left -= 1
        try:
            case = smaller(self.case, *of)
            case.outputs(False)
            fault = check(case, self.action).fault
        except Exception:  # what is no model, or does not run, is no smaller case
            return False
        if fault is None or fault.signature != self.fault.signature:
            return False
        self.case, self.fault = case, fault
        return True


def minimize(case: Case, action: str) -> tuple[Case, str]:
    """The small case and its fault in words.

    Raises:
        ValueError: the action does not fail on the case.
    """
    search = _Search(case, action)
    search.keep(_bare)
    for output in list(search.case.proto.graph.output):
        if search.keep(_with_output, output.name):
            break
    changed = True
    while changed and search.left > 0:
        changed = False
        for node in list(search.case.proto.graph.node):
            name = next((o for o in node.output if o), "")
            changed |= search.keep(_with_output, name)
        for node in reversed(list(search.case.proto.graph.node)):
            if any(name in [o.name for o in search.case.proto.graph.output] for name in node.output):
                continue
            name = next((o for o in node.output if o), "")
            changed |= search.keep(_cut, name)
        for node in list(search.case.proto.graph.node):
            if node.input and node.input[0]:
                name = node.output[0]
                changed |= search.keep(_bypassed, name)
    for index in reversed(range(len(search.case.feeds))):
        if len(search.case.feeds) > 1:
            search.keep(_without, index)
    return search.case, search.fault.message


def _without(case: Case, index: int) -> Case:
    return replace(case, known={}, feeds=[each for i, each in enumerate(case.feeds) if i != index])


def _copy(case: Case) -> onnx.ModelProto:
    proto = onnx.ModelProto()
    proto.CopyFrom(case.proto)
    return proto


def _bare(case: Case) -> Case:
    proto = _copy(case)
    del proto.graph.value_info[:]
    return replace(case, proto=proto, known={})


def _with_output(case: Case, name: str) -> Case:
    """The model up to one value, which is its output."""
    if [output.name for output in case.proto.graph.output] == [name]:
        raise ValueError("nothing is left out")
    proto = _copy(case)
    kept = [output for output in proto.graph.output if output.name == name]
    if not kept:
        (kind,) = {array.dtype for array in _values(case, name, case.feeds)}
        kept = [helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(kind), None)]
    kept = [copy.deepcopy(each) for each in kept]
    del proto.graph.output[:]
    proto.graph.output.extend(kept)
    return _swept(replace(case, proto=proto, known={}))


def _cut(case: Case, name: str) -> Case:
    """The model with a value as an input, which is fed what it was."""
    feeds, data = _values(case, name, case.feeds), _values(case, name, case.data)
    ranks = {array.ndim for array in feeds}
    if len(ranks) != 1:
        raise ValueError("its rank changes")
    shapes = [array.shape for array in (*feeds, *data)]
    shape = [
        sizes[0] if len(set(sizes)) == 1 else f"{name}_{axis}" for axis, sizes in enumerate(zip(*shapes, strict=True))
    ]
    proto = _copy(case)
    for node in proto.graph.node:
        for index, output in enumerate(node.output):
            if output == name:
                node.output[index] = f"{name}_before"
    kind = helper.np_dtype_to_tensor_dtype(feeds[0].dtype)
    proto.graph.input.append(helper.make_tensor_value_info(name, kind, shape))
    added = [{**f, name: a} for f, a in zip(case.feeds, feeds, strict=True)]
    known = [{**f, name: a} for f, a in zip(case.data, data, strict=True)]
    return _swept(replace(case, proto=proto, feeds=added, data=known, known={}))


def _bypassed(case: Case, name: str) -> Case:
    """The model with the first input of a node in place of its output."""
    proto = _copy(case)
    node = next(node for node in proto.graph.node if name in node.output)
    source = node.input[0]
    if name in [output.name for output in proto.graph.output]:
        raise ValueError("an output")
    proto.graph.node.remove(node)
    for each in proto.graph.node:
        for index, read in enumerate(each.input):
            if read == name:
                each.input[index] = source
    return _swept(replace(case, proto=proto, known={}))


def _values(case: Case, name: str, feeds: list[Feeds]) -> list[Array]:
    """What a value of the main graph is on each feed."""
    proto = _copy(case)
    if name not in [output.name for output in proto.graph.output]:
        proto.graph.output.append(helper.make_empty_tensor_value_info(name))
    run = session(proto, False)
    return [np.asarray(run.run([name], dict(each))[0]) for each in feeds]


def _swept(case: Case) -> Case:
    """Without nodes, constants and inputs that nothing reads."""
    graph = case.proto.graph
    needed = {output.name for output in graph.output}
    kept = []
    for node in reversed(graph.node):
        if needed & set(node.output):
            kept.append(node)
            needed |= set(names_read(node))
    nodes = [copy.deepcopy(node) for node in reversed(kept)]
    del graph.node[:]
    graph.node.extend(nodes)
    for rows in (graph.initializer, graph.input, graph.value_info):
        used = [copy.deepcopy(row) for row in rows if row.name in needed]
        del rows[:]
        rows.extend(used)
    names = {each.name for each in graph.input}
    feeds = [{k: v for k, v in each.items() if k in names} for each in case.feeds]
    data = [{k: v for k, v in each.items() if k in names} for each in case.data]
    return Case(case.proto, feeds, data)
