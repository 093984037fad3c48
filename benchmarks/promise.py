"""How often verdicts on a promise are right: random splits of labelled data into choosing, the last look, and the rest.

The plans are made once, and the answers of the original and of each plan are kept as arrays; only choosing and judging
are repeated, so a hundred splits take a second.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import click
import numpy as np

from benchmarks import tables
from benchmarks.zoo import cache, ddddocr_common, efficientnet_lite0, fashion, orinet, photos
from benchmarks.zoo.case import Feeds
from lwgraph import demo, ir, registry
from lwgraph.arrays import Array, Floats, Index
from lwgraph.measure.evidence import Evidence, paired, share_bounds
from lwgraph.measure.promise import BROKEN, CONFIDENCE, KEPT, count_kept, judge
from lwgraph.optimizer import optimize
from lwgraph.optimizer.last_look import CHOSEN_SHARE

PAGE = Path(__file__).resolve().parent / "PROMISE.md"
SPLITS = 100
JUDGED = (32, 128, 512)  # samples of the last look
MAX_DROP = 0.01
BATCH = 100
# From the fastest to the one that loses least, about; what a search finds is of these kinds.
PLANS = (
    "default,prune-channels{ratio=0.4},quantize",
    "default,prune-channels{ratio=0.25},quantize",
    "default,low-rank{ratio=0.4},quantize",
    "default,quantize",
    "default,prune-channels{ratio=0.1}",
)


@dataclass(frozen=True)
class Data:
    """A model with labelled inputs that no fit saw.

    Attributes:
        model: its file.
        calibration: unlabelled inputs to fit to.
        feeds: the inputs, a batch to each.
        labels: (n,), whole numbers.
        read: of the first output of a batch, scores (rows, classes), or one whole number for each row.
    """

    model: Path
    calibration: Callable[[], list[Feeds]]
    feeds: Callable[[], Iterable[Feeds]]
    labels: Array
    read: Callable[[Array], Array] = np.asarray


def _demo() -> Data:
    feeds, labels = demo.evaluation()
    return Data(demo.MODEL, lambda: demo.calibration()[:8], lambda: feeds, labels)


def _fashion() -> Data:
    images, labels = demo.normalize(fashion.images("t10k")), fashion.labels("t10k").astype(np.int64)
    feeds = [{demo.INPUT: part} for part in np.split(images, len(images) // BATCH)]
    return Data(demo.MODEL, lambda: demo.calibration()[:8], lambda: feeds, labels)


def _pages() -> Data:
    labels = np.tile(np.arange(orinet.TURNS), sum(1 for _ in orinet.feeds("eval")) // orinet.TURNS)
    return Data(orinet.model(), orinet.calibration, lambda: orinet.feeds("eval"), labels)


def _photos() -> Data:
    labels = photos.arrays()["labels_224"].astype(np.int64)
    lite = efficientnet_lite0
    return Data(lite.model(), lite.calibration, lambda: lite.feeds("eval_224"), labels)


def _strings() -> Data:
    def number(text: str) -> int:
        return zlib.crc32(text.encode())

    ocr = ddddocr_common
    labels = np.array([number(text) for text in ocr.truth()])
    return Data(
        ocr.model(),
        ocr.calibration,
        lambda: ocr.feeds("eval"),
        labels,
        lambda output: np.array([number(ocr.text(output))]),
    )


SETS: dict[str, Callable[[], Data]] = {
    "demo": _demo,
    "fmnist_resnet14": _fashion,
    "orinet": _pages,
    "efficientnet_lite0": _photos,
    "ddddocr_common": _strings,
}


def _made(name: str, data: Data, plan: str) -> Path:
    """The file of a plan's model, made where the cache does not have it."""
    name = "" if data.model == demo.MODEL else f"{name}-"
    path = cache.folder("models") / f"promise-{name}{re.sub('[^a-z0-9.]+', '-', plan)}.onnx"
    if not path.exists():
        with cache.replacing(path) as new:
            ir.save(optimize(data.model, data=data.calibration(), pipeline=plan).model, new)
    return path


