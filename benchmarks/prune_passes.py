"""`python -m benchmarks.prune_passes [CASE]... [--pass TEXT]`: every pruning pass on every model; writes PRUNE.md.

What counts: the pass changes something or says why not, and leaves a model that runs. The error is ||Y - Yhat||^2 /
||Y - mean Y||^2 at the outputs, on calibration samples that the pass does not get; three models are scored, too, with
all of their other calibration samples; elsewhere prune-channels neither measures at the outputs nor refits in the end.
Results are kept, so that a run that was stopped goes on where it was.
"""

from __future__ import annotations

import time
from typing import Any

import click

from benchmarks import tables, zoo
from benchmarks.prune import PAGE, loaded, reason, score, work
from benchmarks.zoo import Case
from lwgraph import registry
from lwgraph.calibrate import Statistics
from lwgraph.check import verify
from lwgraph.errors import LwgraphError
from lwgraph.plan.search.sensitivity import Reference
from lwgraph.rewrite import Context, Pass

SCORED = ("fmnist_resnet14", "orinet", "efficientnet_lite0")
PASSES = (
    "remove-dead-channels",
    "prune-blocks",
    "prune-weights",
    "prune-weights{pattern=2:4}",
    "prune-weights{pattern=block8}",
    "prune-channels{importance=taylor}",
    "prune-channels{importance=fold}",
)
FEW, HELD = 12, 4  # samples where nothing is scored, and samples kept apart
SHORT = ",sensitivity=0,refit=false}"  # of prune-channels where nothing is scored


def measure(case: Case, text: str) -> dict[str, Any]:
    """What a pass does to a case's model."""
    model, whole = loaded(case)
    total = work(case, model)
    feeds = list(whole.data or ())
    held, feeds = feeds[:HELD], feeds[HELD:] if case.name in SCORED else feeds[HELD : HELD + FEW]
    executor = registry.executor("ort", threads=1)
    context = Context(executor=executor, data=feeds, statistics=Statistics(model, feeds, executor))
    reference, started = Reference(model, held, executor), time.perf_counter()
    try:
        short = "importance" in text and case.name not in SCORED
        changed = Pass.parse(text.removesuffix("}") + SHORT if short else text).run(model, context)
        verify(model)
    except LwgraphError as error:
        return {"error": reason(error)}
    seconds = time.perf_counter() - started
    reasons = [each.reason for each in context.skipped if each.pass_name == text.split("{")[0]]
    return {
        "changed": changed,
        "error": "",
        "loss": reference.loss(model),
        "work": work(case, model) / total,
        "skipped": len(reasons),
        "reason": max(set(reasons), key=reasons.count) if reasons else "",
        "score": score(case, model) if case.name in SCORED else None,
        "seconds": seconds,
    }


def report() -> str:
    """The table from what is kept."""
    rows: list[list[str]] = []
    for text in PASSES:
        first = len(rows)
        for name in zoo.NAMES:
            found = (tables.kept("prune-passes", name) or {}).get(text)
            if found is None:
                continue
            label = [f"`{text}`" if len(rows) == first else "", name]
            if found["error"]:
                rows.append([*label, "fails: " + found["error"], "", "", ""])
                continue
            scored = "" if found["score"] is None else f"{found['score']:.4f}"
            changed = f"{found['changed']}"
            if found["reason"]:
                changed += f"; {found['skipped']} skipped, as: {reason(found['reason'])}"
            rows.append([*label, changed, f"{found['work']:.2f}", f"{found['loss']:.2g}", scored])
    return tables.table(["pass", "model", "changed", "work left", "error", "score"], rows)


@click.command()
@click.argument("cases", nargs=-1, type=click.Choice(zoo.NAMES))
@click.option("--pass", "passes", multiple=True, help="Only this one; repeatable.")
@click.option("--anew", is_flag=True, help="Measure again what is kept.")
@click.option("--write-only", is_flag=True, help="Write the page from what is kept.")
def main(cases: tuple[str, ...], passes: tuple[str, ...], anew: bool, write_only: bool) -> None:
    """Measure and write the table."""
    for name in () if write_only else cases or zoo.NAMES:
        for text in passes or PASSES:
            known = tables.kept("prune-passes", name) or {}
            if anew or text not in known:
                tables.keep("prune-passes", name, known | {text: measure(zoo.case(name), text)})
                click.echo(f"{name} {text} {(tables.kept('prune-passes', name) or {})[text]}")
    tables.write("passes", report(), PAGE)


if __name__ == "__main__":
    main()
