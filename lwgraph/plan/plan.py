"""The plan: what stands at each layer, group and block, as JSON that a person can read, edit and re-apply."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from lwgraph.errors import UsageError
from lwgraph.plan.choices import KEEP, VERSION, Choice, Precision, Removed, Width
from lwgraph.plan.read import read_fields


@dataclass(frozen=True)
class Plan:
    """All choices for a network, by name; what is not named stays as it is.

    They are carried out in the order blocks, groups, sites, precision. Sites have the names they have in the model
    before anything was done.

    Attributes:
        sites: the form of each site.
        target: executor, version, threads and processor that the milliseconds were measured on.
        groups: the width of each coupling group, by the group's name (see `lwgraph inspect --groups`).
        blocks: residual blocks to remove, by name.
        precision: how it is computed.
        ms: predicted milliseconds of the whole network before and after; (0, 0) when not predicted.
        error: predicted relative error at the network's output.
    """

    sites: Mapping[str, Choice] = field(default_factory=dict)
    target: str = ""
    groups: Mapping[str, Width] = field(default_factory=dict)
    blocks: Mapping[str, Removed] = field(default_factory=dict)
    precision: Precision = field(default_factory=Precision)
    ms: tuple[float, float] = (0.0, 0.0)
    error: float = 0.0

    @property
    def saved_ms(self) -> float:
        """Predicted milliseconds saved in one run: the sum over all choices."""
        chosen = [choice.ms for choice in self.sites.values() if choice.form != KEEP]
        chosen += [width.ms for width in self.groups.values()]
        chosen += [gone.ms for gone in self.blocks.values()]
        return sum(before - after for before, after in [*chosen, self.precision.ms])

    @property
    def empty(self) -> bool:
        """Whether it changes nothing."""
        kept = all(choice.form == KEEP for choice in self.sites.values())
        return kept and not self.groups and not self.blocks and not self.precision.passes

    def says(self) -> str:
        """What the plan says of the model that comes of it, as text: not what was predicted."""
        return json.dumps(
            {
                "blocks": sorted(self.blocks),
                "groups": {name: width.keep for name, width in self.groups.items()},
                "sites": {name: choice.form for name, choice in self.sites.items() if choice.form != KEEP},
                "passes": self.precision.passes,
                "float": self.precision.keep_float,
                **({"dynamic": self.precision.dynamic} if self.precision.dynamic else {}),
            },
            sort_keys=True,
        )

    def to_json(self) -> str:
        """Readable JSON, one choice per line, numbers to six digits; the same plan gives the same text.

        `lwgraph.schemas.schema("plan")` is its schema.
        """
        parts = [f'  "lwgraph_plan": {VERSION}', f'  "target": {_dump(self.target)}']
        if self.ms != (0.0, 0.0) or self.error:
            parts.append(f'  "predicted": {_dump({"error": self.error, "ms": self.ms})}')
        if self.blocks:
            parts.append(_section("blocks", {name: {"remove": True, **asdict(r)} for name, r in self.blocks.items()}))
        if self.groups:
            parts.append(_section("groups", {name: asdict(width) for name, width in self.groups.items()}))
        parts.append(_section("sites", {name: asdict(choice) for name, choice in self.sites.items()}))
        if self.precision != Precision():
            said = asdict(self.precision)
            parts.append(
                _section("precision", {key: value for key, value in said.items() if key != "dynamic" or value})
            )
        return "{\n" + ",\n".join(parts) + "\n}\n"

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """A plan from its JSON. Only "lwgraph_plan" and "sites" must be there.

        Raises:
            UsageError: naming what is wrong, and where.
        """
        return cls(**read_fields(text))

    @classmethod
    def load(cls, path: Path | str) -> Plan:
        """Read a plan's file; UsageError when it cannot be read or is wrong."""
        try:
            text = Path(path).read_text(encoding="utf-8")
        except (OSError, ValueError) as error:  # no text, or a NUL in the name
            raise UsageError(f"plan '{path}' cannot be read: {error}") from None
        try:
            return cls.from_json(text)
        except UsageError as error:
            raise UsageError(f"plan '{path}': {error}") from None


def _section(name: str, rows: Mapping[str, Any]) -> str:
    lines = [f"    {_dump(key)}: {_dump(value)}" for key, value in rows.items()]
    return f'  "{name}": {{\n' + ",\n".join(lines) + "\n  }" if lines else f'  "{name}": {{}}'


def _dump(value: Any) -> str:
    return json.dumps(_short(value), ensure_ascii=False, allow_nan=False)


def _short(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, dict):
        return {key: _short(item) for key, item in value.items()}
    return [_short(item) for item in value] if isinstance(value, (list, tuple)) else value


__all__ = ["KEEP", "Choice", "Plan", "Precision", "Removed", "Width"]
