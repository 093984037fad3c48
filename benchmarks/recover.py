"""python -m benchmarks.recover CASE: what recovery brings back of what an approximate rewrite loses on a public model.

One row per recipe of recovery: the score, the points lost, the share of the loss that came back, the time and the
processor time that it took together with the passes after it (those that train are left out in the row "nothing"); and
the speed-up of the rewritten model over the float original (one thread, batch of 8 where the model allows), which
recovery does not change and is measured once. Calibration inputs are unlabelled; `--train` takes more of them where the
case has more: Fashion-MNIST's 60,000 training images; 512 views of page fragments.
"""

from __future__ import annotations

import sys
import time
from typing import Any

import click
import numpy as np

from benchmarks import zoo
from lwgraph import demo, ir, registry
from lwgraph.calibrate.statistics import Statistics
from lwgraph.errors import LwgraphError
from lwgraph.measure.latency import paired_latency
from lwgraph.rewrite import Context, Pass

CLOSED = ("repair-statistics", "align-blocks", "refit-head", "refit-layers", "align-blocks refit-head")


class Images(list[Any]):
    """Feeds that may be varied."""

    augment = ("flip", "shift")


def training_images() -> Any:
    """Fashion-MNIST's training images as one feed, which may be flipped and shifted."""
    from benchmarks.zoo import fashion

    return Images([{"image": demo.normalize(fashion.images("train"))}])


def pages() -> Any:
    """The 24 fragments that OriNet is calibrated with and 104 that the same generator draws, in four turns: 512."""
    from benchmarks.zoo import data, orinet, pictures
    from benchmarks.zoo.case import planes
    from benchmarks.zoo.generate import pages

    rng = np.random.default_rng(3)  # 1 and 2 drew the fragments of the case
    drawn = [pictures.letterbox(pages.fragment(rng, "calib").convert("RGB"), 320) for _ in range(104)]
    every = np.concatenate([data.arrays("pages", orinet.build)["calib"], pictures.stack(drawn)])
    return [
        {"x": planes(np.rot90(page, -turn), mean=orinet.MEAN, std=orinet.STD)[None]}
        for page in every
        for turn in range(orinet.TURNS)
    ]


TRAINING = {"fmnist_resnet14": training_images, "orinet": pages}


def batch_of(feeds: dict[str, Any], model: ir.Model) -> dict[str, Any]:
    """A feed of eight rows where the first axis is dynamic, else the feed as it is."""
    first = model.graph.inputs[0]
    if first.shape is None or isinstance(first.shape[0], int):
        return feeds
    return {n: np.repeat(a, 8, 0) if n == first.name else a for n, a in feeds.items()}


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.argument("case", type=click.Choice(zoo.NAMES), metavar="CASE")
@click.option("--rewrite", default="low-rank{ratio=0.15}", show_default=True, help="Passes, separated by spaces.")
@click.option("--then", default="", help="Passes after recovery, such as 'infer-shapes quantize'.")
@click.option("--recovery", multiple=True, help="Passes, separated by spaces. Default: the closed-form recipes.")
@click.option("--start", type=click.Path(exists=True), help="A model that was rewritten before, instead of --rewrite.")
@click.option("--train", is_flag=True, help="Recover on more unlabelled inputs than the case is calibrated with.")
@click.option("--fit-train", is_flag=True, help="With --train: rewrite on those inputs, too.")
@click.option("--save", type=click.Path(), help="Write the model of the last recipe to this file.")
@click.option("--threads", default=1, show_default=True)
def main(
    case: str,
    rewrite: str,
    then: str,
    recovery: tuple[str, ...],
    start: str | None,
    train: bool,
    fit_train: bool,
    save: str | None,
    threads: int,
) -> None:
    """Measure recovery on one public model."""
    if train and case not in TRAINING:
        raise click.UsageError(f"--train: {case} has no other inputs; {' and '.join(TRAINING)} have")
    if fit_train and not train:
        raise click.UsageError("--fit-train needs --train")
    chosen, rewrite = zoo.case(case), "" if start else rewrite
    teacher = ir.load(chosen.model())
    ort = registry.executor("ort", threads=threads)
    context = Context(
        executor=ort,
        reference=registry.executor("reference"),
        data=chosen.calibration(),  # type: ignore[arg-type]
        teacher=teacher,
        threads=threads,
    )
    broken = ir.load(start or chosen.model())
    fitting: Any = TRAINING[case]() if fit_train else context.data
    for part in rewrite.split():
        statistics = Statistics(broken, fitting, ort)  # of what the part before left
        context = context.beside(statistics=statistics)
        apply(part, broken, context.beside(data=fitting))
    began = time.monotonic()
    original = chosen.metric(ort.prepare(teacher))
    click.echo(f"{case}, {start or rewrite}{f', then {then}' if then else ''}; {chosen.unit}")
    click.echo(f"{'':44} {'score':>8} {'points lost':>11} {'regained':>9} {'seconds':>8} {'CPU s':>8} {'speed-up':>9}")
    click.echo(f"{'original':44} {original:8.4f}")
    worst = None
    for recipe in ("", *(recovery or CLOSED)):
        model = ir.clone(broken)
        learning: Any = TRAINING[case]() if train and recipe else context.data
        started, busy, told = time.monotonic(), time.process_time(), len(context.gains)
        apply(recipe, model, context.beside(data=learning))
        for part in then.split():
            if not (train and part.startswith("distill")):
                apply(part, model, context)
            elif recipe:
                apply(part, model, context.beside(data=learning))
        taken, used = time.monotonic() - started, time.process_time() - busy
        score = chosen.metric(ort.prepare(model))
        lost = chosen.points(original, score)
        worst = lost if worst is None else worst
        regained = f"{100 * (1 - lost / worst):8.0f}%" if recipe and worst > 0 else f"{'':9}"
        row = f"{recipe or 'nothing':44} {score:8.4f} {lost:11.2f} {regained} {taken:8.0f} {used:8.0f}"
        if not recipe:
            runs = {"original": ort.prepare(teacher), "model": ort.prepare(model)}
            ratio = paired_latency(runs, [batch_of(chosen.example(), model)], threads=threads).speedup("model").ratio
            row += f" {ratio:8.2f}x"
        click.echo(row)
        for gain in context.gains[told:]:
            click.echo(f"    {gain}")
    if save:
        ir.save(model, save, overwrite=True)
    click.echo(f"all: {time.monotonic() - began:.0f} s")


def apply(text: str, model: ir.Model, context: Context) -> None:
    """Run passes separated by spaces."""
    for part in text.split():
        Pass.parse(part).run(model, context)


if __name__ == "__main__":
    try:
        main()
    except LwgraphError as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(error.exit_code)
