"""lwgraph bisect: finds the rewrite that breaks a model."""

from __future__ import annotations

import click

from lwgraph.cli.common import (
    Number,
    console,
    data_option,
    output_options,
    preprocess_option,
    print_json,
    threads_option,
)

SAMPLES = 4


@click.command()
@click.argument("model", metavar="MODEL")
@click.option(
    "-p", "--pipeline", required=True, metavar="PIPELINE", help="Passes to run, e.g. 'clean,fold-batch-norm'."
)
@data_option
@preprocess_option
@click.option("--metric", metavar="M", help="Judge by this metric instead of by equal outputs; needs --max-drop.")
@click.option(
    "--max-drop", type=Number(0), metavar="X", help="With --metric: a larger loss than this counts as broken."
)
@threads_option
@output_options
def command(
    model: str,
    pipeline: str,
    data: str | None,
    preprocess: str | None,
    metric: str | None,
    max_drop: float | None,
    threads: int,
    as_json: bool,
) -> int:
    """Find the first rewrite of PIPELINE after which MODEL is broken. Exit code 1 if there is one.

    A model is broken if it is structurally invalid, if the runtime refuses it, or if its outputs on --data (or on
    generated inputs) differ by more than the contracts of the passes allow; with --metric, if its loss is larger than
    --max-drop. The search takes about log2(rewrites) runs.
    """
    from lwgraph import ir, registry
    from lwgraph.calibrate import Statistics, generate, open_data
    from lwgraph.check import accept, verify
    from lwgraph.errors import LwgraphError, UsageError
    from lwgraph.executor import Feeds
    from lwgraph.measure import compare_runs
    from lwgraph.measure.variants import variants
    from lwgraph.optimizer.judge import Judge
    from lwgraph.rewrite import Context, Contract, Pipeline
    from lwgraph.rewrite.instruments import find_culprit

    if (metric is None) != (max_drop is None):
        raise UsageError("--metric and --max-drop go together: what is measured, and how much of it may be lost")
    original, passes = ir.load(model), Pipeline.parse(pipeline)
    accept(original)
    executor = registry.executor("ort", threads=threads, optimize=False)
    reader = None if data is None else open_data(data, original, preprocess=preprocess)
    feeds: list[Feeds] = list(generate(original, SAMPLES, executor=executor) if reader is None else reader)
    judge = None if metric is None else Judge(original, executor, reader, metric, max_drop, 0)
    contract = max((p.contract for p in passes), key=list(Contract).index, default=Contract.EXACT)
    run = executor.prepare(original)
    tried = feeds[:SAMPLES]
    if reader is None:
        tried += [each.feeds for each in variants(original, tried, run) if each.counts(contract)]

    def good(candidate: ir.Model) -> bool:
        try:
            verify(candidate)
            if judge is not None:
                return judge.score(candidate).value >= judge.floor
            return compare_runs(run, executor.prepare(candidate), tried, contract).ok
        except LwgraphError:
            return False

    def context() -> Context:
        statistics = None if reader is None else Statistics(original, feeds, executor)
        return Context(
            executor=executor,
            reference=registry.executor("reference"),
            statistics=statistics,
            probe=feeds,
            data=None if reader is None else feeds,
        )

    culprit = find_culprit(original, passes, good, context)
    if as_json:
        found = None if culprit is None else vars(culprit)
        print_json({"pipeline": str(passes), "contract": contract.name.lower(), "culprit": found})
    elif culprit is None:
        console().print(f"no rewrite breaks the model ({contract.value})", markup=False)
    else:
        console().print(f"{culprit}", markup=False)
    return 0 if culprit is None else 1
