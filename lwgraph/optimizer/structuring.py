"""Which channels and blocks go before forms and precisions are searched: the most that keeps the promise."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import Any

from lwgraph import ir
from lwgraph.arrays import Shapes
from lwgraph.cache import Models, facts_of
from lwgraph.calibrate.layer_shapes import layer_shapes
from lwgraph.executor import Feeds
from lwgraph.layers.site import find_sites
from lwgraph.optimizer.backoff import STEP
from lwgraph.optimizer.bench import Made
from lwgraph.optimizer.drafts import Drafts
from lwgraph.plan.carry_out import Samples, carry_out
from lwgraph.plan.plan import KEEP, Plan
from lwgraph.plan.precision import INT8
from lwgraph.plan.price.oracle import Oracle
from lwgraph.plan.search.front import Candidate
from lwgraph.plan.search.planner import Planner
from lwgraph.plan.search.structure import NOTHING, Structure
from lwgraph.rewrite import Context


@dataclass(frozen=True, eq=False)
class Trunk:
    """What a structure leaves of a network, the layers refitted; forms and precisions come on top.

    Attributes:
        plan: its groups and blocks.
        shapes: measured sizes by value name.
    """

    plan: Plan
    model: ir.Model
    shapes: Shapes


class Trunks:
    """The trunks of one network; each is made once, and kept: its refits take long.

    Args:
        clean: the network.
        context: with its statistics, and data to refit with.
        shapes: of the network.
        probe: a sample to measure sizes on.
        models: where they are kept.
    """

    def __init__(self, clean: ir.Model, context: Context, shapes: Shapes, probe: Feeds, models: Models) -> None:
        self.clean, self.context, self.shapes, self.probe, self.models = clean, context, shapes, probe, models
        self._made: dict[str, Trunk] = {}

    def of(self, plan: Plan) -> Trunk:
        """What the groups and blocks of a plan leave.

        Raises:
            UsageError: the plan names what the network does not have.
        """
        structure = Plan(groups=plan.groups, blocks=plan.blocks)
        if structure.empty:
            return Trunk(structure, self.clean, self.shapes)
        key = said(structure)
        if key not in self._made:
            kept = self.models.get(key)
            model = self._cut(structure) if kept is None else kept[0]
            executor = self.context.executor or self.context.evaluator()
            self._made[key] = Trunk(structure, model, layer_shapes(model, self.probe, executor))
        return self._made[key]

    def _cut(self, structure: Plan) -> ir.Model:
        model = carry_out(self.clean, structure, self.context, samples=Samples.in_earnest()).model
        self.models.put(said(structure), model, {})
        return model


class Workshop:
    """Makes the models of candidates, as they would be delivered.

    Args:
        clean, context, shapes, probe: see `Trunks`.
        run_ms: of one run of the network, about; see `Samples`.

    Attributes:
        planner: of the candidates that are not stated; to be set before one of these is made.
    """

    def __init__(self, clean: ir.Model, context: Context, shapes: Shapes, probe: Feeds, run_ms: float) -> None:
        executor = context.executor or context.evaluator()
        told = context.details is not None
        facts = (version("lwgraph"), ir.fingerprint(clean), *facts_of(executor), context.seed, told)
        self.models = Models(facts, context.data or [])
        self.trunks, self.context = Trunks(clean, context, shapes, probe, self.models), context
        self.run_ms = run_ms
        self.planner: Planner | None = None

    def plan(self, candidate: Candidate) -> Plan:
        """The plan of a candidate, stated or not."""
        if candidate.plan is not None:
            return candidate.plan
        assert self.planner is not None
        return self.planner.plan(self.planner.chosen(candidate.choice))

    def make(self, candidate: Candidate) -> Made:
        """See `Bench.make`."""
        plan, told = self.plan(candidate), self.context
        kept = self.models.get(said(plan))
        if kept is None:
            warned, skipped = len(told.warnings), set(told.skipped)
            model, details = self._make(candidate, plan)
            refusals = [[s.pass_name, s.place, s.reason] for s in told.skipped if s not in skipped]
            self.models.put(
                said(plan), model, {"details": details, "warnings": told.warnings[warned:], "skipped": refusals}
            )
            if self.models.warning:
                told.warn(self.models.warning)
            return Made(replace(candidate, plan=plan), model, details)
        model, beside = kept
        for words in beside.get("warnings", []):
            told.warn(words)
        for refusal in beside.get("skipped", []):
            told.skip(*refusal)
        return Made(replace(candidate, plan=plan), model, beside.get("details", {}))

    def _make(self, candidate: Candidate, plan: Plan) -> tuple[ir.Model, dict[str, Any]]:
        """The model, and what passes told the report of it."""
        details: dict[str, Any] | None = None if self.context.details is None else {}
        if candidate.stated:
            trunk, samples = self.trunks.of(plan), Samples.in_earnest(self.run_ms)
            rest, context = replace(plan, groups={}, blocks={}), self.context.beside(details=details)
            model = carry_out(trunk.model, rest, context, shapes=trunk.shapes, samples=samples).model
        else:
            assert self.planner is not None
            model, _ = self.planner.apply(self.planner.chosen(candidate.choice), details=details)
        return model, details or {}


def layer_times(model: ir.Model, oracle: Oracle, shapes: Shapes) -> tuple[dict[str, float], float]:
    """Milliseconds of each layer in floats, by its node's name, and what share of all that they take in integers."""
    times: dict[str, float] = {}
    integers = 0.0
    for site in find_sites(model, shapes):
        dense = oracle.prices(site, [None])[0].ms
        times[site.node.name or str(site.output.name)] = dense
        integers += min(dense, oracle.prices(site, [None], INT8)[0].ms)
    return times, integers / max(sum(times.values()), 1e-300)


def choose(structures: Sequence[Structure], drafts: Drafts) -> Structure:
    """The structure that forms and precisions are searched for.

    Where a metric is promised: of those that keep the promise without any forms, among about log2 of them that are
    looked at by bisection, the one that takes least; of several that are not STEP apart, the gentlest, as it leaves
    most to the forms. Otherwise the gentlest that is predicted to keep every limit, the last where none is.

    Args:
        structures: gentlest first.
        drafts: looks at them.
    """
    if drafts.bench.floor is None:
        return next((each for each in [NOTHING, *structures] if drafts.meets(each)), [NOTHING, *structures][-1])
    low, high, good = 0, len(structures), [NOTHING]
    while low < high:
        middle = (low + high) // 2
        if drafts.look(structures[middle]):
            good.append(structures[middle])
            low = middle + 1
        else:
            high = middle
    taken = {each: drafts.taken(each) for each in good}
    least = min(taken.values())
    return max((each for each in good if taken[each] <= STEP * least), key=lambda each: each.share)


def said(plan: Plan) -> str:
    """What a plan says of the model that comes of it: not what was predicted."""
    return json.dumps(
        {
            "blocks": sorted(plan.blocks),
            "groups": {name: width.keep for name, width in plan.groups.items()},
            "sites": {name: choice.form for name, choice in plan.sites.items() if choice.form != KEEP},
            "passes": plan.precision.passes,
            "float": plan.precision.keep_float,
        },
        sort_keys=True,
    )


__all__ = ["Trunk", "Trunks", "Workshop", "choose", "layer_times"]
