"""Shared by the closed-form passes: layers in order, paired values of student and teacher, judging, undoing."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import numpy as np

from lwgraph import ir
from lwgraph.arrays import Array
from lwgraph.calibrate.patches import positions
from lwgraph.calibrate.signature import signature
from lwgraph.errors import DataError, UsageError
from lwgraph.executor import Executor, Feeds
from lwgraph.layers.site import Site, find_sites
from lwgraph.layers.weights import check_writable
from lwgraph.passes.recover.matching import matched
from lwgraph.passes.recover.sample_pool import SamplePool
from lwgraph.plan.refit.samples import chosen_feeds
from lwgraph.plan.refit.walk import Walk
from lwgraph.rewrite.base import Context, Gain, Pass, Skip

HELD_OUT_SHARE = 0.25
BATCH = 16
ROW_BYTES = 1 << 27  # memory for one layer's sampled outputs: a text reader's head has 20,000 at every position
MEMORY = 1 << 29  # bytes for the live values of both models; what is beyond goes to temporary files
EQUAL = 1e-10  # a relative error below it is rounding: nothing to repair


@dataclass(frozen=True)
class FitTarget:
    """The target of a layer's output: the teacher's value `name`, less the student's value `minus` if there is one.

    With a residual sum after the layer, aiming at the teacher's sum corrects the error of the other branch, too.
    """

    name: str
    minus: str | None = None


@dataclass
class Job:
    """One run of a closed-form pass: both models, and the numbers of the feeds to fit to and of those to judge by.

    Both models are walked side by side: each node runs about three times per feed, however many layers there are.
    """

    model: ir.Model
    teacher: ir.Model
    executor: Executor
    feeds: list[Feeds]
    fit: Sequence[int]
    held: Sequence[int]
    seed: int
    student: Walk = field(init=False)
    original: Walk = field(init=False)

    def start(self, targets: Collection[str]) -> None:
        """Stand before the first node of both models; `targets` are the teacher's values that will be looked at."""
        self.student = Walk(self.model, self.feeds, self.executor, MEMORY // 2)
        self.original = Walk(self.teacher, self.feeds, self.executor, MEMORY // 2, targets)

    def go_to(self, site: Site, target: FitTarget) -> None:
        """Stand before the layer, with its target at hand. Layers are visited in the order of their first nodes."""
        if target.name not in self.original:
            raise Skip(f"'{target.name}' does not depend on the original's inputs")
        self.student.to(first_node(self.model, site))
        self.original.to(self.original.index_of(target.name) + 1)

    def leave(self, target: FitTarget) -> None:
        """The target is no longer looked at."""
        self.original.release([target.name])

    def outputs_error(self) -> float:
        """The squared error on the held-out feeds over the teacher's variance, the mean over the outputs."""
        names = [v.name or "" for v in self.model.graph.outputs]
        ours, theirs = (self.executor.prepare(m, names) for m in (self.model, self.teacher))
        error: dict[str, float] = {}
        moments: dict[str, list[float]] = {}
        for index in self.held:
            a, b = ours(self.feeds[index]), theirs(self.feeds[index])
            for name in names:
                if b[name].dtype.kind != "f" or a[name].shape != b[name].shape or not b[name].size:
                    continue  # also one that holds what was found, where nothing was
                t = b[name].astype(np.float64)
                error[name] = error.get(name, 0.0) + float(((a[name] - t) ** 2).sum())
                m = moments.setdefault(name, [0.0, 0.0, 0.0])
                m[0], m[1], m[2] = m[0] + t.size, m[1] + float(t.sum()), m[2] + float((t * t).sum())
        parts = [e / max(moments[n][2] - moments[n][1] ** 2 / moments[n][0], 1e-30) for n, e in error.items()]
        return float(np.mean(parts)) if parts else math.nan

    def rows(self, site: Site, target: FitTarget, feeds: Sequence[int], most: int) -> tuple[Array, Array]:
        """(N, o) outputs of the layer and what they should be, at the same sampled positions; float64.

        N is about `most`, fewer where they would take more than ROW_BYTES.
        """
        output = site.output.name or ""
        ours, theirs = [], []
        each = math.ceil(min(most, max(1, ROW_BYTES // (8 * site.outputs))) / len(feeds))
        looked = self.student.look([output, *([target.minus] if target.minus else [])], feeds)
        for number, (index, a) in enumerate(looked):
            b = self.original.get(target.name, index)
            if target.minus:
                b = b - a[target.minus]
            if a[output].shape != b.shape:
                raise Skip(f"its output has shape {list(a[output].shape)}, the original's {list(b.shape)}")
            x, y = (_rows(v, channels_last=not site.kernel) for v in (a[output], b))
            at = positions(len(x), each, np.random.default_rng((self.seed, number)))
            ours.append(x[at].astype(np.float64))
            theirs.append(y[at].astype(np.float64))
        return np.concatenate(ours), np.concatenate(theirs)


def first_node(model: ir.Model, site: Site) -> int:
    """The number of the layer's first node in the main graph; Skip for a layer elsewhere."""
    own = set(site.nodes)
    for index, node in enumerate(model.graph):
        if node in own:
            return index
    raise Skip("it is inside control flow")


def _rows(value: Array, channels_last: bool) -> Array:
    return (value if channels_last else np.moveaxis(value, 1, -1)).reshape(-1, value.shape[-1 if channels_last else 1])


def target_of(site: Site, common: frozenset[str], teacher_kinds: Mapping[str, str]) -> FitTarget | None:
    """The target that the layer's output is compared with; None if the original has none."""
    output = site.output
    uses = list(output.uses())
    if len(uses) == 1 and ir.operator(uses[0][0]) == "Add" and not output.is_graph_output():
        add, slot = uses[0]
        other = add.inputs[1 - slot]
        total = add.outputs[0].name or ""
        known = other is not None and other.name and ir.constant_tensor(other) is None and other.producer() is not None
        if known and total in common and teacher_kinds.get(total) == "Add":
            assert other is not None
            return FitTarget(total, other.name)
    return FitTarget(output.name) if output.name and output.name in common else None


class ClosedForm(Pass):
    """A pass that corrects layers one after another, each given all that were corrected before it."""

    @property
    @abstractmethod
    def limit(self) -> int:
        """The most samples to use."""

    @abstractmethod
    def correct(self, job: Job, site: Site, target: FitTarget) -> bool:
        """Correct one layer; False when that does not help on the held-out feeds. Skip when it cannot be done."""

    def run(self, model: ir.Model, context: Context) -> int:
        """Correct in place; how many layers were. Undone as a whole if the held-out outputs come no nearer."""
        teacher = context.teacher
        if teacher is None:
            raise UsageError(
                f"pass '{self.name}' needs the original model to compare with; run it from optimize, or "
                "set the teacher of the context"
            )
        if not context.data:
            raise UsageError(f"pass '{self.name}' needs calibration samples; give --data")
        executor = context.executor or context.evaluator()
        fit, held = _feeds(context, model, executor, self.limit)
        numbers = range(len(fit) + len(held))
        job = Job(model, teacher, executor, [*fit, *held], numbers[: len(fit)], numbers[len(fit) :], context.seed)
        before, saved = job.outputs_error(), ir.clone(model)
        done = self._correct_all(job, context) if before > EQUAL else 0
        if not done:
            return 0
        after = job.outputs_error()
        better = after < before
        context.gains.append(Gain(self.name, "held-out output error", before, after, better))
        if better:
            return done
        ir.replace_contents(model, saved)
        context.skip(
            self.name,
            model.graph.name or "model",
            f"the error of the held-out outputs did not fall ({before:.4g} -> {after:.4g}); undone",
        )
        return 0

    def _correct_all(self, job: Job, context: Context) -> int:
        common = frozenset(matched(job.teacher, job.model))
        kinds = {v.name: n.op_type for n in job.teacher.graph for v in n.outputs if v.name}
        order = {node: index for index, node in enumerate(job.model.graph)}
        sites = sorted(find_sites(job.model), key=lambda site: min(order.get(node, len(order)) for node in site.nodes))
        targets = {site.name: target_of(site, common, kinds) for site in sites}
        names = [site.name for site in sites]
        last = {target.name: name for name in names if (target := targets[name]) is not None}  # two may share a sum
        job.start(last)
        done = 0
        for index, name in enumerate(names):
            context.progress(self.name, index, len(names))
            site = next(s for s in find_sites(job.model) if s.name == name)  # anew: its weight may have changed
            target = targets[name]
            try:
                check_writable(site)
                if target is None:
                    raise Skip("the original has no value of its name")
                job.go_to(site, target)
                if not self._allowed(context, name):
                    break
                if self.correct(job, site, target):
                    done += 1
                else:
                    raise Skip("a correction does not bring its outputs on held-out samples nearer to the original's")
            except Skip as reason:
                context.skip(self.name, name, str(reason))
            if target is not None and last[target.name] == name:
                job.leave(target)
        context.progress(self.name, len(names), len(names))
        return done

    def _allowed(self, context: Context, place: str) -> bool:
        return context.allow(self.name, place)


def _feeds(context: Context, model: ir.Model, executor: Executor, limit: int) -> tuple[list[Feeds], list[Feeds]]:
    """Feeds to fit to and to judge by: in batches, of one sample each, or as they were given, whichever is the first
    that the graph takes, whatever its inputs say."""
    assert context.data is not None
    pool = SamplePool(context.data, signature(model))
    if len(pool) > limit:
        _, pool = pool.split(limit / len(pool), limit, context.seed)
    parts, run = pool.split(HELD_OUT_SHARE, max(1, limit), context.seed), executor.prepare(model)
    for size in (BATCH, 1):
        fit, apart = (list[Feeds](batch.feeds for batch in part.batches(size)) for part in parts)
        with suppress(DataError):
            for feed in {tuple(a.shape for a in feed.values()): feed for feed in [*fit, *apart]}.values():
                run(feed)  # one of each size: the last batch is what is left
            return fit, apart
    feeds, chosen = chosen_feeds(context.data, model, limit, context.seed)
    held = [feed for index, feed in enumerate(feeds) if index in chosen]
    return [feed for index, feed in enumerate(feeds) if index not in chosen] or held, held


def better_of(held: tuple[Array, Array], candidates: Sequence[Callable[[Array], Array]]) -> tuple[int, float, float]:
    """The map of the layer's outputs with the least squared error on held-out rows; that error, and that of none."""
    x, y = held
    plain = float(((x - y) ** 2).mean())
    errors = [float(((f(x) - y) ** 2).mean()) for f in candidates]
    best = int(np.argmin(errors))
    return best, errors[best], plain


__all__ = ["BATCH", "EQUAL", "ClosedForm", "FitTarget", "Job", "better_of", "target_of"]
