"""The plan: what stands at each layer, group and block, as JSON that a person can read, edit and re-apply."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from lwgraph import ir
from lwgraph.arrays import Shapes
from lwgraph.errors import UsageError, did_you_mean
from lwgraph.layers.apply import Record, apply_forms, observable
from lwgraph.layers.form import Fitted, parse_form
from lwgraph.layers.site import Site, find_sites
from lwgraph.rewrite.base import Context

KEEP = "keep"
VERSION = 2


@dataclass(frozen=True)
class Choice:
    """What a site becomes.

    Attributes:
        form: the form's text, `low-rank{rank=32}`, or "keep".
        error: predicted relative output error of the site.
        ms: predicted milliseconds of the layer and of the form.
    """

    form: str = KEEP
    error: float = 0.0
    ms: tuple[float, float] = (0.0, 0.0)


@dataclass(frozen=True)
class Width:
    """How many channels of a coupling group stay; which ones, is decided when the plan is applied.

    Attributes:
        keep: channels that stay, at least 1.
        of: channels there are.
        error: predicted relative output error of the layers that read them.
        ms: predicted milliseconds of all layers of the group, before and after.
    """

    keep: int
    of: int
    error: float = 0.0
    ms: tuple[float, float] = (0.0, 0.0)


@dataclass(frozen=True)
class Removed:
    """A residual block that goes.

    Attributes:
        error: predicted relative error at the block's output.
        ms: predicted milliseconds of the block, and of what takes its place.
    """

    error: float = 0.0
    ms: tuple[float, float] = (0.0, 0.0)


@dataclass(frozen=True)
class Precision:
    """How the network is computed after its structure is decided.

    Attributes:
        passes: spellings of passes to run, in order, `quantize{calibration_method=mse}`; empty: as it was.
        keep_float: names of sites or nodes that those passes leave alone; a site stands for all nodes of its form.
        error: predicted relative error at the network's output.
        ms: predicted milliseconds of the network before and after.
    """

    passes: tuple[str, ...] = ()
    keep_float: tuple[str, ...] = ()
    error: float = 0.0
    ms: tuple[float, float] = (0.0, 0.0)


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

    def to_json(self) -> str:
        """Readable JSON, one choice per line, numbers to six digits; the same plan gives the same text.

        `docs/plan.schema.json` is its schema.
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
            parts.append(_section("precision", asdict(self.precision)))
        return "{\n" + ",\n".join(parts) + "\n}\n"

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """A plan from its JSON. Only "lwgraph_plan" and "sites" must be there.

        Raises:
            UsageError: naming what is wrong, and where.
        """
        from lwgraph.plan.read import read

        return read(text)

    @classmethod
    def load(cls, path: Path | str) -> Plan:
        """Read a plan's file; UsageError when it cannot be read or is wrong."""
        try:
            text = Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
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


def apply_plan(
    model: ir.Model,
    plan: Plan,
    context: Context,
    *,
    shapes: Shapes | None = None,
    fitted: Mapping[str, Fitted] | None = None,
) -> list[Record]:
    """Apply the sites of `plan` to `model`, in place. Every site is proved before it is replaced; see `apply_forms`.

    `lwgraph.plan.carry_out` does the rest of a plan, too.

    Args:
        model: the model.
        plan: the choices.
        context: `statistics` (None: fits without samples), `reference`, `seed`; refusals are recorded in it.
        shapes: measured sizes by value name.
        fitted: fits by site name, where they are known already.

    Returns:
        one record for each site of the plan that is not kept.

    Raises:
        UsageError: the plan names a site that the model does not have, or a form that does not exist.
    """
    sites = {site.name: site for site in find_sites(model, shapes)}
    choices = []
    for name, choice in plan.sites.items():
        if name not in sites:
            raise UsageError(f"the plan names site '{name}', which the model does not have{did_you_mean(name, sites)}")
        if choice.form != KEEP:
            choices.append((sites[name], parse_form(choice.form)))
    _prefetch([site for site, _ in choices if site.name not in (fitted or {})], context)
    return apply_forms(choices, context, fitted)


def _prefetch(sites: Sequence[Site], context: Context) -> None:
    if context.statistics is not None and sites:
        context.statistics.prefetch([site for site in sites if observable(site)])


__all__ = ["KEEP", "Choice", "Plan", "Precision", "Removed", "Width", "apply_plan"]
