"""The one door to onnx_ir: the graph types, loading and saving, and the small edits every pass needs."""

from lwgraph.ir.constants import (
    ReferenceAttributeError,
    attribute,
    constant,
    constant_dtype,
    constant_of,
    constant_shape,
    constant_tensor,
)
from lwgraph.ir.edit import add_initializer, copy_on_write, fresh_name, remove, replace_uses, set_constant
from lwgraph.ir.store import clone, detached_proto, fingerprint, load, save, to_proto
from lwgraph.ir.types import (
    Attr,
    AttributeType,
    DataType,
    Function,
    Graph,
    Model,
    Node,
    OptionalType,
    RefAttr,
    Shape,
    Source,
    SymbolicDim,
    Tensor,
    TensorProtocol,
    TensorType,
    Value,
)
from lwgraph.ir.walk import graph_of, opset, parent, root, scopes, subgraphs_of, values

__all__ = [
    "Attr", "AttributeType", "DataType", "Function", "Graph", "Model", "Node", "OptionalType", "RefAttr",
    "ReferenceAttributeError", "Shape", "Source", "SymbolicDim", "Tensor", "TensorProtocol", "TensorType", "Value",
    "add_initializer", "attribute", "clone", "constant", "constant_dtype", "constant_of", "constant_shape",
    "constant_tensor", "copy_on_write", "detached_proto", "fingerprint", "fresh_name", "graph_of", "load", "opset",
    "parent", "remove", "replace_uses", "root", "save", "scopes", "set_constant", "subgraphs_of", "to_proto",
    "values",
]
