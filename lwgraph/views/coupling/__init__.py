"""Channel coupling: which slices of activations and weights stand for one channel and must be removed together."""

from lwgraph.views.coupling.builder import Axis, Link
from lwgraph.views.coupling.describe import as_dicts, as_lines, picture
from lwgraph.views.coupling.groups import Coupling, Group, Slice, couple_channels
from lwgraph.views.coupling.parts import part_of, parts, summary

__all__ = [
    "Axis",
    "Coupling",
    "Group",
    "Link",
    "Slice",
    "as_dicts",
    "as_lines",
    "couple_channels",
    "part_of",
    "parts",
    "picture",
    "summary",
]
