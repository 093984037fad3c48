"""lwgraph bench: times models against each other, interleaved."""

from __future__ import annotations

import click

from lwgraph.cli.common import (
    Number,
    console,
    data_option,
    output_options,
    parse_shapes,
    preprocess_option,
    print_json,
    shape_option,
    table,
    threads_option,
)


@click.command()
@click.argument("models", metavar="MODEL...", nargs=-1, required=True)
@data_option
@preprocess_option
@shape_option
@threads_option
@click.option(
    "--runs",
    "runs_asked",
    type=click.IntRange(1),
    metavar="N",
    help="Number of rounds.  [default: until the ratios settle]",
)
@click.option(
    "--seconds",
    type=Number(0, min_open=True),
    default=20.0,
    show_default=True,
    metavar="S",
    help="Time for the rounds, at most.",
)
@click.option(
    "--target",
    default="ort-cpu",
    show_default=True,
    metavar="T",
    help="The runtime: ort-cpu, openvino:f32, openvino:bf16, openvino (all its precisions), or any (all there are).",
)
@output_options
def command(
    models: tuple[str, ...],
    data: str | None,
    preprocess: str | None,
    shapes: tuple[str, ...],
    threads: int,
    runs_asked: int | None,
    seconds: float,
    target: str,
    as_json: bool,
) -> None:
    """Time MODELs in turn in one process; speeds are relative to the first, in the first runtime.

    A speed is the ratio of the fastest runs, with its 95 % interval. Rounds go on until that is narrow, for --seconds
    at most; where it stays wide, no speed is told. With --target any, there is a row for each model in each runtime and
    precision; what a runtime cannot run is told, and the fastest row with the code that runs it.
    """
    from lwgraph import ir
    from lwgraph.calibrate import generate, open_data
    from lwgraph.errors import LwgraphError
    from lwgraph.executor import ToldAsCode, at_sizes_of, offered
    from lwgraph.measure import paired_latency
    from lwgraph.optimizer.target import executors_here

    executors = executors_here(target, threads)
    first = next(iter(executors.values()))
    loaded = [ir.load(model) for model in models]
    feeds = list(
        generate(loaded[0], 2, shapes=parse_shapes(shapes), executor=first)
        if data is None
        else open_data(data, loaded[0], preprocess=preprocess, limit=8)
    )
    names = [model if models.count(model) == 1 else f"{model} #{i}" for i, model in enumerate(models, 1)]
    runs, used, failed = {}, {}, {}
    for name, model in zip(names, loaded, strict=True):
        for place, executor in executors.items():
            key = (name, place)
            try:
                used[key] = at_sizes_of(executor, model, feeds) if data is not None or shapes else executor
                runs[key] = used[key].prepare(model)
                runs[key](feeds[0])
            except LwgraphError as error:
                if len(executors) == 1:
                    raise
                runs.pop(key, None)
                failed[key] = str(error)
    if not runs:
        raise LwgraphError(f"no runtime runs '{names[0]}': {next(iter(failed.values()))}")
    keyed = {str(key): run for key, run in runs.items()}
    times = paired_latency(keyed, feeds, threads=threads, rounds=runs_asked, seconds=seconds)
    rows, entries = [], []
    for key in runs:
        timing, speed = times.timing(str(key)), times.speedup(str(key))
        name, place = key
        entries.append(
            {
                "model": name,
                "target": place,
                "milliseconds": 1e3 * timing.median,
                "fastest": 1e3 * timing.minimum,
                "speed": speed.told,
                "interval": list(speed.interval),
                "settled": speed.settled,
                "load": speed.load,
            }
        )
        rows.append(
            [
                name,
                *([place] if len(executors) > 1 else []),
                f"{1e3 * timing.median:.3f}",
                f"{1e3 * timing.minimum:.3f}",
                speed.text,
                "" if key == next(iter(runs)) else speed.span,
            ]
        )
    best = min(runs, key=lambda key: times.timing(str(key)).minimum)
    told = offered(used[best], ToldAsCode)
    code = "" if told is None or len(executors) == 1 else told.code(models[names.index(best[0])])
    told_failed = [{"model": name, "target": place, "why": why} for (name, place), why in failed.items()]
    if as_json:
        facts = {"threads": threads, "rounds": times.rounds, "data": data or "generated"}
        beside = {"failed": told_failed, "best": {"model": best[0], "target": best[1], "code": code}}
        print_json({**facts, "models": entries, **(beside if len(executors) > 1 else {})})
        return
    out = console()
    columns = ["model", *(["runtime"] if len(executors) > 1 else []), "median ms", "fastest ms", "speed"]
    out.print(table("", [*columns, "95 % interval"], rows))
    source = "generated inputs" if data is None else data
    out.print(f"\n{times.rounds} rounds, {threads} thread{'s' * (threads > 1)}, {source}", markup=False)
    for entry in told_failed:
        out.print(f"{entry['model']} does not run in {entry['target']}: {entry['why']}", markup=False)
    if code:
        out.print(f"\nfastest: {best[0]} in {best[1]}\n{code}", markup=False, soft_wrap=True)
