"""Asymmetric refit: layers fitted in order, from their inputs in the rewritten model to their outputs in the original.

Forms are chosen by fits on the original's inputs; in the rewritten model each layer sees the errors of all before it.
Here every layer is fitted once more, in topological order, to what it sees by then (Zhang et al. 2015, arXiv
1505.06798, section 3.3; He et al. 2017, arXiv 1707.06168, section 3.3 for layers before a sum).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Literal

import numpy as np

from lwgraph import ir
from lwgraph.alarm import OutOfTime
from lwgraph.arrays import Array, Floats, Index
from lwgraph.calibrate.gram import CrossAccumulator, CrossMoments, GramAccumulator
from lwgraph.calibrate.patches import Patches, positions
from lwgraph.calibrate.statistics import COPIES, LEAST_ROWS, ROWS_PER_UNKNOWN, rows_for
from lwgraph.errors import DataError, UsageError
from lwgraph.executor import Executor, Feeds, untimed
from lwgraph.failures import say
from lwgraph.layers.apply import tell_shortage
from lwgraph.layers.moments import MOST_UNKNOWNS, Moments, Pooled
from lwgraph.layers.probe import Probe
from lwgraph.layers.site import Site
from lwgraph.layers.weights import has_bias_slot, transform, write
from lwgraph.plan.refit.least_squares import Rows, affine, behind_relu, dense, target_site
from lwgraph.plan.refit.report import LayerRefit, RefitReport
from lwgraph.plan.refit.samples import HELD_OUT_SHARE, Remembering, chosen_feeds, output_error, output_rows, together
from lwgraph.plan.refit.unit_weights import Snapshot, check_unit, has_shift, rewrite
from lwgraph.plan.refit.units import KeptChannels, Unit, find_units
from lwgraph.plan.refit.walk import Walk
from lwgraph.rewrite.base import Context, Gain, Skip

HELD_ROWS, HELD_BYTES = 4096, 64 << 20  # limits for the held-out patches of one layer
LIVE_BYTES = 1 << 30  # memory for what is live in the two models
FIT_BYTES = 256 << 20  # memory for the patches to which a layer before a Relu is fitted
OUTPUT_BYTES = 256 << 20  # memory for the original's outputs that are compared with
EQUAL = 1e-10  # a relative error below it is rounding: nothing to refit
Scope = Literal["replaced", "all"]


def refit(
    original: ir.Model,
    compressed: ir.Model,
    context: Context,
    *,
    scope: Scope = "replaced",
    only: Collection[str] | None = None,
    kept: KeptChannels | None = None,
    statistics: bool = True,
    relu: bool = False,
    samples: int = 256,
    rows_per_unknown: int = ROWS_PER_UNKNOWN,
    least_rows: int = LEAST_ROWS,
    memory_bytes: int | None = None,
    name: str = "refit",
) -> RefitReport:
    """Refit `compressed` to `original` on `context.data`, in place.

    A form is refitted with all its factors, by `Form.fit` on the moments of what it sees now, and by its last factors
    alone; a plain layer by least squares. A layer keeps the best of these by the error of its outputs on held-out
    samples, as the executor computes them, or stays as it was. Where a sum follows, the sum of the original is the
    target. In the end the outputs of the model are compared, held out: all refits stand, or the first half, quarter ...
    of them, whichever gives the least error; the error never rises.

    Both models are walked once, side by side, so that each node runs about three times per sample. Memory:
    `memory_bytes` for what is live in the two models, half each (more goes to temporary files), and per layer the
    moments, 8 D^2 bytes times about four. Time: the runs, and per layer a Gram matrix, three solves of D unknowns and
    one fit of its form.

    Args:
        original: the model that is imitated; it keeps its values' names in `compressed`.
        compressed: rewritten by forms, pruning or anything that keeps names.
        context: `data` and `executor`; refusals, warnings and the gain are recorded in it.
        scope: "replaced": only what forms put there; other layers are scaled and shifted per channel at most
            (`statistics`). "all": plain layers, too; for pruned networks.
        only: names of layers; others stay as they are. None: all of the scope.
        kept: for pruned models, by name of a value, the indices of the channels of the original that are left.
        statistics: with scope "replaced", repair the mean and the variance of the other layers' outputs.
        relu: fit layers whose output only a Relu reads to what it lets through, and judge them by it; slower.
        samples: rows of `context.data` to use at most; a quarter of them is held out.
        rows_per_unknown, least_rows: patches per entry of a patch, and how many at least.
        memory_bytes: see above. None: LIVE_BYTES, of what the context allows a quarter at most.
        name: of the pass, in what is recorded.

    Raises:
        UsageError: there is no data.
    """
    if not context.data:
        raise UsageError(f"pass '{name}' needs calibration samples; give --data")
    executor = untimed(context.executor or context.evaluator())
    feeds, held = chosen_feeds(context.data, compressed, samples, context.seed)
    feeds, held = together(feeds, held, (original, compressed), executor)
    units, refused = find_units(original, compressed, kept)
    for place, reason in refused:
        context.skip(name, place, reason)
    units = [unit for unit in units if only is None or unit.name in only]
    if scope == "replaced" and not statistics:
        units = [unit for unit in units if unit.form is not None]
    report = RefitReport(math.nan, math.nan)
    judged = [feeds[i] for i in sorted(held)]
    judge = Remembering(executor, original, context.bytes_of(OUTPUT_BYTES))
    report.before = report.after = output_error(original, compressed, judged, judge)
    if not units or report.before <= EQUAL:
        return report
    rows = rows_per_unknown, least_rows
    memory_bytes = context.bytes_of(LIVE_BYTES, 0.25) if memory_bytes is None else memory_bytes
    run = _Refit(original, compressed, context, executor, feeds, held, units, rows, memory_bytes, name)
    run.relu = relu
    run.walk(report, scope)
    done = run.done
    if not done:
        return report
    best, standing = report.before, 0
    for count in [len(done) >> shift for shift in range(len(done).bit_length())]:
        _stand(done, count)
        error = output_error(original, compressed, judged, judge)
        if math.isnan(error) or error < best:  # nan: there is nothing to say against the layers' own judgement
            best, standing = error, count
        if standing == len(done):
            break
    _stand(done, standing)
    report.after, report.kept = best, standing
    context.gains.append(Gain(name, "held-out output error", report.before, report.after, standing > 0))
    if standing < len(done):
        context.skip(
            name,
            compressed.graph.name or "model",
            f"{len(done) - standing} of {len(done)} refits were "
            "undone: with them the held-out outputs are farther from the original's",
        )
    return report


def _stand(done: Sequence[tuple[Snapshot, Snapshot]], count: int) -> None:
    """Let the first `count` refits stand, and undo the others."""
    for index, (before, after) in enumerate(done):
        (after if index < count else before).restore()


class _Refit:
    def __init__(
        self,
        original: ir.Model,
        compressed: ir.Model,
        context: Context,
        executor: Executor,
        feeds: Sequence[Feeds],
        held: Collection[int],
        units: Sequence[Unit],
        rows: tuple[int, int],
        memory_bytes: int,
        name: str,
    ) -> None:
        self.context, self.units, self.name, self.seed = context, units, name, context.seed
        self.rows_per_unknown, self.least_rows = rows
        self.student = Walk(compressed, feeds, executor, memory_bytes // 2)
        self.teacher = Walk(original, feeds, executor, memory_bytes // 2, {unit.target for unit in units})
        self.fit, self.held = [i for i in range(len(feeds)) if i not in held], sorted(held)
        if not self.fit:  # a single sample
            self.fit = self.held
        self.relu = False
        self.places: dict[int, Index] = {}
        self.done: list[tuple[Snapshot, Snapshot]] = []
        self.place = {node: index for index, node in enumerate(compressed.graph)}

    def walk(self, report: RefitReport, scope: Scope) -> None:
        for index, unit in enumerate(self.units):
            self.context.progress(self.name, index, len(self.units))
            before = Snapshot(unit.nodes)
            try:
                if not self.context.allow(self.name, unit.name):
                    break
                check_unit(unit)
                record = self._unit(unit, scope)
            except (KeyboardInterrupt, OutOfTime):
                raise
            except BaseException as reason:  # it costs only this layer
                before.restore()
                if not isinstance(reason, (Skip, DataError)):
                    self.context.failures.take(f"{self.name}: layer '{unit.name}'", reason)
                record = LayerRefit(unit.name, "", math.nan, math.nan, say(reason))
            report.layers.append(record)
            if record.how:
                self.done.append((before, Snapshot(unit.nodes)))
            else:
                self.context.skip(self.name, unit.name, record.reason)
            later = {u.target for u in self.units[index + 1 :]}
            self.teacher.release({unit.target} - later)
            self.student.release({unit.input, unit.minus})
        self.context.progress(self.name, len(self.units), len(self.units))

    def _unit(self, unit: Unit, scope: Scope) -> LayerRefit:
        if unit.target not in self.teacher or unit.input not in self.student:
            raise Skip("its input or its target does not depend on the model's inputs")
        self.student.to(self.place[unit.nodes[0]], {unit.input, *([unit.minus] if unit.minus else [])})
        self.teacher.to(self.teacher.index_of(unit.target) + 1, {unit.target})
        affine = unit.form is None and (scope == "replaced" or not self._exact(unit.site))
        now, rows, self.places = self._rows(unit, self.held, HELD_BYTES, not affine)
        power = max(rows.power, 1e-30)
        plain = rows.distance(now)
        if plain <= EQUAL * power:
            raise Skip("its outputs are those of the original")
        before, errors = Snapshot(unit.nodes), {}
        results: dict[str, Snapshot] = {}
        for how, error in self._affine(unit, rows, plain) if affine else self._ways(unit, rows, plain):
            errors[how] = error
            results[how] = Snapshot(unit.nodes)
            before.restore()
        best = min(errors, key=lambda how: errors[how] if math.isfinite(errors[how]) else math.inf, default="")
        if not best or not errors[best] < plain:
            return LayerRefit(
                unit.name,
                "",
                plain / power,
                plain / power,
                "no refit brings its held-out outputs nearer to the original's",
            )
        results[best].restore()
        return LayerRefit(unit.name, best, plain / power, errors[best] / power)

    def _ways(self, unit: Unit, rows: Rows, plain: float) -> Iterator[tuple[str, float]]:
        """Writes one refit after another into the unit, and says which it is and how far its held-out outputs are from
        the original's; the caller undoes it. `plain`: how far they are without any."""
        if unit.form is None:
            site = unit.site
            moments = self._moments(unit, site, unit.input, [])
            tell_shortage(self.context, site, moments.gram.count)
            shifts = has_bias_slot(site)
            weight, bias = self._dense(unit, moments, rows, shifts)
            write(site, weight, bias if shifts else None)
            yield "weight", rows.distance(self._now(unit))
            return
        if self._exact(unit.site) and unit.site.outputs == rows.y.shape[1]:
            site, moments = unit.site, self._moments(unit, unit.site, unit.input, [])
            tell_shortage(self.context, site, moments.gram.count)
            shifts = has_shift(unit)
            weight, bias = self._dense(unit, moments, rows, shifts)
            aim, pooled = target_site(site, moments, weight, bias, shifts)
            fitted = unit.form.fit(aim, Moments(aim, pooled, lambda look: self._seen(unit, look(aim), shifts)))
            if rewrite(unit, fitted):
                yield "form", rows.distance(self._now(unit))
        if unit.ends:
            error = plain
            for site in filter(self._exact, unit.ends):
                other = [name for name in (unit.output, site.output.name or "") if unit.output != site.output.name]
                moments = self._moments(unit, site, site.input.name or "", other)
                shifts = has_bias_slot(site) and site is unit.ends[-1]
                bias = np.zeros(site.outputs) if site.bias is None else site.bias
                fits = [(w, b if shifts else None) for w, b, _ in dense(moments, site.weight, bias, shifts)]
                error = self._keep_best(unit, site, rows, fits, error)
            yield "last", error

    def _exact(self, site: Site) -> bool:
        """Whether a layer's moments can be formed, and solved with, in the memory that there is."""
        taken = COPIES * 8 * site.group * site.fan_in**2
        return site.fan_in <= MOST_UNKNOWNS and taken <= self.context.bytes_of(taken, 0.5)

    def _keep_best(
        self, unit: Unit, site: Site, rows: Rows, fits: Iterable[tuple[Array, Array | None]], least: float
    ) -> float:
        """Write the weight and bias with which the unit's held-out outputs are best; none when none is better than
        `least`, which they are now. Their distance then."""
        start = best = Snapshot(site.nodes)
        for weight, bias in fits:
            write(site, weight, bias)
            error = rows.distance(self._now(unit))
            if error < least:
                least, best = error, Snapshot(site.nodes)
            start.restore()
        best.restore()
        return least

    def _dense(self, unit: Unit, moments: CrossMoments, rows: Rows, shifts: bool) -> tuple[Floats, Floats]:
        """The least-squares weight with the ridge that is best on held-out rows; or what `behind_relu` makes of it."""
        site = unit.site
        bias = np.zeros(site.outputs) if site.bias is None else site.bias
        found = [(rows.error(w, b), w, b, ridge) for w, b, ridge in dense(moments, site.weight, bias, shifts)]
        error, weight, bias, ridge = min(found, key=lambda each: each[0])
        if rows.rectified and shifts:
            fitted = self._targets(unit, self.fit, self.context.bytes_of(FIT_BYTES))[0]
            better = behind_relu(fitted, moments.gram, weight, bias, ridge)
            if rows.error(*better) < error:
                weight, bias = better
        return weight, bias

    def _affine(self, unit: Unit, rows: Rows, plain: float) -> Iterator[tuple[str, float]]:
        if not has_bias_slot(unit.site):
            raise Skip("it is a MatMul without a bias")
        x, y = self._outputs(unit, self.fit)
        fits = (transform(unit.site, *pair) for pair in affine(x, y))  # weights, of which one is there at a time
        yield "affine", self._keep_best(unit, unit.site, rows, fits, plain)

    # ------------------------------------------------------------ values

    def _target(self, unit: Unit, feed: int) -> Array:
        """(N, o) what the unit should give at every position."""
        y = output_rows(self.teacher.get(unit.target, feed), unit.site)
        if unit.channels is not None:
            y = y[:, unit.channels]
        if unit.minus:
            other = output_rows(self.student.get(unit.minus, feed), unit.site)
            if other.shape != y.shape:
                raise Skip("the sum after it repeats one of its terms")
            y = y - other
        return y

    def _at(self, total: int, wanted: int, feed: int, apart: bool) -> Index:
        """Positions of one feed; of a single sample one part fits and another judges."""
        rng = np.random.default_rng((self.seed, feed))
        if self.fit != self.held:
            return positions(total, wanted, rng)
        order = rng.permutation(total)
        cut = max(1, round(HELD_OUT_SHARE * total))
        mine = np.sort(order[:cut] if apart else order[cut:])
        if not len(mine):
            raise Skip("it has a single position, which cannot both fit and judge")
        return mine[positions(len(mine), wanted, rng)]

    def _now(self, unit: Unit) -> Floats:
        """(r, o) what the unit gives now, on the held-out samples, at the places that were looked at first."""
        found = self.student.look([unit.output], self.held)
        return np.concatenate(
            [
                output_rows(values[unit.output], unit.site)[self.places[feed]].astype(np.float64)
                for feed, values in found
            ]
        )

    def _rows(
        self, unit: Unit, feeds: Sequence[int], size: int, wanted: bool = True
    ) -> tuple[Floats, Rows, dict[int, Index]]:
        """(r, o) what the unit gives now on some samples, and `_targets` there."""
        rows, places = self._targets(unit, feeds, size, wanted)
        now, patches = [], Patches.of(unit.site)
        for feed, found in self.student.look([unit.output], feeds):
            out = output_rows(found[unit.output], unit.site)
            shape = patches.count(self.student.get(unit.input, feed).shape), rows.y.shape[1]
            if out.shape != shape:
                raise Skip(f"it has {len(out)} positions of {out.shape[1]} outputs, the original {list(shape)}")
            now.append(out[places[feed]].astype(np.float64))
        return np.concatenate(now), rows, places

    def _targets(
        self, unit: Unit, feeds: Sequence[int], size: int, wanted: bool = True
    ) -> tuple[Rows, dict[int, Index]]:
        """The patches that the unit sees on some samples (unless they are not wanted) and what it should give there,
        and at which places of each; nothing is run for it."""
        site, patches = unit.site, Patches.of(unit.site)
        fit = max(HELD_ROWS + self.rows_per_unknown * site.fan_in, self.least_rows)
        enough = HELD_ROWS if feeds is self.held else fit
        most = min(enough, max(1, size // (4 * site.fan_in * site.group)))
        xs, ys = [np.zeros((0, site.group, site.fan_in), np.float32)], []
        places: dict[int, Index] = {}
        for feed in feeds:
            x, y = self.student.get(unit.input, feed), self._target(unit, feed)
            if patches.count(x.shape) != len(y):
                raise Skip(f"it has {patches.count(x.shape)} positions, the original {len(y)}")
            places[feed] = at = self._at(len(y), math.ceil(most / len(feeds)), feed, feeds is self.held)
            if wanted:
                xs.append(patches.rows(x, at))
            ys.append(y[at].astype(np.float64))
        rectified = self.relu and unit.rectified
        return Rows(np.concatenate(xs), np.concatenate(ys), rectified), places

    def _rows_of_a_feed(self, fan_in: int) -> int:
        return math.ceil(rows_for(fan_in, self.rows_per_unknown, self.least_rows) / len(self.fit))

    def _moments(self, unit: Unit, site: Site, source: str, others: Sequence[str]) -> CrossMoments:
        """Moments of a layer's patches and of its target: that of the unit, less what other layers add to its output.

        `others`: the names of the unit's output and the layer's own, where these differ.
        """
        patches, found = Patches.of(site), None
        wanted = self._rows_of_a_feed(site.fan_in)
        for feed, values in self.student.look([source, *others], self.fit):
            y = self._target(unit, feed)
            if others:
                y = y - (output_rows(values[others[0]], unit.site) - output_rows(values[others[1]], unit.site))
            at = self._at(len(y), wanted, feed, False)
            rows = patches.rows(values[source], at)
            if found is None:
                found = CrossAccumulator(site.group, y.shape[1] // site.group, site.fan_in, rows.dtype, site.name)
            found.add(rows, y[at].reshape(len(at), site.group, -1).astype(rows.dtype))
        assert found is not None
        return found.result()

    def _seen(self, unit: Unit, probe: Site | Probe, shifts: bool) -> Pooled:
        """Moments of what a form looks at, where that is more than the patches of its layer."""
        patches, found = probe.patches if isinstance(probe, Probe) else Patches.of(probe), None
        wanted = self._rows_of_a_feed(probe.fan_in)
        for feed in self.fit:
            x = self.student.get(unit.input, feed)
            x = probe.values(x) if isinstance(probe, Probe) else x
            rows = patches.rows(x, self._at(patches.count(x.shape), wanted, feed, False))
            found = found or GramAccumulator(rows.shape[1], rows.shape[2], rows.dtype, unit.name)
            found.add(rows)
        assert found is not None
        gram = found.result()
        return Pooled(gram.matrix, gram.mean if shifts else np.zeros_like(gram.mean), gram.count)

    def _outputs(self, unit: Unit, feeds: Sequence[int]) -> tuple[Floats, Floats]:
        """(r, o) what the unit gives now, and what it should."""
        ours, theirs = [], []
        for feed, found in self.student.look([unit.output], feeds):
            x, y = output_rows(found[unit.output], unit.site), self._target(unit, feed)
            at = self._at(len(y), math.ceil(2 * HELD_ROWS / len(feeds)), feed, False)
            ours.append(x[at].astype(np.float64))
            theirs.append(y[at].astype(np.float64))
        return np.concatenate(ours), np.concatenate(theirs)


__all__ = ["LayerRefit", "RefitReport", "Scope", "output_error", "refit"]
