"""python -m benchmarks.recover_gains [CASE]...: what the closed-form recovery passes take off the error.

Every layer that can take `--form` is replaced by it; then each pass runs on a copy of that model, and all copies are
judged on calibration inputs that neither the form nor the passes have seen: relative squared error of the outputs, 0
for equal outputs and below 1 always (see `lwgraph.measure.distance`). No labels, no training. Each result is kept, and
`--table` writes those kept into RECOVER.md.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click
import numpy as np

from benchmarks import tables, zoo
from lwgraph import ir, registry
from lwgraph.calibrate.statistics import Statistics
from lwgraph.check import verify
from lwgraph.measure.distance import Distance
from lwgraph.rewrite import Context, Pass, Pipeline

PASSES = ("repair-statistics", "align-blocks", "refit-head", "refit-layers")
PAGE = Path(__file__).resolve().parent / "RECOVER.md"


def measure(name: str, form: str, samples: int, judged: int) -> dict[str, Any]:
    """The errors of the rewritten model and after each pass, with what each pass did and its seconds.

    Kept after each pass, so that a run that was stopped goes on where it was.
    """
    case, ort = zoo.case(name), registry.executor("ort")
    data = list(case.calibration())
    order = np.random.default_rng(0).permutation(len(data))
    held, fitted = ([data[i] for i in part] for part in (order[:judged], order[judged : judged + samples]))
    teacher = ir.load(case.model())
    Pipeline.parse("default").run(teacher, Context())
    distance = Distance(ort.prepare(teacher), held)
    broken = ir.clone(teacher)
    context = Context(executor=ort, data=fitted, statistics=Statistics(broken, fitted, ort))
    replaced = Pass.parse(form).run(broken, context)
    result: dict[str, Any] = {
        "form": form,
        "layers": replaced,
        "samples": len(fitted),
        "judged": len(held),
        "error": distance(ort.prepare(broken)),
        "passes": {},
    }
    before = tables.kept("recover-gains", name) or {}
    if all(before.get(key) == result[key] for key in result if key != "passes"):
        result = before
    for text in PASSES:
        if text in result["passes"]:
            continue
        model = ir.clone(broken)
        context = Context(executor=ort, data=fitted, teacher=teacher)
        start = time.process_time()
        done = Pass.parse(text).run(model, context)
        taken = time.process_time() - start
        verify(model)
        reasons = [s.reason for s in context.skipped]
        result["passes"][text] = {
            "layers": done,
            "error": distance(ort.prepare(model)),
            "seconds": taken,
            "skipped": len(reasons),
            "why": max(sorted(set(reasons)), key=reasons.count, default=""),
            "gains": [str(g) for g in context.gains],
        }
        tables.keep("recover-gains", name, result)
        click.echo(f"{name} {text}: {result['error']:.4f} -> {result['passes'][text]}")
    return result


def row(name: str, found: dict[str, Any]) -> list[str]:
    """One line of the table: the error before, and after each pass."""
    passes = [found["passes"].get(text) for text in PASSES]
    cells = ["" if p is None else f"{p['error']:.4f}" if p["layers"] else "undone" for p in passes]
    return [name, str(found["layers"]), f"{found['samples']} + {found['judged']}", f"{found['error']:.4f}", *cells]


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("cases", nargs=-1, type=click.Choice(zoo.NAMES), metavar="[CASE]...")
@click.option("--form", default="low-rank{ratio=0.5}", show_default=True)
@click.option("--samples", default=48, show_default=True, help="To fit to; a quarter of them judges layer by layer.")
@click.option("--judged", default=16, show_default=True, help="Calibration inputs kept apart for the table.")
@click.option("--table", is_flag=True, help="Only write the results kept into RECOVER.md.")
def main(cases: tuple[str, ...], form: str, samples: int, judged: int, table: bool) -> None:
    """Measure the closed-form passes on public models."""
    for name in () if table else cases or zoo.NAMES:
        measure(name, form, samples, judged)
    found = {name: kept for name in zoo.NAMES if (kept := tables.kept("recover-gains", name))}
    header = ["case", "layers replaced", "inputs", "error", *(f"`{p}`" for p in PASSES)]
    text = tables.table(header, [row(name, kept) for name, kept in found.items()])
    click.echo(text)
    if table:
        tables.write("gains", text, PAGE)


if __name__ == "__main__":
    main()
