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
from scipy.stats import spearmanr

from benchmarks import tables
from benchmarks.zoo import cache, ddddocr_common, efficientnet_lite0, fashion, orinet, photos
from benchmarks.zoo.case import Feeds
from lwgraph import demo, ir, registry
from lwgraph.arrays import Array, Floats, Index
from lwgraph.measure.evidence import Evidence, paired, share_bounds
from lwgraph.measure.margins import margins
from lwgraph.measure.promise import BROKEN, CONFIDENCE, KEPT, count_kept, judge, samples_needed
from lwgraph.optimizer import optimize
from lwgraph.optimizer.candidates import HOPELESS
from lwgraph.optimizer.last_look import CHOSEN_SHARE

PAGE = Path(__file__).resolve().parent / "PROMISE.md"
SPLITS = 100
JUDGED = (32, 128, 512)  # samples of the last look
LEFT = 0.6  # of the samples at most may choose and judge; the rest tells what is lost in truth
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


@dataclass(frozen=True)
class Said:
    """What counts of each sample.

    Attributes:
        before: of the original, (n,): 1 where it is right, or like the original.
        plans: the same of each plan (plans, n).
        agreement: whether there are no labels.
        apart: margins of the original (n,) and of each plan (plans, n); None where there are no scores.
    """

    before: Floats
    plans: Floats
    agreement: bool
    apart: tuple[Floats, Floats] | None

    def evidence(self, plan: int, at: Index) -> Evidence:
        """What some samples say of a plan."""
        apart = None if self.apart is None else (self.apart[0][at], self.apart[1][plan][at])
        return paired(self.before[at], self.plans[plan][at], 1.0, original=self.agreement, apart=apart)

    def loss(self, plan: int, at: Index) -> float:
        """What a plan loses on some samples."""
        return float((self.before[at] - self.plans[plan][at]).mean())


def said(name: str, labelled: bool) -> Said:
    """What counts of each sample of a set."""
    labels, original, plans = answers(name)
    scores = original.ndim == 2
    classes, chosen = (original.argmax(-1), plans.argmax(-1)) if scores else (original, plans)
    truth = labels if labelled else classes
    apart = (margins(original, truth), np.stack([margins(plan, truth) for plan in plans])) if scores else None
    return Said((classes == truth).astype(float), (chosen == truth).astype(float), not labelled, apart)


def deliver(found: Said, choose: Index, last: Index) -> int:
    """The plan that a run would deliver: see `Candidates.look_last`. Of none, the one that loses least."""
    plans = range(len(found.plans))  # the number of a plan is its place by speed
    looks = {i: found.evidence(i, choose) for i in plans}
    good = [i for i in plans if looks[i].estimate <= MAX_DROP]
    if not good:
        return min(plans, key=lambda i: (looks[i].estimate, i))
    chain: list[int] = []
    for i in sorted(good, key=lambda i: (looks[i].estimate, i)):
        if not chain or i < chain[-1]:
            chain.append(i)
    needed = samples_needed(looks[chain[0]], MAX_DROP, 1 - CONFIDENCE)
    if needed is None or needed > HOPELESS * len(last):
        return min(good, key=lambda i: (looks[i].bounds(1 - CONFIDENCE)[1], i))
    return chain[max(0, count_kept([partial(found.evidence, i, last) for i in chain], MAX_DROP) - 1)]


def row(name: str, labelled: bool, judged: int) -> list[str]:
    """One line of the table."""
    found = said(name, labelled)
    held = false = resolved = 0
    bounds, losses, terms = [], [], []
    for seed in range(SPLITS):
        order = np.random.default_rng(seed).permutation(len(found.before))
        chosen = round(judged * CHOSEN_SHARE / (1 - CHOSEN_SHARE))
        choose, last, rest = np.split(order, (chosen, chosen + judged))
        plan = deliver(found, choose, last)
        verdict = judge(found.evidence(plan, last), MAX_DROP, confidence=CONFIDENCE)
        loss, apart = found.loss(plan, rest), float((found.before != found.plans[plan]).mean())
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


def ranks(name: str, labelled: bool, judged: int) -> list[str]:
    """How well counts and estimates of few samples tell plans apart, and how far off they are."""
    found = said(name, labelled)
    everything = np.arange(len(found.before))
    true = [found.loss(i, everything) for i in range(len(found.plans))]
    cells = [name, "labels" if labelled else "none", str(judged)]
    draws = [np.random.default_rng(s).choice(len(everything), judged, replace=False) for s in range(SPLITS)]
    for counted in (True, False):
        rows = [
            [found.loss(i, at) if counted else found.evidence(i, at).estimate for i in range(len(true))] for at in draws
        ]
        order = [float(spearmanr(each, true).statistic) if len(set(each)) > 1 else 0.0 for each in rows]
        off = np.array(rows) - true
        worst = int(np.abs(off.mean(axis=0)).argmax())
        bias = f"{100 * off.mean(axis=0)[worst]:+.2f}"
        if not counted:  # all samples are a sample, too
            lost = found.before - found.plans[worst]
            bias += f" ± {100 * lost.std() / np.sqrt(len(lost)):.2f}"
        cells += [f"{np.mean(order):.2f}", f"{100 * np.sqrt((off**2).mean()):.2f}", bias]
    return cells


def main(names: tuple[str, ...]) -> None:
    """Repeat the splits and write the tables."""
    rows, ranked = [], []
    for name in names or SETS:
        samples = len(answers(name)[0])
        for labelled in (True, False):
            for judged in JUDGED:
                if judged / (1 - CHOSEN_SHARE) >= LEFT * samples:
                    continue
                rows.append(row(name, labelled, judged))
                click.echo("  ".join(rows[-1]))
                if said(name, labelled).apart is not None:
                    ranked.append(ranks(name, labelled, judged))
                    click.echo("  ".join(ranked[-1]))
    head = ["data", "labels", "judged", "bound holds", "false verdicts", "resolved", "lost", "bound", "goal"]
    tables.write("promise", f"{tables.conditions()}\n\n{tables.table(head, rows)}", PAGE)
    counted = ["rank by counts", "error", "bias"]
    head = ["data", "labels", "samples", *counted, "rank by estimates", "error", "bias"]
    tables.write("ranks", tables.table(head, ranked), PAGE)


__all__ = ["PLANS", "SETS", "Said", "answers", "deliver", "main", "ranks", "row", "said"]
