"""The one door to onnx_ir: the graph types, loading and saving, and the small edits every pass needs."""

from lwgraph.ir.build import (
    attach_initializer,
    constant_node,
    detach,
    drop_trailing_inputs,
    is_constant,
    is_dead,
    is_removable_initializer,
    make_node,
    predecessor,
    replace_contents,
    sweep,
    sweep_values,
    unattached_constant,
    use_count,
)
from lwgraph.ir.constants import (
    ReferenceAttributeError,
    attribute,
    constant,
    constant_dtype,
    constant_of,
    constant_shape,
    constant_tensor,
)
from lwgraph.ir.copying import clone, extract, inlined
from lwgraph.ir.edit import (
    add_initializer,
    copy_on_write,
    fresh_name,
    move_contents,
    remove,
    replace_uses,
    set_constant,
)
from lwgraph.ir.loading import RUNTIME_DOMAINS, load
from lwgraph.ir.saving import (
    copy_file,
    detached_proto,
    fingerprint,
    function_protos,
    node_proto,
    save,
    size,
    skeleton,
    to_proto,
)
from lwgraph.ir.shapes import Dims, infer_shapes, record_shapes
from lwgraph.ir.tensors import digest, held, tensors
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
    SequenceType,
    Shape,
    Source,
    SparseTensorType,
    SymbolicDim,
    Tensor,
    TensorProtocol,
    TensorType,
    TypeProtocol,
    Value,
)
from lwgraph.ir.walk import first_unsorted, graph_of, opset, parent, root, scopes, subgraphs_of, values

__all__ = [
    "RUNTIME_DOMAINS", "Attr", "AttributeType", "DataType", "Dims", "Function", "Graph", "Model", "Node",
    "OptionalType", "RefAttr", "ReferenceAttributeError", "SequenceType", "Shape", "Source", "SparseTensorType",
    "SymbolicDim", "Tensor", "TensorProtocol", "TensorType", "TypeProtocol", "Value", "add_initializer",
    "attach_initializer", "attribute", "clone", "constant", "constant_dtype", "constant_node", "constant_of",
    "constant_shape", "constant_tensor", "copy_file", "copy_on_write", "detach", "detached_proto", "digest",
    "drop_trailing_inputs", "extract", "fingerprint", "first_unsorted", "fresh_name", "function_protos", "graph_of",
    "held", "infer_shapes", "inlined", "is_constant", "is_dead", "is_removable_initializer", "load", "make_node",
    "move_contents", "node_proto", "opset", "parent", "predecessor", "record_shapes", "remove", "replace_contents",
    "replace_uses",
    "root", "save", "scopes", "set_constant", "size", "skeleton", "subgraphs_of", "sweep", "sweep_values",
    "tensors", "to_proto", "unattached_constant", "use_count", "values",
]
