"""Which channels and blocks go before forms and precisions are searched: the most that keeps the promise."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lwgraph import ir
from lwgraph.errors import LwgraphError
from lwgraph.executor import Feeds
from lwgraph.optimizer.backoff import STEP
from lwgraph.optimizer.bench import Made
from lwgraph.optimizer.drafts import Drafts
from lwgraph.plan.carry_out import cut
from lwgraph.plan.deliver import deliver
from lwgraph.plan.plan import Plan
from lwgraph.plan.precision import INT8
from lwgraph.plan.price.oracle import Oracle
from lwgraph.plan.search.front import Candidate
from lwgraph.plan.search.kept import facts_of, kept_path
from lwgraph.plan.search.planner import Planner
from lwgraph.plan.search.structure import NOTHING, Structure
from lwgraph.plan.shapes import layer_shapes
from lwgraph.plan.site import find_sites
from lwgraph.rewrite import Context

VERSION = 1  # part of the folder's name: raise it when structures are cut in another way
MOST_BYTES = 1 << 27  # of a trunk that is kept
Shapes = Mapping[str, Sequence[int | None]]


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
    """The trunks of one network; each is made once, and kept in the cache folder: its refits take long.

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
        widths = sorted((name, width.keep) for name, width in plan.groups.items())
        key = f"{widths} {sorted(plan.blocks)}"
        if key not in self._made:
            executor = self.context.executor or self.context.evaluator()
            facts = (ir.fingerprint(self.clean), key, *facts_of(executor), self.context.seed)
            path = kept_path(f"trunks-{VERSION}", facts, self.context.data or []).with_suffix(".onnx")
            model = _read(path) or self._cut(structure, path)
            self._made[key] = Trunk(structure, model, layer_shapes(model, self.probe, executor))
        return self._made[key]

    def _cut(self, structure: Plan, path: Path) -> ir.Model:
        model = ir.clone(self.clean)
        cut(model, structure, self.context, refit=True)
        if ir.size(model) <= MOST_BYTES:
            beside = path.with_suffix(f".{os.getpid()}")
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                beside.write_bytes(ir.to_proto(model).SerializeToString())
                beside.replace(path)
            except OSError as error:
                self.context.warn(f"a structure is not kept: '{path}' cannot be written ({error}); set LWGRAPH_CACHE")
        return model


def _read(path: Path) -> ir.Model | None:
    try:
        return ir.load(path) if path.exists() else None
    except LwgraphError:  # cut off
        return None


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

    def plan(self, candidate: Candidate) -> Plan:
        """The plan of a candidate, stated or not."""
        if candidate.plan is not None:
            return candidate.plan
        assert self.planner is not None
        return self.planner.plan(self.planner.chosen(candidate.choice))

    def make(self, candidate: Candidate) -> Made:
        """See `Bench.make`."""
        plan, stated = self.plan(candidate), candidate.stated
        context = self.context if stated or self.planner is None else self.planner.context
        before, context.details = context.details, None if context.details is None else {}
        try:
            if stated:
                trunk = self.trunks.of(plan)
                rest = replace(plan, groups={}, blocks={})
                model, _ = deliver(trunk.model, rest, context, shapes=trunk.shapes, run_ms=self.run_ms)
            else:
                assert self.planner is not None
                model, _ = self.planner.apply(self.planner.chosen(candidate.choice))
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


__all__ = ["Trunk", "Trunks", "Workshop", "choose", "layer_times"]
