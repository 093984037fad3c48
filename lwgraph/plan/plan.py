"""The plan: which form stands at which site, as JSON that a person can read, edit and re-apply."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from lwgraph import ir
from lwgraph.errors import UsageError, did_you_mean
from lwgraph.plan.apply import Record, apply_forms
from lwgraph.plan.form import Fitted, parse_form
from lwgraph.plan.site import Site, find_sites
from lwgraph.rewrite.base import Context

KEEP = "keep"
VERSION = 1


@dataclass(frozen=True)
class Choice:
    """What a site becomes.

    Attributes:
        form: the form's text, `low-rank{rank=32}`, or "keep".
        error: predicted relative output error of the site.
        ms: measured milliseconds of the layer and of the form.
    """

    form: str = KEEP
    error: float = 0.0
    ms: tuple[float, float] = (0.0, 0.0)


@dataclass(frozen=True)
class Plan:
    """A choice for each site, by the site's name; sites that are not named are kept.

    Attributes:
        sites: the choices.
        target: executor, version, threads and processor that the milliseconds were measured on.
    """

    sites: Mapping[str, Choice] = field(default_factory=dict)
    target: str = ""

    @property
    def saved_ms(self) -> float:
        """Predicted milliseconds saved in one run."""
        return sum(choice.ms[0] - choice.ms[1] for choice in self.sites.values() if choice.form != KEEP)

    def to_json(self) -> str:
        """Readable JSON, one site per line; the same plan gives the same text."""
        lines = [f"    {json.dumps(name)}: {json.dumps(asdict(choice))}" for name, choice in self.sites.items()]
        head = f'  "lwgraph_plan": {VERSION},\n  "target": {json.dumps(self.target)},\n'
        body = ",\n".join(lines)
        return f'{{\n{head}  "sites": {{\n{body}\n  }}\n}}\n' if lines else f'{{\n{head}  "sites": {{}}\n}}\n'

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """A plan from its JSON. `error` and `ms` may be left out.

        Raises:
            UsageError: naming what is wrong.
        """
        try:
            data = json.loads(text)
        except json.JSONDecodeError as error:
            raise UsageError(f"the plan is not JSON: {error}") from None
        if not isinstance(data, dict) or not isinstance(data.get("sites"), dict):
            raise UsageError('the plan has no "sites"; allowed: {"lwgraph_plan": 1, "sites": {NAME: {"form": ...}}}')
        if data.get("lwgraph_plan") != VERSION:
            raise UsageError(f'the plan has "lwgraph_plan": {data.get("lwgraph_plan")}; this version reads {VERSION}')
        sites = {name: _choice(name, value) for name, value in data["sites"].items()}
        return cls(sites, str(data.get("target", "")))

    @classmethod
    def load(cls, path: Path | str) -> Plan:
        """Read a plan's file; UsageError when it cannot be read."""
        try:
            return cls.from_json(Path(path).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"plan '{path}' cannot be read: {error}") from None


def _choice(name: str, value: Any) -> Choice:
    if not isinstance(value, dict) or not isinstance(value.get("form"), str):
        raise UsageError(f"site '{name}' of the plan is {value!r}; allowed: {{\"form\": \"low-rank{{rank=32}}\"}}")
    unknown = set(value) - {"form", "error", "ms"}
    if unknown:
        raise UsageError(f"site '{name}' of the plan has '{min(unknown)}'; allowed: form, error, ms")
    if value["form"] != KEEP:
        parse_form(value["form"])
    ms = value.get("ms", (0.0, 0.0))
    try:
        return Choice(value["form"], float(value.get("error", 0.0)), (float(ms[0]), float(ms[1])))
    except (TypeError, ValueError, IndexError, KeyError):
        raise UsageError(f"site '{name}' of the plan: error must be a number and ms a pair of numbers") from None


def apply_plan(
    model: ir.Model,
    plan: Plan,
    context: Context,
    *,
    shapes: Mapping[str, Sequence[int | None]] | None = None,
    fitted: Mapping[str, Fitted] | None = None,
) -> list[Record]:
    """Apply `plan` to `model`, in place. Every site is proved before it is replaced; see `apply_forms`.

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
        from lwgraph.plan.apply import observable

        context.statistics.prefetch([site for site in sites if observable(site)])


__all__ = ["KEEP", "Choice", "Plan", "apply_plan"]
