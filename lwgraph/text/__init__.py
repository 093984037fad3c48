"""Models as readable text, and differences between two models."""

from lwgraph.text.diff import Change, Diff, diff
from lwgraph.text.printing import (
    attribute_text,
    node_text,
    operator,
    shape_text,
    tensor_text,
    to_text,
    type_text,
    value_text,
)

__all__ = [
    "Change",
    "Diff",
    "attribute_text",
    "diff",
    "node_text",
    "operator",
    "shape_text",
    "tensor_text",
    "to_text",
    "type_text",
    "value_text",
]
