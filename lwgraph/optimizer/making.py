"""Carries candidates out as they would be delivered; what was made once is kept in the cache."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import Any

from lwgraph import ir
from lwgraph.cache import Models, facts_of
from lwgraph.calibrate.layer_shapes import layer_shapes
from lwgraph.executor import Feeds
from lwgraph.optimizer.candidates import Made
from lwgraph.optimizer.memory import keep_on_disk
from lwgraph.plan.carry_out import Samples, carry_out, observing
from lwgraph.plan.plan import Plan
from lwgraph.plan.search.front import Candidate
from lwgraph.plan.search.plan_search import Search
from lwgraph.rewrite import Context

Shapes = Mapping[str, Sequence[int | None]]


@dataclass(frozen=True, eq=False)
class Trunk:
    """What a structure leaves of a network, its layers refitted; forms and precisions come on top.

    Attributes:
        plan: the groups and blocks that went.
        shapes: measured sizes by value name.
    """

    plan: Plan
    model: ir.Model
    shapes: Shapes


class Making:
    """Makes the models of the candidates of one network.

    Args:
        clean: the network.
        context: with its statistics, and data to fit with.
        shapes: of the network.
        probe: a sample to measure sizes on.
        samples: that plans are carried out with.
    """

    def __init__(
        self,
        clean: ir.Model,
        context: Context,
        shapes: Shapes,
        probe: Feeds,
        samples: Samples,
    ) -> None:
        executor = context.executor or context.evaluator()
        told = context.details is not None
        facts = (version("lwgraph"), ir.fingerprint(clean), *facts_of(executor), context.seed, told, samples.hasty)
        self.models = Models(facts, context.data or [])
        self.clean, self.context, self.shapes, self.probe, self.samples = clean, context, shapes, probe, samples
        self._trunks: dict[str, Trunk] = {}

    def trunk(self, plan: Plan) -> Trunk:
        """What the groups and blocks of a plan leave; each is made once, since its refits take long.

        Raises:
            UsageError: the plan names what the network does not have.
        """
        structure = Plan(groups=plan.groups, blocks=plan.blocks)
        if structure.empty:
            return Trunk(structure, self.clean, self.shapes)
        key = structure.says()
        if key not in self._trunks:
            kept = self.models.get(key)
            model = kept[0] if kept is not None else self._cut(structure)
            executor = self.context.executor or self.context.evaluator()
            self._trunks[key] = Trunk(structure, model, layer_shapes(model, self.probe, executor))
        self._trunks[key] = self._trunks.pop(key)  # the last that was asked for
        self._let_go()
        return self._trunks[key]

    def _let_go(self) -> None:
        """Trunks take an eighth of the allowance together, or are one; others are read from the cache again."""
        most = self.context.bytes_of(sys.maxsize)
        while len(self._trunks) > 1 and not self.models.warning:
            if sum(ir.size(trunk.model) for trunk in self._trunks.values()) <= most:
                return
            del self._trunks[next(iter(self._trunks))]

    def _cut(self, structure: Plan) -> ir.Model:
        model = carry_out(self.clean, structure, self.context, shapes=self.shapes, samples=self.samples).model
        self.models.put(structure.says(), model, {})
        return keep_on_disk(model, self.context.memory_bytes)

    def stated(self, candidate: Candidate, ranged: int | None = None) -> Made:
        """A candidate whose plan says what is done, on the trunk that its groups and blocks leave.

        Args:
            candidate: with its plan.
            ranged: samples that ranges are taken from, at most; None: as many as in earnest.
        """
        plan = candidate.plan
        assert plan is not None
        trunk = self.trunk(plan)
        rest = replace(plan, groups={}, blocks={})
        samples = self.samples
        if ranged is not None and samples.ranges is not None:
            samples = replace(samples, ranges=min(ranged, samples.ranges))

        def make(context: Context) -> ir.Model:
            if not trunk.plan.empty:  # the statistics are of the whole network
                context = observing(trunk.model, context)
            return carry_out(trunk.model, rest, context, shapes=trunk.shapes, samples=samples).model

        return self._made(candidate, plan, self.context, make)

    def searched(self, search: Search, candidate: Candidate) -> Made:
        """A candidate of a search."""
        planner = search.planner
        chosen = planner.chosen(candidate.choice)
        return self._made(
            candidate,
            planner.plan(chosen),
            planner.context,
            lambda context: planner.within(context).apply(chosen).model,
        )

    def kept(self, candidate: Candidate) -> Made | None:
        """A candidate that was carried out before, from the cache; None where it is not there."""
        plan, told = candidate.plan, self.context
        assert plan is not None
        found = self.models.get(plan.says())
        if found is None:
            return None
        model, beside = found
        for words in beside.get("warnings", []):
            told.warn(words)
        for refusal in beside.get("skipped", []):
            told.skip(*refusal)
        return Made(replace(candidate, bytes=ir.size(model)), model, beside.get("details", {}))

    def _made(self, candidate: Candidate, plan: Plan, context: Context, make: Callable[[Context], ir.Model]) -> Made:
        told, candidate = self.context, replace(candidate, plan=plan)
        if (known := self.kept(candidate)) is not None:
            return known
        warned, skipped = len(told.warnings), set(told.skipped)
        details: dict[str, Any] = {}
        model = make(context.beside(details=None if context.details is None else details))
        keep_on_disk(model, context.memory_bytes)
        refusals = [[s.pass_name, s.place, s.reason] for s in told.skipped if s not in skipped]
        self.models.put(
            plan.says(), model, {"details": details, "warnings": told.warnings[warned:], "skipped": refusals}
        )
        if self.models.warning:
            told.warn(self.models.warning)
        return Made(replace(candidate, bytes=ir.size(model)), model, details)


__all__ = ["Making", "Trunk"]
