"""The mix against single families: python -m benchmarks.mix [CASE]...

A family at a uniform setting is one form at one relative size at every layer that can take it, or the same share of
the channels of every group, refitted to the original, or the whole network in 8-bit integers. Of each family the
fastest setting that loses at most a point is found by bisection on all evaluation data; then these and the model that
`lwgraph optimize` made (python -m benchmarks optimize) are raced in one run. Results are kept; `python -m
benchmarks.planner table` writes them into PLANNER.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from benchmarks import judge, tables, whole, zoo
from benchmarks.zoo import Case, cache
from lwgraph import ir, registry
from lwgraph.calibrate.statistics import Statistics
from lwgraph.calibrate.subsample import spread
from lwgraph.errors import LwgraphError
from lwgraph.executor import Feeds
from lwgraph.plan.refit.sequential import refit
from lwgraph.rewrite import Context, Pass, Pipeline

SAMPLES = 128  # of calibration, evenly spread
FAMILIES = {  # settings from the fastest to the most accurate
    "integers": ("quantize{keep=none}", "quantize"),
    "low-rank": tuple(f"low-rank{{ratio={r}}}" for r in (0.125, 0.25, 0.375, 0.5, 0.75, 1.0)),
    "channels": tuple(f"prune-channels{{ratio={r},scope=group}}" for r in (0.75, 0.65, 0.5, 0.4, 0.3, 0.2, 0.1)),
    "depthwise": tuple(f"depthwise{{terms={t}}}" for t in (1, 2, 3)),
}


class Single:
    """Carries out uniform settings on one case.

    Args:
        case: its model, calibration data and metric.
    """

    def __init__(self, case: Case) -> None:
        feeds: list[Feeds] = list(case.calibration())
        self.case, self.data = case, spread(feeds, SAMPLES)
        self.clean, self.executor = ir.load(case.model()), registry.executor("ort", threads=judge.THREADS)
        Pipeline.parse("default").run(self.clean, Context())
        self.base = judge.score(case, case.model())

    def make(self, setting: str) -> tuple[Path, float] | None:
        """The model's file and the points it loses; None where it cannot be made or run."""
        model = ir.clone(self.clean)
        context = Context(
            executor=self.executor,
            reference=registry.executor("reference"),
            statistics=Statistics(model, self.data, self.executor),
            data=self.data,
        )
        try:
            count = Pass.parse(setting).run(model, context)
            if count and not setting.startswith(("quantize", "prune")):  # these refit by themselves
                refit(self.clean, model, context)
            path = cache.folder("results") / "mix" / f"{self.case.name}.onnx"
            path.parent.mkdir(exist_ok=True)
            path = path.with_name(f"{self.case.name}-{setting.replace('{', '-').replace('}', '')}.onnx")
            ir.save(model, path, overwrite=True)
            return path, self.case.points(self.base, judge.score(self.case, path))
        except LwgraphError as error:
            click.echo(f"{self.case.name} {setting}: {error}")
            return None

    def best(self, settings: Sequence[str]) -> dict[str, Any] | None:
        """The fastest setting that loses at most judge.BUDGET, by bisection; None where none does."""
        low, high, found = 0, len(settings), None
        while low < high:
            middle = (low + high) // 2
            made = self.make(settings[middle])
            if made is not None and judge.within(made[1]):
                found, high = {"setting": settings[middle], "path": str(made[0]), "points": made[1]}, middle
            else:
                low = middle + 1
        return found


def mix(case: Case, seconds: float) -> dict[str, Any]:
    """Each family's best setting and ours, raced against the float model."""
    ours, single = whole.result(case.name), Single(case)
    if not ours.exists():
        return {"error": "lwgraph optimize has not run"}
    rows = {name: found for name, settings in FAMILIES.items() if (found := single.best(settings)) is not None}
    models = {"float": case.model(), "mix": ours, **{name: Path(row["path"]) for name, row in rows.items()}}
    race = judge.race(case, models, seconds)
    for name, row in rows.items():
        row["speedup"] = race.speedup(name).ratio
    return {
        "error": "",
        "points": case.points(single.base, judge.score(case, ours)),
        "speedup": race.speedup("mix").ratio,
        "families": rows,
    }


def table() -> str:
    """Per case: the mix, the best single family, and how each family did."""
    rows = []
    for name in zoo.NAMES:
        if (kept := tables.kept("planner-mix", name)) is None or kept["error"]:
            continue
        families = kept["families"]
        best = max(families, key=lambda f: families[f]["speedup"], default="")
        rival = max(families[best]["speedup"], 1.0) if best else 1.0
        told = "; ".join(f"`{r['setting']}` {r['points']:.2f} at {r['speedup']:.2f}" for r in families.values())
        missing = ", ".join(name for name in FAMILIES if name not in families)
        rows.append(
            [
                name,
                f"{kept['points']:.2f}",
                f"{kept['speedup']:.2f}",
                best or "float",
                f"{kept['speedup'] / rival:.2f}",
                told + (f"; none of {missing}" if missing else ""),
            ]
        )
    head = ["case", "points lost", "speed-up", "best family", "mix / best", "fastest setting of each: points, speed-up"]
    return tables.table(head, rows) if rows else "Not measured yet."


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("cases", nargs=-1, type=click.Choice(zoo.NAMES), metavar="[CASE]...")
@click.option("--seconds", default=judge.SECONDS, show_default=True, help="Of each race.")
def main(cases: tuple[str, ...], seconds: float) -> None:
    """Race the mix against single families."""
    for name in cases or zoo.NAMES:
        result = mix(zoo.case(name), seconds)
        tables.keep("planner-mix", name, result)
        click.echo(f"{name}: {result}")


if __name__ == "__main__":
    main()
