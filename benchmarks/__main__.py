"""python -m benchmarks COMMAND: fetches public models, scores them, runs lwgraph and its peers on them."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from benchmarks import zoo
from benchmarks.peers.run import PEERS
from benchmarks.strangers import STRANGERS
from benchmarks.transformers import ENCODERS
from benchmarks.zoo.fetch import FetchError
from lwgraph.errors import LwgraphError

CASES = click.argument("cases", nargs=-1, type=click.Choice(zoo.NAMES), metavar="[CASE]...")


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
def main() -> None:
    """Benchmarks on public models. Downloads go to LWGRAPH_ZOO_CACHE (default ~/.cache/lwgraph-zoo).

    Evaluation data are generated, unless LWGRAPH_ZOO_DATA names the folder of the frozen data.
    """


@main.command("list")
def list_cases() -> None:
    """List the cases."""
    for name in zoo.NAMES:
        case = zoo.case(name)
        click.echo(f"{name:20} {case.published:8.4f} {case.unit:9} {case.about}")


@main.command()
@CASES
def fetch(cases: tuple[str, ...]) -> None:
    """Bring the models (all, or the named ones) into the cache."""
    for name in cases or zoo.NAMES:
        path = zoo.case(name).model()
        click.echo(f"{name:20} {path.stat().st_size / 1e6:6.1f} MB  {path}")


@main.command()
@CASES
@click.option("--model", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Score this model instead.")
@click.option("--executor", default="ort", show_default=True, help="What runs the model.")
def score(cases: tuple[str, ...], model: Path | None, executor: str) -> None:
    """Score the float models, or another model of one case."""
    from lwgraph import ir, registry

    if model and len(cases) != 1:
        raise click.UsageError("--model needs exactly one CASE")
    for name in cases or zoo.NAMES:
        case = zoo.case(name)
        run = registry.executor(executor).prepare(ir.load(model or case.model()))
        click.echo(f"{name:20} {case.metric(run):8.4f} {case.unit}")


@main.command()
@CASES
@click.option("--points", default=1.0, show_default=True, help="The budget: 1 point is 0.01 of accuracy or 0.1 dB.")
@click.option("--option", "extra", multiple=True, help="One more argument for lwgraph optimize; repeatable.")
@click.option("--again", is_flag=True, help="Run anew what is kept.")
def optimize(cases: tuple[str, ...], points: float, extra: tuple[str, ...], again: bool) -> None:
    """Run lwgraph optimize with data and write its table."""
    from benchmarks import optimize as benchmark

    benchmark.main(cases, points, list(extra), again)


@main.command()
@CASES
def nodata(cases: tuple[str, ...]) -> None:
    """Run lwgraph optimize without data, check its outputs and write its table."""
    from benchmarks import optimize as benchmark

    if not benchmark.main_without_data(cases):
        raise click.ClickException("an output differs, is slower, or is larger: see the table")


@main.command()
@CASES
@click.option("--peer", "peers", multiple=True, type=click.Choice(list(PEERS)), help="Only this one; repeatable.")
@click.option("--again", is_flag=True, help="Measure anew what is kept.")
def versus(cases: tuple[str, ...], peers: tuple[str, ...], again: bool) -> None:
    """Run other tools on the cases and write their table. Installs some of them, which takes gigabytes."""
    from benchmarks import versus as benchmark

    benchmark.main(cases, peers or tuple(PEERS), again)


@main.command()
@CASES
@click.option("--budget", default="300s", show_default=True, help="For each target; any gets that of all together.")
@click.option("--again", is_flag=True, help="Time anew; models and scores are kept.")
def runtimes(cases: tuple[str, ...], budget: str, again: bool) -> None:
    """Run the cases and other tools' models in every runtime and precision, and write RUNTIMES.md."""
    from benchmarks import runtimes as benchmark

    if not benchmark.main(cases, budget, again):
        raise click.ClickException("a layer that a plan calls integer ran in floats: see RUNTIMES.md")


@main.command()
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option("--again", is_flag=True, help="Measure anew what is kept.")
def seconds(names: tuple[str, ...], again: bool) -> None:
    """Time lwgraph optimize in passes over the data and seconds, beside quantize_static, and write the tables.

    Names: the cases, resnet50_random, chain_75, chain_150, chain_300, demo.
    """
    from benchmarks import seconds as benchmark

    if unknown := [name for name in names if name not in benchmark.NAMES]:
        raise click.UsageError(f"no case is named '{unknown[0]}'; known: {', '.join(benchmark.NAMES)}")
    benchmark.main(names, again)


@main.command()
@CASES
@click.option("--again", is_flag=True, help="Measure anew what is kept.")
def codes(cases: tuple[str, ...], again: bool) -> None:
    """Store weights as codes on the cases: points, bytes, loading and running time, into QUANTIZE.md."""
    from benchmarks import codes as benchmark

    benchmark.main(cases, again)


@main.command()
@CASES
@click.option("--again", is_flag=True, help="Measure anew what is kept.")
def small(cases: tuple[str, ...], again: bool) -> None:
    """Make the cases as small as one point allows, by --preset small and by other tools, into QUANTIZE.md."""
    from benchmarks import small as benchmark

    benchmark.main(cases, again)


@main.command()
@click.argument("names", nargs=-1, metavar="[CASE]...")
@click.option("--budget", default="90s", show_default=True, help="Of each run.")
@click.option("--again", is_flag=True, help="Run anew what is kept.")
def family(names: tuple[str, ...], budget: str, again: bool) -> None:
    """Write families of three, and race each member with a run made for it alone at the same points: FAMILY.md."""
    from benchmarks import family as benchmark

    if unknown := [name for name in names if name not in benchmark.NAMES]:
        raise click.UsageError(f"no case is named '{unknown[0]}'; known: {', '.join(benchmark.NAMES)}")
    benchmark.main(names, budget, again)


