"""The small edits every pass needs. All keep the graph consistent: uses, names, ownership."""

from __future__ import annotations

import copy
import weakref
from collections.abc import Iterable

import numpy as np

from lwgraph.arrays import Array
from lwgraph.errors import CheckError
from lwgraph.ir.copying import take_over
from lwgraph.ir.types import DataType, Function, Graph, Node, Shape, Tensor, TensorProtocol, TensorType, Value
from lwgraph.ir.walk import adopt, graph_of, root, values


class _Names:
    """The names in use below one root graph, and the next number to try for each stem."""

    def __init__(self, top: Graph) -> None:
        self.graphs = weakref.WeakSet([top, *top.subgraphs()])
        self.taken: set[str] = set()
        self.next: dict[str, int] = {}
        for graph in self.graphs:
            self.taken.update(value.name for value in values(graph) if value.name)
            self.taken.update(node.name for node in graph if node.name)

    def update(self) -> None:
        """Take what was inserted since: onnx_ir registers every inserted node and its outputs with its graph."""
        for graph in self.graphs:
            authority = graph._name_authority
            self.taken.update(authority._value_names, authority._node_names, graph.initializers)
            self.taken.update(value.name for value in graph.inputs if value.name)

    def inserted(self, name: str) -> bool:
        """Whether something was inserted under a name."""
        return any(
            name in (authority := graph._name_authority)._value_names
            or name in authority._node_names
            or name in graph.initializers
            or any(name == value.name for value in graph.inputs)
            for graph in self.graphs
        )

    def take(self, stem: str, *, updated: bool) -> str:
        """A free name; `updated`: nothing was inserted since `update`."""
        name = stem
        while not name or name in self.taken or (not updated and self.inserted(name)):
            self.next[stem] = self.next.get(stem, 0) + 1
            name = f"{stem}_{self.next[stem]}"
        self.taken.add(name)
        return name


_names: weakref.WeakKeyDictionary[Graph, _Names] = weakref.WeakKeyDictionary()


def _names_around(scope: Graph | Function) -> _Names:
    top = root(scope)
    names = _names.get(top)
    if names is None or graph_of(scope) not in names.graphs:
        names = _names[top] = _Names(top)
    return names


def fresh_name(scope: Graph | Function, stem: str) -> str:
    """`stem`, or `stem_1`, `stem_2` ...: a name that no value and no node has, in `scope`, around it or inside it.

    ONNX forbids a subgraph to reuse a name of an outer graph, so the whole tree of graphs is asked. The name counts as
    taken from now on. O(graphs); the first call on a model walks it once.
    """
    return _names_around(scope).take(stem, updated=False)


def fresh_names(scope: Graph | Function, stems: Iterable[str]) -> list[str]:
    """Many names as `fresh_name` gives them, each of its own; the tree of graphs is asked once for all."""
    names = _names_around(scope)
    names.update()
    return [names.take(stem, updated=True) for stem in stems]


def add_initializer(scope: Graph, data: Array | TensorProtocol, stem: str, *, dtype: DataType | None = None) -> Value:
    """A new initializer of `scope` holding `data`, under a fresh name made from `stem`, with its type and shape.

    `dtype` says what the bits of an array mean where numpy cannot (a uint8 array of UINT4 values, for example).
    The array is not copied: do not write to it afterwards.
    """
    name = fresh_name(scope, stem)
    if isinstance(data, np.ndarray):
        tensor: TensorProtocol = Tensor(_read_only(data), dtype, name=name)
    else:
        tensor = copy.copy(data)  # the copy shares the data and has a name of its own
        tensor.name = name
    value = Value(name=name, const_value=tensor, type=TensorType(tensor.dtype), shape=Shape(tensor.shape.numpy()))
    graph_of(scope).initializers.add(value)
    return value


def _read_only(data: Array) -> Array:
    """A view that cannot be written through: clones of a model share what its initializers hold."""
    view: Array = np.asarray(data).view()
    view.flags.writeable = False
    return view


