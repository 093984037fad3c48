"""Groups of channels for people and for machines."""

from __future__ import annotations

from typing import Any

from lwgraph import ir
from lwgraph.views.coupling.groups import Coupling, Group
from lwgraph.views.coupling.parts import parts


def as_dicts(coupling: Coupling) -> list[dict[str, Any]]:
    """The groups, ready for JSON: what and where their channels are, who makes and reads them, why they are frozen."""
    words = parts(coupling)
    return [
        {
            "number": group.number,
            "name": group.name,
            "part": words.get(group, ""),
            "channels": group.width,
            "parameters_per_channel": group.parameters,
            "makers": [node.name for node in group.makers],
            "readers": [node.name for node in group.readers],
            "frozen": group.frozen,
            "caveats": list(group.caveats),
            "slices": [
                {
                    "value": each.axis.value.name,
                    "axis": each.axis.axis,
                    "role": each.axis.role,
                    "indices": each.indices.tolist(),
                }
                for each in group.slices
            ],
        }
        for group in coupling.groups
        if interesting(group)
    ]


def picture(coupling: Coupling) -> dict[str, Any]:
    """Data for the report: the layers in order, and the size, makers, readers and refusal of each group."""
    groups = [group for group in coupling.groups if interesting(group)]
    touched = {node for group in groups for node in (*group.makers, *group.readers)}
    return {
        "layers": [_called(node) for node in coupling.builder.graph if node in touched],
        "groups": [
            {
                "name": group.name,
                "channels": group.width,
                "parameters": group.parameters,
                "makers": [_called(node) for node in group.makers],
                "readers": [_called(node) for node in group.readers],
                "frozen": group.frozen,
            }
            for group in groups
        ],
    }


def _called(node: ir.Node) -> str:
    return node.name or str(node.outputs[0].name)


def interesting(group: Group) -> bool:
    """Whether a group is made by a layer; others (kernel axes of derived weights, for one) cannot be pruned at all."""
    return bool(group.weights("out", "channel"))


def as_lines(coupling: Coupling) -> list[str]:
    """The groups, one line each: number, channels, size, makers -> readers, what they are, what stands in the way."""
    lines, words = [], parts(coupling)
    for group in coupling.groups:
        if not interesting(group):
            continue
        makers, readers = _names([n.name or "" for n in group.makers]), _names([n.name or "" for n in group.readers])
        size = f"{group.number:4} {group.width:5} x {group.parameters:<7}"
        line = f"{size} {makers or group.name} -> {readers or 'nothing'}"
        if group in words:
            line += f"  ({words[group]})"
        if group.frozen:
            line += f"  [frozen: {group.frozen}]"
        elif group.caveats:
            line += f"  [{group.caveats[0]}]"
        lines.append(line)
    return lines


def _names(names: list[str], most: int = 3) -> str:
    text = ", ".join(names[:most])
    return f"{text} and {len(names) - most} more" if len(names) > most else text
