"""The planner's figures: python -m benchmarks.planner versus|predict|table [CASE]...

`versus` races what `lwgraph optimize` made (python -m benchmarks optimize) against the int8 models of the peers that
lose at most a point (python -m benchmarks.quantize build, score). `predict` carries out random plans and compares what
was predicted of them, time and loss, with what is measured. Results are kept; `table` writes PLANNER.md from them.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
import numpy.typing as npt

from benchmarks import judge, mix, runtimes, tables, whole, zoo
from benchmarks.quantize import TOOLS, folder, record
from benchmarks.quantize_table import points
from benchmarks.zoo import Case
from lwgraph import ir, registry
from lwgraph.calibrate import Statistics
from lwgraph.calibrate.layer_shapes import layer_shapes
from lwgraph.calibrate.subsample import spread
from lwgraph.executor import Feeds
from lwgraph.measure.distance import Loss
from lwgraph.optimizer.target import MACS, ORT, TARGETS
from lwgraph.plan.carry_out import Samples
from lwgraph.plan.precision import FLOAT, INT8
from lwgraph.plan.price.oracle import Oracle
from lwgraph.plan.search import site_sensitivity
from lwgraph.plan.search.integers import weigh_integers
from lwgraph.plan.search.plan_search import HOPELESS, Search
from lwgraph.plan.search.planner import LATENCY, Planner, open_planner
from lwgraph.plan.search.solver import Knapsack
from lwgraph.rewrite import Context, Pipeline

PAGE = Path(__file__).resolve().parent / "PLANNER.md"
DENSE = ("fmnist_resnet14", "orinet", "arbez_yolox_s", "ffdnet_rgb", "ddddocr_common")
HERE = tuple(target for target in TARGETS if target != MACS)
SAMPLES = 16  # calibration samples of a prediction's loss
CASES = click.argument("cases", nargs=-1, type=click.Choice(zoo.NAMES), metavar="[CASE]...")


def ranks(values: Sequence[float]) -> npt.NDArray[np.float64]:
    """Ranks from 0; equal values share their mean rank."""
    array = np.asarray(values, np.float64)
    return np.array([((array < v).sum() + (array <= v).sum() - 1) / 2 for v in array])


def spearman(a: Sequence[float], b: Sequence[float]) -> float:
    """The rank correlation of two lists; nan where one does not vary."""
    x, y = ranks(a) - np.mean(ranks(a)), ranks(b) - np.mean(ranks(b))
    norm = math.sqrt(float(x @ x) * float(y @ y))
    return float(x @ y) / norm if norm else math.nan


def versus(case: Case, seconds: float) -> dict[str, Any]:
    """Our model, the float model and the peers' int8 models within the budget, raced in one run."""
    ours = whole.result(case.name)
    if not ours.exists():
        return {"error": "lwgraph optimize has not run"}
    kept = tables.kept("optimize", case.name)  # of the run that wrote the model
    if kept is None or kept["error"]:
        return {"error": "lwgraph optimize has not run"}
    lost = {"lwgraph": kept["points"]}
    models = {"float": case.model(), "lwgraph": ours}
    for tool in TOOLS:
        if tool.startswith("lwgraph"):
            continue
        found, path = points(case, record(case, tool)), folder(case) / f"{tool}.onnx"
        if found is not None and judge.within(found) and path.exists():
            models[tool], lost[tool] = path, found
    race = judge.race(case, models, seconds)
    speed = {name: race.speedup(name).ratio for name in models}
    return {"error": "", "float_ms": 1e3 * race.timing("float").median, "points": lost, "speedup": speed}