def _answers(data: Data, model: Path) -> Array:
    run = registry.executor("ort").prepare(ir.load(model))
    return np.concatenate([data.read(next(iter(run(feed).values()))) for feed in data.feeds()])


def answers(name: str) -> tuple[Array, Array, Array]:
    """Labels (n,), what the original says, (n,) or (n, classes), and what each plan says, one more axis in front."""

    def build() -> cache.Arrays:
        data = SETS[name]()
        found = [_answers(data, path) for path in (data.model, *(_made(name, data, plan) for plan in PLANS))]
        return {"labels": data.labels, "original": found[0], "plans": np.stack(found[1:])}

    kept = cache.arrays(f"promise-{name}", f"2 {PLANS}", build)
    return kept["labels"], kept["original"], kept["plans"]


def values(name: str, labelled: bool) -> tuple[Floats, Floats]:
    """What counts of each sample, for the original (n,) and each plan (plans, n): right, or like the original."""
    labels, original, plans = answers(name)
    truth = labels if labelled else original
    return (original == truth).astype(float), (plans == truth).astype(float)


def deliver(before: Floats, plans: Floats, choose: Index, last: Index, agreement: bool) -> int:
    """The plan that a run would deliver: see `Candidates.look_last`. Of none, the one that loses least."""
    losses = [float((before[choose] - after[choose]).mean()) for after in plans]
    good = [i for i, loss in enumerate(losses) if loss <= MAX_DROP]
    if not good:
        return int(np.argmin(losses))
    chain: list[int] = []
    for i in sorted(good, key=lambda i: (losses[i], i)):  # the number of a plan is its place by speed
        if not chain or i < chain[-1]:
            chain.append(i)
    looks = [partial(_evidence, before, plans[i], last, agreement) for i in chain]
    return chain[max(0, count_kept(looks, MAX_DROP) - 1)]


def _evidence(before: Floats, after: Floats, at: Index, agreement: bool) -> Evidence:
    return paired(before[at], after[at], 1.0, original=agreement)


def row(name: str, labelled: bool, judged: int) -> list[str]:
    """One line of the table."""
    before, plans = values(name, labelled)
    held = false = resolved = 0
    bounds, losses, terms = [], [], []
    for seed in range(SPLITS):
        order = np.random.default_rng(seed).permutation(len(before))
        chosen = round(judged * CHOSEN_SHARE / (1 - CHOSEN_SHARE))
        choose, last, rest = np.split(order, (chosen, chosen + judged))
        after = plans[deliver(before, plans, choose, last, not labelled)]
        verdict = judge(_evidence(before, after, last, not labelled), MAX_DROP, confidence=CONFIDENCE)
        loss, apart = float((before[rest] - after[rest]).mean()), float((before != after).mean())
        assert verdict.bound is not None
        held += loss <= verdict.bound
        false += (verdict.verdict == KEPT and loss > MAX_DROP) or (verdict.verdict == BROKEN and loss <= MAX_DROP)
        resolved += verdict.verdict in (KEPT, BROKEN)
        bounds.append(verdict.bound)
        losses.append(loss)
        terms.append(share_bounds(apart * judged, judged, 1 - CONFIDENCE)[1] - apart)
    bound, loss, term = (100 * float(np.median(each)) for each in (bounds, losses, terms))
    figures = [f"{held}", f"{false}", f"{resolved}", f"{loss:.2f}", f"{bound:.2f}", f"{2 * max(loss, 0) + term:.2f}"]
    return [name, "labels" if labelled else "none", str(judged), *figures]


def main(names: tuple[str, ...]) -> None:
    """Repeat the splits and write the table."""
    rows = []
    for name in names or SETS:
        for labelled in (True, False):
            for judged in JUDGED:
                rows.append(row(name, labelled, judged))
                click.echo("  ".join(rows[-1]))
    head = ["data", "labels", "judged", "bound holds", "false verdicts", "resolved", "lost", "bound", "goal"]
    tables.write("promise", f"{tables.conditions()}\n\n{tables.table(head, rows)}", PAGE)


__all__ = ["PLANS", "SETS", "deliver", "main", "row", "values"]