def copy_on_write(value: Value, node: Node) -> Value:
    """`value` when only `node` uses it, else a new initializer over the same data that `node` uses in its place.

    To be called before giving an initializer of one node other contents: two convolutions may share one bias.

    Raises:
        CheckError: `value` is not an initializer, or the caller of the model may override it (a graph input).
    """
    if not value.is_initializer() or value.is_graph_input() or value.const_value is None:
        raise CheckError(f"'{value.name}' of node '{node.name}' ({node.op_type}) is not a constant initializer")
    places = [index for index, used in enumerate(node.inputs) if used is value]
    if len(value.uses()) == len(places) and not value.is_graph_output():
        return value
    assert value.graph is not None
    own = add_initializer(value.graph, value.const_value, value.name or "constant")
    own.type, own.shape = copy.copy(value.type), value.shape
    for index in places:
        node.replace_input_with(index, own)
    return own


def set_constant(value: Value, data: Array, *, dtype: DataType | None = None) -> None:
    """Give an initializer other contents; its type and shape follow. Mind `copy_on_write` first.

    The array is not copied: do not write to it afterwards.
    """
    if not value.is_initializer():
        raise CheckError(f"'{value.name}' is not an initializer, so its contents cannot be set")
    tensor = Tensor(_read_only(data), dtype, name=value.name)
    value.const_value = tensor
    value.type, value.shape = TensorType(tensor.dtype), Shape(tensor.shape.numpy())


def replace_uses(old: Value, new: Value) -> None:
    """Let every user of `old` use `new` instead. The graph's outputs keep their names.

    Where `old` is an output of its graph, `new` takes over its name (and its type, shape and metadata where it has
    none); an Identity node is put between when `new` cannot be renamed: an input, an initializer, an output already,
    or a value of another graph. `old` is left without users and may be removed with its node.
    """
    if old is new:
        return
    for user, index in old.uses():
        user.replace_input_with(index, new)
    if not old.is_graph_output():
        return
    graph, maker = old.graph, new.producer()
    assert graph is not None
    if new.is_graph_output() or maker is None or maker.graph is not graph:
        through = Node("", "Identity", [new], name=fresh_name(graph, "identity"))
        _insert_for(graph, through, maker, old.producer())
        new = through.outputs[0]
    name = old.name or ""
    old.name = fresh_name(graph, name)
    new.name = name
    take_over(old, new)
    for index, output in enumerate(graph.outputs):
        if output is old:
            graph.outputs[index] = new


def _insert_for(graph: Graph, node: Node, after: Node | None, before: Node | None) -> None:
    if after is not None and after.graph is graph:
        graph.insert_after(after, node)
    elif before is not None:
        graph.insert_before(before, node)
    elif len(graph):
        graph.insert_before(graph[0], node)
    else:
        graph.append(node)


def move_contents(inner: Graph, before: Node) -> list[Node]:
    """Move the nodes and initializers of `inner`, a graph without inputs, to just before `before`, in their order.

    Their names are made fresh there. What was an output of `inner` should be taken off its outputs beforehand.

    Returns:
        the moved nodes.
    """
    graph = before.graph
    assert graph is not None
    graph = graph_of(graph)
    constants, nodes = list(inner.initializers.values()), list(inner)
    named: list[Node | Value] = []
    for node in nodes:
        named += [node, *node.outputs]
    stems = [each.name or "constant" for each in constants] + [each.name for each in named if each.name]
    names = iter(fresh_names(graph, stems))
    for value in constants:
        inner.initializers.pop(value.name or "")
        value.name = next(names)
        graph.initializers.add(value)
    for node in nodes:
        inner.remove(node)  # the uses of the node move with it
    for each in named:
        each.name = next(names) if each.name else each.name
    for node in nodes:
        graph.insert_before(before, node)
        adopt(graph, node)
    return nodes


def remove(node: Node) -> None:
    """Remove `node` from its graph; CheckError when an output is still used (onnx_ir's unsafe removal leaves uses)."""
    graph = node.graph
    if graph is None:
        raise CheckError(f"node '{node.name}' ({node.op_type}) is in no graph, so it cannot be removed")
    for output in node.outputs:
        if output.is_graph_output():
            raise CheckError(
                f"node '{node.name}' ({node.op_type}) cannot be removed: "
                f"its output '{output.name}' is an output of the graph"
            )
        users = output.consumers()
        if users:
            raise CheckError(
                f"node '{node.name}' ({node.op_type}) cannot be removed: its output '{output.name}' "
                f"is used by node '{users[0].name}' ({users[0].op_type})"
            )
    graph.remove(node, safe=True)
