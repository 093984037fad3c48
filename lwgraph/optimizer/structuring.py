"""Which channels and blocks go before forms and precisions are searched: the most that keeps the promise."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from lwgraph import ir
from lwgraph.executor import Feeds
from lwgraph.optimizer.backoff import STEP
from lwgraph.optimizer.bench import Bench, Made
from lwgraph.plan.apply import Record
from lwgraph.plan.carry_out import cut
from lwgraph.plan.deliver import deliver
from lwgraph.plan.plan import Plan
from lwgraph.plan.precision import INT8
from lwgraph.plan.price.oracle import Oracle
from lwgraph.plan.search.front import Candidate
from lwgraph.plan.search.planner import Planner
from lwgraph.plan.search.structure import NOTHING, Structure, widest
from lwgraph.plan.shapes import layer_shapes
from lwgraph.plan.site import find_sites
from lwgraph.rewrite import Context

ORIGIN = "structure"
Shapes = Mapping[str, Sequence[int | None]]


@dataclass(frozen=True, eq=False)
class Trunk:
    """What a structure leaves of a network, the layers refitted; forms and precisions come on top.

    Attributes:
        plan: its groups and blocks.
        shapes: measured sizes by value name.
        records: what became of each group and block.
    """

    plan: Plan
    model: ir.Model
    shapes: Shapes
    records: tuple[Record, ...] = ()


class Trunks:
    """The trunks of one network; each is made once.

    Args:
        clean: the network.
        context: with its statistics, and data to refit with.
        shapes: of the network.
        probe: a sample to measure sizes on.
    """

    def __init__(self, clean: ir.Model, context: Context, shapes: Shapes, probe: Feeds) -> None:
        self.clean, self.context, self.shapes, self.probe = clean, context, shapes, probe
        self._made: dict[str, Trunk] = {}

    def of(self, plan: Plan) -> Trunk:
        """What the groups and blocks of a plan leave.

        Raises:
            UsageError: the plan names what the network does not have.
        """
        structure = Plan(groups=plan.groups, blocks=plan.blocks)
        if structure.empty:
            return Trunk(structure, self.clean, self.shapes)
        key = structure.to_json()
        if key not in self._made:
            model = ir.clone(self.clean)
            records = cut(model, structure, self.context, refit=True)
            executor = self.context.executor or self.context.evaluator()
            shapes = layer_shapes(model, self.probe, executor)
            self._made[key] = Trunk(structure, model, shapes, tuple(records))
        return self._made[key]


class Workshop:
    """Makes the models of candidates, as they would be delivered.

    Args:
        clean, context, shapes, probe: see `Trunks`.
        run_ms: of one run of the network, about; see `deliver`.

    Attributes:
        planner: of the candidates that are not stated; to be set before one of these is made.
    """

    def __init__(self, clean: ir.Model, context: Context, shapes: Shapes, probe: Feeds, run_ms: float) -> None:
        self.trunks, self.context, self.run_ms = Trunks(clean, context, shapes, probe), context, run_ms
        self.planner: Planner | None = None

    def make(self, candidate: Candidate) -> Made:
        """See `Bench.make`."""
        plan = candidate.plan if candidate.stated else None
        context = self.context if plan is not None or self.planner is None else self.planner.context
        before, context.details = context.details, None if context.details is None else {}
        try:
            if plan is not None:
                trunk = self.trunks.of(plan)
                rest = replace(plan, groups={}, blocks={})
                model, _ = deliver(trunk.model, rest, context, shapes=trunk.shapes, run_ms=self.run_ms)
            else:
                assert self.planner is not None
                chosen = self.planner.chosen(candidate.choice)
                model, _ = self.planner.apply(chosen)
                plan = self.planner.plan(chosen)
            return Made(replace(candidate, plan=plan), model, context.details or {})
        finally:
            context.details = before


def layer_times(model: ir.Model, oracle: Oracle, shapes: Shapes) -> tuple[dict[str, float], float]:
    """Milliseconds of each layer in floats, by its node's name, and what share of all that they take in integers."""
    times: dict[str, float] = {}
    integers = 0.0
    for site in find_sites(model, shapes):
        dense = oracle.prices(site, [None])[0].ms
        times[site.node.name or str(site.output.name)] = dense
        integers += min(dense, oracle.prices(site, [None], INT8)[0].ms)
    return times, integers / max(sum(times.values()), 1e-300)


def choose(
    structures: Sequence[Structure], bench: Bench, candidate: Callable[[Structure], Candidate],
    limits: Mapping[str, float], amounts: Mapping[str, float],
) -> Structure:  # fmt: skip
    """The structure that forms and precisions are searched for.

    Where a metric is promised: of those that keep the promise without any forms, among about log2 of them that are
    looked at by bisection, the one that takes least; of several that are not STEP apart, the gentlest, as it leaves
    most to the forms. Otherwise the gentlest within the limits, by its share of the work.

    Args:
        structures: gentlest first.
        bench: looks at them.
        candidate: a structure as it would be delivered without forms.
        limits, amounts: by resource; see `widest`.
    """
    if bench.floor is None:
        return widest(limits, amounts, [NOTHING, *structures])
    low, high, good = 0, len(structures), [NOTHING]
    while low < high:
        middle = (low + high) // 2
        if bench.look(candidate(structures[middle])):
            good.append(structures[middle])
            low = middle + 1
        else:
            high = middle
    taken = {each: bench.amount(bench.known(candidate(each))) for each in good}
    least = min(taken.values())
    return max((each for each in good if taken[each] <= STEP * least), key=lambda each: each.share)


__all__ = ["ORIGIN", "Trunk", "Trunks", "Workshop", "choose", "layer_times"]
