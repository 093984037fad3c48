"""What the default floors of likeness cost in the tasks that models are for: two models or more of each kind of output.

Weights are rounded to fewer and fewer bits, one scale per tensor, which spoils a model in small steps, whatever it is.
At each step the likeness that lwgraph judges by is measured, and the task: by the truth where there is one, else by
the decisions that are made of the outputs, against those of the original. Where the likeness has lost just what the
default allows, the loss of the task is read off between the two steps around it.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
from onnx_ir.passes.common import LiftConstantsToInitializersPass

from benchmarks import tables, zoo
from benchmarks.run import commit
from benchmarks.strangers import STRANGERS
from benchmarks.zoo import minilm, scores
from lwgraph import demo, ir, registry
from lwgraph.arrays import Array
from lwgraph.calibrate import open_data
from lwgraph.executor import Executor, Feeds, Run
from lwgraph.measure import detections, open_metric
from lwgraph.measure.kinds import METRIC_OF, find_kind
from lwgraph.measure.neighbours import neighbours

PAGE = Path(__file__).resolve().parent / "FLOORS.md"
BITS = (8, 7, 6, 5, 4, 3)
FINE = (13, 12, 11, 10, 9, 8)  # of images, whose floor lies above what 8 bits leave
LEAST_WEIGHT = 256  # elements of a constant that is rounded
SAMPLES, PAGES = 48, 120  # of a stranger, and of orinet
Task = Callable[[Run], float]  # higher is better, 1 or decibels


@dataclass(frozen=True)
class Subject:
    """One model.

    Attributes:
        kind: of its outputs.
        model: its file.
        feeds: of the likeness.
        task: opens what the outputs are for, given the original's run, in points.
        what: the task, in words.
    """

    kind: str
    model: Callable[[], Path]
    feeds: Callable[[], Sequence[Feeds]]
    task: Callable[[Run, ir.Model], Task]
    what: str


def _case(kind: str, name: str, feeds: Callable[[], Sequence[Feeds]], what: str) -> Subject:
    case = zoo.case(name)
    return Subject(
        kind, case.model, feeds, lambda run, model: lambda run: case.points_per_unit * case.metric(run), what
    )


@functools.cache
def _strange(name: str) -> tuple[Feeds, ...]:
    stranger = STRANGERS[name]
    made = stranger.samples(np.random.default_rng(1), "eval", stranger.path())
    return tuple(itertools.islice(made, SAMPLES))


def _stranger(
    kind: str, name: str, decide: Callable[[Mapping[str, Array], Mapping[str, Array]], float], what: str
) -> Subject:
    """A model without a truth: `decide` says how alike two outputs' decisions are, 0..1."""

    def task(original: Run, model: ir.Model) -> Task:
        theirs = [original(feed) for feed in _strange(name)]
        return lambda run: (
            100 * float(np.mean([decide(a, run(f)) for a, f in zip(theirs, _strange(name), strict=True)]))
        )

    return Subject(kind, STRANGERS[name].path, lambda: _strange(name), task, what)


def _over(output: str, threshold: float) -> Callable[[Mapping[str, Array], Mapping[str, Array]], float]:
    """What is over a threshold in both, of what is in either: F1; 1 where there is nothing."""

    def decide(a: Mapping[str, Array], b: Mapping[str, Array]) -> float:
        x, y = a[output] > threshold, b[output] > threshold
        total = x.sum() + y.sum()
        return 2 * float((x & y).sum()) / total if total else 1.0

    return decide


