"""lwgraph bench: times models against each other, interleaved."""

from __future__ import annotations

import click

from lwgraph.cli.common import (
    console,
    data_option,
    json_option,
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
    "--runs", type=click.IntRange(1), metavar="N", help="Number of rounds.  [default: until the ratios settle]"
)
@click.option(
    "--seconds",
    type=click.FloatRange(0, min_open=True),
    default=20.0,
    show_default=True,
    metavar="S",
    help="Time for the rounds, at most.",
)
@json_option
def command(
    models: tuple[str, ...],
    data: str | None,
    preprocess: str | None,
    shapes: tuple[str, ...],
    threads: int,
    runs: int | None,
    seconds: float,
    as_json: bool,
) -> None:
    """Time MODELs in turn in one process; speeds are relative to the first.

    A speed is the ratio of the fastest runs, with its 95 % interval. Rounds go on until that is narrow, for --seconds
    at most; where it stays wide, no speed is told.
    """
    from lwgraph import ir, registry
    from lwgraph.calibrate import generate, open_data
    from lwgraph.measure import paired_latency

    executor = registry.executor("ort", threads=threads)
    loaded = [ir.load(model) for model in models]
    feeds = list(
        generate(loaded[0], 2, shapes=parse_shapes(shapes), executor=executor)
        if data is None
        else open_data(data, loaded[0], preprocess=preprocess, limit=8)
    )
    names = [model if models.count(model) == 1 else f"{model} #{i}" for i, model in enumerate(models, 1)]
    runs_by_name = {name: executor.prepare(model) for name, model in zip(names, loaded, strict=True)}
    times = paired_latency(runs_by_name, feeds, threads=threads, rounds=runs, seconds=seconds)
    rows = []
    entries = []
    for name in names:
        timing, speed = times.timing(name), times.speedup(name)
        entries.append(
            {
                "model": name,
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
                f"{1e3 * timing.median:.3f}",
                f"{1e3 * timing.minimum:.3f}",
                speed.text,
                "" if name == names[0] else speed.span,
            ]
        )
    if as_json:
        print_json({"threads": threads, "rounds": times.rounds, "data": data or "generated", "models": entries})
        return
    out = console()
    out.print(table("", ["model", "median ms", "fastest ms", "speed", "95 % interval"], rows))
    source = "generated inputs" if data is None else data
    out.print(f"\n{times.rounds} rounds, {threads} thread{'s' * (threads > 1)}, {source}", markup=False)
