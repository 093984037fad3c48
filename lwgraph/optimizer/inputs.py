"""Which inputs are fitted on, which plans are compared on, which are judged on; judged ones are never used before."""

from __future__ import annotations

from dataclasses import dataclass, field

from lwgraph import ir
from lwgraph.calibrate import Reader, generate, open_data, split
from lwgraph.executor import Executor, Feeds
from lwgraph.optimizer.request import Request

FIT_SAMPLES = 1024  # a Gram matrix gains nothing from more
JUDGED_SHARE = 0.25  # of the data, when none was given for judging
SEARCHED_SHARE = 0.2  # of the rest, on which plans are compared
LEAST_SEARCHED = 5  # items from which on some are kept for comparing plans
GENERATED = 8


@dataclass
class Inputs:
    """The inputs of one run.

    Attributes:
        fit: for statistics; empty when the user gave no data.
        search: on which plans are compared; disjoint from `fit`, unless there are fewer than LEAST_SEARCHED items.
        training: what `fit` is a part of; None when nothing is to be trained.
        judge: for the metric; None when the user gave no data.
        probe: a few feeds for verification and timing, real when there are any.
        notes: what the user should know about them.
    """

    fit: list[Feeds]
    judge: Reader | None
    probe: list[Feeds]
    notes: list[str] = field(default_factory=list)
    search: list[Feeds] = field(default_factory=list)
    training: Reader | None = None

    @property
    def real(self) -> bool:
        """Whether the inputs came from the user."""
        return bool(self.fit)


def gather(model: ir.Model, request: Request, executor: Executor, own_metric: bool) -> Inputs:
    """Open what the user gave; generate inputs when that is nothing.

    Args:
        model: the model that will be fed.
        request: without `data` nothing is fitted, and inputs for verification are generated or taken from `eval_data`;
            without `eval_data` a share of `data` is kept apart for judging, unless the metric brings its own data.
        executor: tries generated inputs.
        own_metric: the metric is a user's function, which has its own data.
    """
    data, eval_data, preprocess, seed = request.data, request.eval_data, request.preprocess, request.seed
    train, augment = request.training > 0, request.augment
    shapes = request.input_shapes
    if data is None and eval_data is None:
        generated = generate(model, GENERATED, seed, shapes=shapes, executor=executor)
        note = (
            "accuracy was not measured: without --data, the model was verified on generated inputs only. "
            "With --data lwgraph fits lighter forms to real inputs, and with --max-drop it keeps a promise on accuracy"
        )
        return Inputs([], None, list(generated), [note])
    notes: list[str] = []
    fit = judge = None
    if data is not None:
        fit = open_data(data, model, preprocess=preprocess, limit=None if train else FIT_SAMPLES, augment=augment)
        _tell(notes, fit)
    if eval_data is not None:
        judge = open_data(eval_data, model, preprocess=preprocess, option="--eval-data")
        _tell(notes, judge)
    elif fit is not None and not own_metric:
        fit, judge = split(fit, (1 - JUDGED_SHARE, JUDGED_SHARE), seed)
        notes.append(f"{judge.count} of {fit.count + judge.count} samples were kept apart for judging")
    search = fit
    if fit is not None and fit.items >= LEAST_SEARCHED:
        fit, search = split(fit, (1 - SEARCHED_SHARE, SEARCHED_SHARE), seed)
    training = fit if train else None
    fit, search = (None if part is None else _at_most(part, FIT_SAMPLES) for part in (fit, search))
    feeds: list[Feeds] = [] if fit is None else list(fit)
    compared: list[Feeds] = [] if search is None else list(search)
    probe: list[Feeds] = feeds[:2] or _first(judge, 2)
    return Inputs(feeds, judge, probe, notes, compared, training)


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