def _found(name: str) -> Subject:
    """A detector without a truth: average precision, the original's detections taken as the objects."""

    def task(original: Run, model: ir.Model) -> Task:
        feeds = _strange(name)
        kind = find_kind(model, open_data(list(feeds), model), original, "detections")
        assert kind.layout is not None
        layout = kind.layout

        def boxes(run: Run, least: float) -> list[detections.Found]:
            return [detections.decode(run(feed), layout, kind.size, 1, least)[0] for feed in feeds]

        truth = boxes(original, 0.25)

        def precision(run: Run) -> float:
            found, hits = [], []
            for mine, theirs in zip(boxes(run, 0.05), truth, strict=True):
                order = np.argsort(-mine.scores, kind="stable")
                found.append(mine.scores[order])
                hits.append(scores.hits(mine.boxes[order], theirs.boxes))
            objects = sum(len(each.scores) for each in truth)
            return 100 * scores.average_precision(np.concatenate(found), np.concatenate(hits), objects)

        return precision

    return Subject("detections", STRANGERS[name].path, lambda: _strange(name), task, "AP50, the original's as truth")


def _neighbours(name: str, output: str) -> Subject:
    def task(original: Run, model: ir.Model) -> Task:
        def rows(run: Run) -> Array:
            return np.concatenate([run(feed)[output].reshape(1, -1) for feed in _strange(name)])

        theirs = rows(original)
        return lambda run: 100 * float(neighbours(theirs, rows(run)).mean())

    return Subject("embeddings", STRANGERS[name].path, lambda: _strange(name), task, "nearest neighbours that stay")


def _top1(feeds: Sequence[Feeds], labels: Array) -> Callable[[Run, ir.Model], Task]:
    def accuracy(run: Run) -> float:
        answers = np.concatenate([next(iter(run(feed).values())).argmax(-1) for feed in feeds])
        return 100 * float((answers == labels).mean())

    return lambda original, model: accuracy


def _pages() -> list[Feeds]:
    from benchmarks.zoo import orinet

    return list(itertools.islice(orinet.feeds("eval"), PAGES))