@main.command()
@CASES
@click.option("--again", is_flag=True, help="Measure anew what is kept.")
def races(cases: tuple[str, ...], again: bool) -> None:
    """Choose plans with racing and with full judging, over ten seeds, and compare their speeds. Takes hours."""
    from benchmarks import lost_races as benchmark

    if not benchmark.main(cases, again):
        raise click.ClickException("a plan that was chosen with racing is slower: see the table in RUN.md")


@main.command()
@click.argument("sets", nargs=-1, metavar="[SET]...")
@click.option("--runs", is_flag=True, help="Whole runs of fmnist_resnet14 on 32, 200 and 2,000 samples instead.")
@click.option("--budget", default="60s", show_default=True, help="With --runs: of each of the four.")
def promise(sets: tuple[str, ...], runs: bool, budget: str) -> None:
    """Repeat choosing and judging on random splits and write how often verdicts are right."""
    from benchmarks import promise as benchmark
    from benchmarks import promise_runs

    if not runs:
        benchmark.main(sets)
    elif not promise_runs.main(budget):
        raise click.ClickException("a verdict is wrong: see the table in PROMISE.md")


@main.command()
@click.option("--minutes", default=10.0, show_default=True, help="End after so many.")
@click.option("--seed", "first", default=0, show_default=True, help="The first network.")
@click.option("--count", default=10_000, show_default=True, help="How many networks.")
@click.option("--every", default=5, show_default=True, help="One of so many goes through approximate passes, too.")
@click.option("--page", is_flag=True, help="Write the counts into GENERATED.md.")
def generated(minutes: float, first: int, count: int, every: int, page: bool) -> None:
    """Make networks at random and hold every pass to what it promises on them; goes on where it ended."""
    from benchmarks.generated import run as benchmark

    if not benchmark.main(minutes, first, count, every, page):
        raise click.ClickException("a network has a fault: see above")


@main.command()
@click.option("--minutes", default=60.0, show_default=True, help="End after so many.")
def backend(minutes: float) -> None:
    """Run onnx's backend tests in ONNX Runtime before and after the passes that keep the outputs."""
    from benchmarks import backend_optimize as benchmark

    if benchmark.main(minutes):
        raise click.ClickException("a test differs: see above")


@main.command()
@click.option("--count", default=200, show_default=True, help="How many wrong rewrites, under each contract.")
@click.option("--page", is_flag=True, help="Write the counts into MUTATIONS.md.")
def mutations(count: int, page: bool) -> None:
    """Rewrite networks wrongly on purpose and count what the checks catch; goes on where it ended."""
    from benchmarks.mutations import run as benchmark

    if not benchmark.main(count, page):
        raise click.ClickException("less than 99 % were caught: see above")


@main.command()
@click.argument("models", nargs=-1, metavar="[MODEL]...")
@click.option("--again", is_flag=True, help="Measure anew what is kept.")
def floors(models: tuple[str, ...], again: bool) -> None:
    """Measure what the default floors of likeness cost in the tasks that models are for, and write the table."""
    from benchmarks import floors as benchmark

    for name in models:
        if name not in benchmark.SUBJECTS:
            raise click.UsageError(f"no model is named '{name}'; known: {', '.join(benchmark.SUBJECTS)}")
    benchmark.main(models, again)


@main.command()
def busy() -> None:
    """Time a pair on a quiet machine, then twenty times beside other work, and write what was told. About 4 minutes."""
    from benchmarks import busy as benchmark

    if not benchmark.main():
        raise click.ClickException("a speed was told that is wrong: see the table in PROMISE.md")


@main.command()
@CASES
@click.option("--budget", default="60s", show_default=True, help="For each run of lwgraph optimize.")
@click.option("--again", is_flag=True, help="Measure anew what is kept.")
def claims(cases: tuple[str, ...], budget: str, again: bool) -> None:
    """Optimize the cases, and measure what the reports claim again, in a process without lwgraph."""
    from benchmarks import claims_table as benchmark

    if not benchmark.main(cases, budget, again):
        raise click.ClickException("a claim does not hold: see the table in PROMISE.md")


@main.command()
@click.argument("models", nargs=-1, type=click.Choice(sorted(STRANGERS)), metavar="[MODEL]...")
@click.option("--budget", default="60s", show_default=True, help="For each run with data.")
@click.option("--again", is_flag=True, help="Run anew what is kept.")
def strangers(models: tuple[str, ...], budget: str, again: bool) -> None:
    """Optimize models of public packages without and with data, and check the results in a process without lwgraph."""
    from benchmarks.strangers import run as benchmark

    if not benchmark.main(models, budget, again):
        raise click.ClickException("a result is worse than its input: see STRANGERS.md")


@main.command()
@click.argument("encoders", nargs=-1, type=click.Choice([each.name for each in ENCODERS]), metavar="[ENCODER]...")
@click.option("--again", is_flag=True, help="Make anew what is kept.")
def transformers(encoders: tuple[str, ...], again: bool) -> None:
    """Optimize encoders, let ONNX Runtime's own tools do the same, and write TRANSFORMERS.md."""
    from benchmarks import transformers as benchmark

    benchmark.main(encoders, again)


@main.command()
@click.argument("report", required=False, type=click.Path(exists=True, dir_okay=False, path_type=Path))
def picture(report: Path | None) -> None:
    """Draw the picture of README.md from a report.json, or anew from what is kept of the last one."""
    from benchmarks import picture as benchmark

    benchmark.main(report)


if __name__ == "__main__":
    try:
        main()
    except (FetchError, LwgraphError) as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(1)