def planner_of(case: Case, target: str = ORT) -> tuple[Planner, Oracle, Loss]:
    """A planner as `optimize` makes it for a runtime here: weighed and anchored, on the case's calibration data."""
    executor = registry.executor(TARGETS[target], threads=judge.THREADS)
    feeds: list[Feeds] = list(case.calibration())
    fit, compare = feeds[: len(feeds) * 4 // 5], spread(feeds[len(feeds) * 4 // 5 :], SAMPLES)
    model = ir.load(case.model())
    context = Context(executor=executor, reference=registry.executor("reference"), data=fit)
    Pipeline.parse("default").run(model, context)
    context = context.beside(statistics=Statistics(model, fit, executor, 0))
    oracle = Oracle(executor)
    run_ms = oracle.whole({"clean": model}, fit[:1])[0]
    made = open_planner(
        model,
        context,
        oracle,
        shapes=layer_shapes(model, fit[0], executor),
        forms=("low-rank", "depthwise"),
        precisions=(FLOAT, INT8),
        samples=Samples.in_earnest(run_ms),
    )
    loss = Loss(executor.prepare(model), compare)
    made = made.weighed(site_sensitivity.measure(model, made.items, loss, executor))
    made, whole, _ = weigh_integers(made, loss, executor)
    made = made.anchored(run_ms, {INT8: oracle.against(model, run_ms, whole, fit[:1])})
    # The first plans of a search set what others are predicted to take.
    search = Search(made, loss, executor, timed=lambda m: oracle.against(model, run_ms, m, fit[:1], 0.6))
    search.first()
    made = search.planner
    return made, oracle, loss


def predict(case: Case, plans: int, seed: int = 0, target: str = ORT) -> dict[str, Any]:
    """Random plans near the front: the solver's, with random factors on the losses, at random budgets."""
    made, oracle, loss = planner_of(case, target)
    random = np.random.default_rng(seed)
    rows: dict[tuple[int, ...], dict[str, float]] = {}
    for _ in range(4 * plans):
        if len(rows) >= plans:
            break
        factors = list(np.exp(random.standard_normal(len(made.items))))
        front = [s for s in Knapsack(made.menus(factors)).front() if made.predicted_loss(s.choice) <= HOPELESS]
        choice = front[int(random.integers(len(front)))].choice
        if choice in rows:
            continue
        model = made.apply(made.chosen(choice), quick=True).model
        rows[choice] = {
            "predicted_ms": made.predicted(choice, LATENCY),
            "ms": oracle.against(made.model, made.whole_ms or 1.0, model, loss.feeds[:1], 1.0),
            "predicted_loss": made.predicted_loss(choice),
            "loss": loss(oracle.executor.prepare(model)),
        }
    found = list(rows.values())
    errors = [abs(row["predicted_ms"] / row["ms"] - 1) for row in found]
    return {
        "target": target,
        "plans": len(found),
        "spearman": spearman([row["predicted_loss"] for row in found], [row["loss"] for row in found]),
        "spearman_ms": spearman([row["predicted_ms"] for row in found], [row["ms"] for row in found]),
        "median_error": float(np.median(errors)),
        "worst_error": float(max(errors)),
        "rows": found,
    }


def _kept_as(name: str, target: str) -> str:
    return name if target == ORT else f"{name}-{target.replace(':', '-')}"


def versus_table() -> str:
    """Per case: ours and the best peer within the budget; then the geometric mean over the dense models."""
    rows, gains = [], []
    for name in zoo.NAMES:
        if (kept := tables.kept("planner-versus", name)) is None or kept["error"]:
            rows.append([name, *["not measured"] + [""] * 5])
            continue
        speed, lost = kept["speedup"], kept["points"]
        peers = {tool: value for tool, value in speed.items() if tool not in ("float", "lwgraph")}
        best = max(peers, key=lambda tool: peers[tool], default="")
        rival = peers.get(best, 1.0)
        kept_promise = judge.within(lost["lwgraph"])
        ratio = (speed["lwgraph"] if kept_promise else 1.0) / max(rival, 1.0)
        if name in DENSE:
            gains.append(ratio)
        rows.append(
            [
                name,
                f"{kept['float_ms']:.2f}",
                f"{lost['lwgraph']:.2f}",
                f"{speed['lwgraph']:.2f}",
                best or "none",
                f"{rival:.2f}" if best else "",
                f"{ratio:.2f}",
            ]
        )
    head = ["case", "float ms", "points lost", "speed-up", "best peer", "its speed-up", "ours / best"]
    mean = math.exp(float(np.mean(np.log(gains)))) if gains else math.nan
    said = f"Geometric mean over {len(gains)} dense models: {mean:.2f}." if gains else ""
    return f"{tables.conditions()}\n\n{tables.table(head, rows)}\n\n{said}"


def predict_table(targets: Sequence[str] = (ORT,)) -> str:
    """Per case and target: how good the predictions were."""
    rows = []
    for name, target in itertools.product(zoo.NAMES, targets):
        if (kept := tables.kept("planner-predict", _kept_as(name, target))) is not None:
            rows.append(
                [
                    name if target == ORT else f"{name} in {target}",
                    str(kept["plans"]),
                    f"{kept['spearman']:.2f}",
                    f"{kept['spearman_ms']:.2f}",
                    f"{100 * kept['median_error']:.0f} %",
                    f"{100 * kept['worst_error']:.0f} %",
                ]
            )
    head = ["case", "plans", "Spearman, loss", "Spearman, ms", "error of ms, median", "worst"]
    return tables.table(head, rows)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Measure the planner."""


@main.command("versus")
@CASES
@click.option("--seconds", default=judge.SECONDS, show_default=True, help="Of each race.")
def versus_all(cases: tuple[str, ...], seconds: float) -> None:
    """Race our models against the peers' int8 models."""
    for name in cases or zoo.NAMES:
        result = versus(zoo.case(name), seconds)
        tables.keep("planner-versus", name, result)
        click.echo(f"{name}: {result}")


@main.command("predict")
@CASES
@click.option("--plans", default=50, show_default=True, help="Random plans of each case.")
@click.option("--target", default=ORT, show_default=True, type=click.Choice(HERE))
def predict_all(cases: tuple[str, ...], plans: int, target: str) -> None:
    """Compare predictions with measurements."""
    for name in cases or zoo.NAMES:
        result = predict(zoo.case(name), plans, target=target)
        tables.keep("planner-predict", _kept_as(name, target), result)
        click.echo(f"{name}: { {key: value for key, value in result.items() if key != 'rows'} }")


@main.command("table")
def write_tables() -> None:
    """Write PLANNER.md, and in RUNTIMES.md the predictions for other runtimes, from what is kept."""
    tables.write("versus", versus_table(), PAGE)
    tables.write("predict", predict_table(), PAGE)
    tables.write("mix", mix.table(), PAGE)
    tables.write("predict", f"{tables.conditions()}\n\n{predict_table(HERE[1:])}", runtimes.PAGE)


if __name__ == "__main__":
    main()