def _demo() -> Subject:
    feeds, labels = demo.evaluation()
    few = len(feeds) // 4
    task = _top1(feeds[:few], labels[: len(labels) // 4])
    return Subject("classes", lambda: demo.MODEL, lambda: feeds[:few], task, "top-1, labelled")


def _orinet() -> Subject:
    task = lambda run, model: _top1(_pages(), np.arange(PAGES) % 4)(run, model)  # noqa: E731
    return Subject("classes", zoo.case("orinet").model, _pages, task, "top-1, labelled")


def _module(name: str) -> Any:
    import importlib

    return importlib.import_module(f"benchmarks.zoo.{name}")


SUBJECTS: dict[str, Callable[[], Subject]] = {
    "fmnist_resnet14": _demo,
    "orinet": _orinet,
    "minilm": lambda: Subject(
        "embeddings",
        minilm.model,
        minilm.evaluation,
        lambda run, model: lambda run: 100 * minilm.metric(run),
        "nearest neighbours that stay",
    ),
    "minilm_l3": lambda: _neighbours("minilm_l3", "461"),
    "arbez_yolox_s": lambda: _case(
        "detections",
        "arbez_yolox_s",
        lambda: list(_module("arbez_yolox_s")._evaluation()),
        "AP50, labelled",
    ),
    "nudenet": lambda: _found("nudenet"),
    "ffdnet_rgb": lambda: _case(
        "images", "ffdnet_rgb", lambda: list(_module("ffdnet_rgb")._feeds("eval_240", 0)), "PSNR to the clean, 0.1 dB"
    ),
    "ppocrv4_det": lambda: _stranger("images", "ppocrv4_det", _over("sigmoid_0.tmp_0", 0.3), "F1 of the text's pixels"),
    "ddddocr_common": lambda: _case(
        "symbols", "ddddocr_common", lambda: list(_module("ddddocr_common").feeds("eval")), "characters read, labelled"
    ),
    "ppocrv5_rec": lambda: _case(
        "symbols", "ppocrv5_rec", lambda: list(_module("ppocrv5_rec")._feeds("eval")), "characters read, labelled"
    ),
    "basic_pitch": lambda: _stranger("other", "basic_pitch", _over("StatefulPartitionedCall:1", 0.5), "F1 of notes"),
    "eeg_spindle": lambda: _stranger("other", "eeg_spindle", _over("segmentation", 0.5), "F1 of spindles"),
}


def rounded(model: ir.Model, bits: int) -> ir.Model:
    """The model with its larger constants of floats rounded to so many bits, one scale per tensor."""
    made, most = ir.clone(model), 2 ** (bits - 1) - 1
    LiftConstantsToInitializersPass()(made)  # some exporters keep their weights in nodes
    for scope in ir.scopes(made):
        for value in [] if isinstance(scope, ir.Function) else list(scope.initializers.values()):
            array = ir.constant(value)
            if array is None or array.dtype != np.float32 or array.ndim < 2 or array.size < LEAST_WEIGHT:
                continue
            step = float(np.abs(array).max()) / most
            if step > 0:
                ir.set_constant(value, (np.round(array / step) * step).astype(np.float32))
    return made


def measured(name: str) -> dict[str, Any]:
    """The losses of likeness and task at each step, in the metric's unit and in points."""
    subject, executor = SUBJECTS[name](), registry.executor("ort", threads=1)
    model = ir.load(subject.model())
    original, feeds = executor.prepare(model), subject.feeds()
    reader = open_data(list(feeds), model)
    kind = find_kind(model, reader, original, subject.kind)
    metric = open_metric(METRIC_OF[kind.name], reader, original, kind=kind)
    base, task = metric(original), subject.task(original, model)
    best, floor = task(original), metric.allowed(base)
    widths = FINE if subject.kind == "images" else BITS
    steps = [_step(executor, rounded(model, bits), metric, base.value, task, best) for bits in widths]
    return {"bits": widths, "steps": steps, "floor": floor, "best": best, "samples": reader.count, "commit": commit()}


def _step(executor: Executor, model: ir.Model, metric: Any, base: float, task: Task, best: float) -> list[float]:
    run = executor.prepare(model)
    return [base - metric(run).value, best - task(run)]


def at_floor(steps: Sequence[Sequence[float]], floor: float) -> float | None:
    """What the task loses where the likeness loses `floor`, between the steps around it; None where none loses more."""
    known = sorted([(0.0, 0.0), *((a, b) for a, b in steps)])
    for (x0, y0), (x1, y1) in itertools.pairwise(known):
        if x0 <= floor < x1:
            return y0 + (y1 - y0) * (floor - x0) / (x1 - x0)
    return None


def _likeness(kind: str, loss: float) -> str:
    return f"{100 - loss:.1f} dB" if kind == "images" else f"{100 * loss:.2f}"


def table() -> str:
    """The table of what was kept."""
    rows = []
    for name, open_subject in SUBJECTS.items():
        if (found := tables.kept("floors", name)) is None:
            continue
        subject = open_subject()
        lost = at_floor(found["steps"], found["floor"])
        steps = zip(found.get("bits", BITS), found["steps"], strict=True)
        cells = "; ".join(f"{bits}: {_likeness(subject.kind, a)}, {b:.2f}" for bits, (a, b) in steps)
        floor = _likeness(subject.kind, found["floor"])
        rows.append([name, subject.kind, str(found["samples"]), subject.what, f"{found['best']:.1f}", cells, floor])
        rows[-1] += ["not reached" if lost is None else f"{lost:.2f}", found["commit"]]
    head = ["model", "kind", "samples", "task", "original", "bits: likeness lost, task lost", "floor"]
    return f"{tables.conditions()}\n\n" + tables.table([*head, "task lost there", "build"], rows)


def main(names: tuple[str, ...], again: bool) -> None:
    """Measure the models that are not kept and write the table after each."""
    for name in names or tuple(SUBJECTS):
        if again or tables.kept("floors", name) is None:
            tables.keep("floors", name, measured(name))
            tables.write("floors", table(), PAGE)
        click.echo(f"{name}: {tables.kept('floors', name)}")


__all__ = ["SUBJECTS", "at_floor", "main", "measured", "rounded"]
