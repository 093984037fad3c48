"""Which inputs are fitted on, which plans are compared on, which are judged on; judged ones are never used before."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from lwgraph import ir
from lwgraph.calibrate import Reader, generate, open_data, split
from lwgraph.calibrate.layer_shapes import layer_shapes
from lwgraph.executor import Executor, Feeds
from lwgraph.measure.work import count
from lwgraph.optimizer.last_look import LEAST_SAMPLES
from lwgraph.optimizer.request import Request

FIT_SAMPLES = 1024  # a Gram matrix gains nothing from more
# Where the data must judge, too: fits and searches take three quarters of few samples, less where these would not
# suffice to judge, then half, then no more than the benchmarks fit to; all others judge, which needs hundreds to tell
# anything of one point.
FITTED_FEW, FITTED_MOST = 48, 320
JUDGED_MOST = 4096  # of one data set
JUDGED_SHARE = 0.25  # of it that judges in any case
JUDGED_MACS = 1e12  # multiply-accumulates that one pass over the samples for judging may take beyond that
SEARCHED_SHARE = 0.2  # of what fits and searches take, on which plans are compared
LEAST_SEARCHED = 5  # items from which on some are kept for comparing plans
GENERATED = 8  # to verify on
GENERATED_PARTS = (64, 16, 32)  # where they stand for data: to fit, to compare plans, to judge


@dataclass
class Inputs:
    """The inputs of one run.

    Attributes:
        fit: for statistics; empty where nothing is fitted.
        search: on which plans are compared; disjoint from `fit`, unless there are fewer than LEAST_SEARCHED items.
        training: what `fit` is a part of; None when nothing is to be trained.
        judge: for the metric; None where there is nothing to judge on, or the metric brings its own data.
        probe: a few feeds for verification and timing, real when there are any.
        unproven: whether the inputs for judging, too, are generated.
        notes: what the user should know about them.
        holes: whether outputs of the original hold NaN on the probe: metrics of ours cannot judge them.
    """

    fit: list[Feeds]
    judge: Reader | None
    probe: list[Feeds]
    notes: list[str] = field(default_factory=list)
    search: list[Feeds] = field(default_factory=list)
    training: Reader | None = None
    unproven: bool = False
    holes: bool = False


def gather(model: ir.Model, request: Request, executor: Executor) -> Inputs:
    """Open what the user gave; generate inputs when that is nothing.

    Args:
        model: the model that will be fed.
        request: without `data`, inputs to fit to are generated where a search was left something to judge by
            (`eval_data`, a metric that brings its own data) or may go without (`unproven`); else nothing is fitted.
            Without `eval_data` what fits do not need of `data` is kept apart for judging, unless the metric brings its
            own data.
        executor: tries generated inputs.
    """
    data, eval_data, preprocess, seed = request.data, request.eval_data, request.preprocess, request.seed
    train, augment, own_metric = request.training > 0, request.augment, request.own_metric
    if data is None:
        return _without_data(model, request, executor)
    notes: list[str] = []
    judge = None
    limit = FIT_SAMPLES if eval_data is not None or own_metric else FITTED_MOST + JUDGED_MOST
    fit = open_data(data, model, preprocess=preprocess, limit=None if train else limit, augment=augment)
    _tell(notes, fit)
    if eval_data is not None:
        judge = _evaluation(model, request, notes)
    elif not own_metric:
        share = JUDGED_SHARE if train else judged_share(fit, model, executor)
        fit, judge = split(fit, (1 - share, share), seed)
        notes.append(f"{judge.count} of {fit.count + judge.count} samples were set aside for judging")
    search = fit
    if fit.items >= LEAST_SEARCHED:
        fit, search = split(fit, (1 - SEARCHED_SHARE, SEARCHED_SHARE), seed)
    training = fit if train else None
    feeds: list[Feeds] = list(_at_most(fit, FIT_SAMPLES))
    compared: list[Feeds] = list(_at_most(search, FIT_SAMPLES))
    return Inputs(feeds, judge, feeds[:2], notes, compared, training)


def judged_share(reader: Reader, model: ir.Model, executor: Executor) -> float:
    """The share of the samples that judge: what fits and searches do not need, as far as a pass over it is cheap."""
    few = min((1 - JUDGED_SHARE) * reader.count, FITTED_FEW, reader.count - LEAST_SAMPLES)
    fitted = min(max(0.5 * reader.count, few), FITTED_MOST)
    first = next(reader.batches())
    macs = count(model, layer_shapes(model, first.feeds, executor)).macs
    one = (macs or math.inf) / first.count
    rest = min(reader.count - fitted, JUDGED_MOST, JUDGED_MACS / one)
    return max(JUDGED_SHARE, rest / reader.count)


def _without_data(model: ir.Model, request: Request, executor: Executor) -> Inputs:
    notes: list[str] = []
    judge = None if request.eval_data is None else _evaluation(model, request, notes)
    judged = judge is not None or request.own_metric
    searched = (judged and request.searches) or request.unproven
    count = sum(GENERATED_PARTS) if searched else GENERATED
    generated: list[Feeds] = []
    if searched or judge is None:  # else nobody needs any
        generated += generate(model, count, request.seed, shapes=request.input_shapes, executor=executor)
    probe = _first(judge, 2) or generated[:GENERATED]
    if not searched:
        if not judged:
            notes.append("accuracy was not measured: without --data, the model was verified on generated inputs only")
        return Inputs([], judge, probe, notes)
    fitted, compared, _ = GENERATED_PARTS
    fit, search, rest = generated[:fitted], generated[fitted : fitted + compared], generated[fitted + compared :]
    notes.append(f"forms and integers were fitted to {fitted} generated inputs; real ones (--data) fit better")
    if not judged:
        judge = open_data(rest, model, option="generated inputs")
        notes.append("accuracy was judged on generated inputs; what is lost on real ones is not known")
    return Inputs(fit, judge, probe, notes, search, unproven=not judged)


def _evaluation(model: ir.Model, request: Request, notes: list[str]) -> Reader:
    reader = open_data(request.eval_data, model, preprocess=request.preprocess, option="--eval-data")
    _tell(notes, reader)
    return reader


def _at_most(reader: Reader, count: int) -> Reader:
    """So many of the items, evenly spread; the reader itself where there are no more."""
    if reader.items <= count:
        return reader
    return reader.subset([i * reader.items // count for i in range(count)])


def _first(reader: Reader | None, count: int) -> list[Feeds]:
    return [] if reader is None else [feeds for feeds, _ in zip(reader, range(count), strict=False)]


def _tell(notes: list[str], reader: Reader) -> None:
    notes += reader.notes
    if reader.skipped:
        name, reason = reader.skipped[0]
        more = f" and {len(reader.skipped) - 1} more" if len(reader.skipped) > 1 else ""
        notes.append(f"skipped {len(reader.skipped)} unreadable: '{name}' ({reason}){more}")
