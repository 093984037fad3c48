"""python -m benchmarks.refit [CASE]...: what the sequential refit takes off the error of a whole rewritten model.

Every layer that can take the form is replaced at one size, each fitted to the original's inputs (the symmetric fit);
then the model is refitted. Both errors are those of the model's outputs on inputs that the refit has not seen,
||Y - Yhat||^2 / ||Y - mean Y||^2. (The symmetric fits have seen all calibration inputs.)
"""

from __future__ import annotations

import time

import click

from benchmarks import tables, zoo
from lwgraph import ir, registry
from lwgraph.calibrate.statistics import Statistics
from lwgraph.plan.refit.sequential import Scope, refit
from lwgraph.rewrite import Context, Pass, Pipeline


def measure(name: str, form: str, scope: Scope, samples: int) -> list[str]:
    """One row: case, form, layers replaced, error before and after, what it took off, seconds."""
    case, ort = zoo.case(name), registry.executor("ort")
    data = list(case.calibration())[:samples]
    original = ir.load(case.model())
    Pipeline.parse("default").run(original, Context())
    model = ir.clone(original)
    reference, statistics = registry.executor("reference"), Statistics(model, data, ort)
    context = Context(executor=ort, reference=reference, statistics=statistics, data=data, teacher=original)
    replaced = Pass.parse(form).run(model, context)
    start = time.monotonic()
    report = refit(original, model, context, scope=scope, samples=samples)
    taken = time.monotonic() - start
    gain = 1 - report.after / report.before
    return [
        name,
        f"`{form}`",
        str(replaced),
        scope,
        str(len(data)),
        f"{report.before:.4f}",
        f"{report.after:.4f}",
        f"{100 * gain:.0f} %",
        f"{report.kept} of {report.refitted}",
        f"{taken:.0f}",
    ]


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("cases", nargs=-1, type=click.Choice(zoo.NAMES), metavar="[CASE]...")
@click.option("--form", default="low-rank{ratio=0.25}", show_default=True)
@click.option("--scope", type=click.Choice(["replaced", "all"]), default="replaced", show_default=True)
@click.option("--samples", default=64, show_default=True)
def main(cases: tuple[str, ...], form: str, scope: Scope, samples: int) -> None:
    """Measure the refit on public models."""
    rows = []
    for name in cases or zoo.NAMES:
        rows.append(measure(name, form, scope, samples))
        click.echo(" ".join(rows[-1]))
    header = ["case", "form", "layers", "scope", "inputs", "error before", "after", "less", "kept", "seconds"]
    click.echo(tables.table(header, rows))


if __name__ == "__main__":
    main()
