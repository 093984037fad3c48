"""`python -m benchmarks.prune [CASE]...`: pruning at equal work, one shot, without labels or training; writes PRUNE.md.

Every model loses 30 % of its multiply-accumulates: by prune-channels; by the same widths without any compensation; by
onnxsim's structured pruning; by Torch-Pruning on the model converted with onnx2torch. Models and results are kept in
the cache, so that a run that was stopped goes on where it was; `--anew` measures again, `--tool` a single tool.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import onnx

from benchmarks import tables, zoo
from benchmarks.peers.run import Peer, run, write_feeds
from benchmarks.zoo import Case, cache
from lwgraph import ir, registry
from lwgraph.calibrate import Statistics
from lwgraph.calibrate.layer_shapes import layer_shapes
from lwgraph.check import verify
from lwgraph.errors import LwgraphError
from lwgraph.executor import Feeds
from lwgraph.measure.work import count
from lwgraph.passes.prune.channels import PruneChannels
from lwgraph.rewrite import Pipeline
from lwgraph.rewrite.base import Context
from lwgraph.views.coupling import couple_channels

PAGE = Path(__file__).resolve().parent / "PRUNE.md"
RATIO, STEPS = 0.3, 5
SAMPLES = {"arbez_yolox_s": 2}  # on which a group's effect is measured, where the default takes too long
TORCH = ("torch==2.13.0", "onnx2torch==1.5.15", "torch-pruning==1.6.1")


def work(case: Case, model: ir.Model) -> float:
    """Multiply-accumulates on the case's example."""
    executor = registry.executor("ort", threads=1)
    return float(count(model, layer_shapes(model, case.example(), executor)).macs or 0)


def score(case: Case, model: ir.Model) -> float:
    """The case's metric on its evaluation set."""
    return case.metric(registry.executor("ort", threads=1).prepare(model))


def loaded(case: Case) -> tuple[ir.Model, Context]:
    """The cleaned model, and a context with the case's calibration samples."""
    model, executor = ir.load(case.model()), registry.executor("ort", threads=1)
    Pipeline.parse("default").run(model, Context())
    data: list[Feeds] = [*case.calibration()]
    return model, Context(executor=executor, data=data, statistics=Statistics(model, data, executor))


def folder_of(case: Case) -> Path:
    """Where the models that a case's tools made are kept."""
    return cache.folder(f"results/prune/{case.name}")


OURS = "prune-channels", "the same widths, no compensation"


def ours(case: Case) -> dict[str, ir.Model]:
    """prune-channels, and the same widths by the same ranking without compensation."""
    paths = [folder_of(case) / name for name in ("compensated.onnx", "bare.onnx")]
    if all(path.exists() for path in paths):
        return {name: ir.load(path) for name, path in zip(OURS, paths, strict=True)}
    model, context = loaded(case)
    pruned = ir.clone(model)
    given = {"sensitivity": SAMPLES[case.name]} if case.name in SAMPLES else {}
    PruneChannels(ratio=RATIO, **given).run(pruned, context)
    left = {group.name: group.width for group in couple_channels(pruned).groups}
    kept = {
        group.name: left[group.name]
        for group in couple_channels(model).prunable
        if left.get(group.name, group.width) < group.width
    }
    bare = ir.clone(model)
    PruneChannels(compensate=False).apply(bare, kept, context)
    for path, made in zip(paths, (pruned, bare), strict=True):
        ir.save(made, path)
    return dict(zip(OURS, (pruned, bare), strict=True))


def onnxsim(case: Case) -> dict[str, ir.Model]:
    """onnxsim's pruning at the sparsity, found by bisection, that comes nearest to RATIO less work."""
    return {"onnxsim": _bisect(case, lambda amount: Peer("onnxsim", "prune_onnxsim.py", {"sparsity": amount}))}


def torch_pruning(case: Case) -> dict[str, ir.Model]:
    """Torch-Pruning, in the same way."""
    return {"Torch-Pruning": _bisect(case, lambda amount: Peer("torch", "prune_torch.py", {"ratio": amount}, TORCH))}


def _bisect(case: Case, peer: Callable[[float], Peer]) -> ir.Model:
    folder = folder_of(case)
    write_feeds([case.example()], folder / "feeds")
    total, low, high = work(case, loaded(case)[0]), 0.0, 0.9
    best: tuple[float, ir.Model] | None = None
    for _ in range(STEPS):
        amount = (low + high) / 2
        tool = peer(amount)
        path = folder / f"{tool.name}-{amount:.4f}.onnx"
        if not path.exists():
            with cache.replacing(path) as new:
                outcome = run(tool, case.model(), folder / "feeds", new)
                if outcome.model is None:
                    raise LwgraphError(outcome.error)
                onnx.checker.check_model(onnx.load(outcome.model))
        model = ir.load(path)
        share = work(case, model) / total
        if best is None or abs(share - (1 - RATIO)) < abs(best[0] - (1 - RATIO)):
            best = share, model
        low, high = (amount, high) if share > 1 - RATIO else (low, amount)
    assert best is not None
    return best[1]


TOOLS: dict[str, Callable[[Case], dict[str, ir.Model]]] = {
    "ours": ours,
    "onnxsim": onnxsim,
    "torch-pruning": torch_pruning,
}
LABELS = {"ours": OURS[0], "onnxsim": "onnxsim", "torch-pruning": "Torch-Pruning"}
MODELS = {"ours": "[cb]*.onnx", "onnxsim": "onnxsim-*.onnx", "torch-pruning": "torch-*.onnx"}


def reason(error: Exception | str) -> str:
    """An error in one line of a table."""
    text = " ".join(str(error).replace("|", "/").split())
    if found := re.search(r"Converter is not implemented .*operation_type='(\w+)'", text):
        return f"onnx2torch has no converter for {found[1]}"
    return re.sub(r"^ended with \d+: ", "", text)[:100]


def measure(case: Case, tool: str) -> dict[str, Any]:
    """What a tool makes of a case: the share of the work that is left, the score, seconds; or why it fails."""
    started = time.perf_counter()
    try:
        models = TOOLS[tool](case)
    except LwgraphError as error:
        return {LABELS[tool]: {"error": reason(error)}}
    seconds = time.perf_counter() - started
    total = work(case, loaded(case)[0])
    found: dict[str, Any] = {}
    for name, model in models.items():
        try:
            verify(model)
            found[name] = {"work": work(case, model) / total, "score": score(case, model), "seconds": seconds}
        except (LwgraphError, ValueError) as error:  # ValueError: its outputs have shapes that the metric cannot take
            found[name] = {"error": reason(error)}
    return found


def report() -> str:
    """The table from what is kept."""
    rows = []
    for name in zoo.NAMES:
        case, found = zoo.case(name), tables.kept("prune", name)
        if found is None:
            continue
        rows.append([name, "1.00", f"{found['base']:.4f} {case.unit}", ""])
        for tool in (*OURS, *list(LABELS.values())[1:]):
            record = found["tools"].get(tool)
            if record is None:
                continue
            if "error" in record:
                rows.append([tool, "fails", record["error"], ""])
            else:
                lost = case.points(found["base"], record["score"])
                rows.append([tool, f"{record['work']:.2f}", f"{record['score']:.4f}", f"{lost:.1f}"])
    return f"{tables.conditions()}\n\n" + tables.table(["model, tool", "work left", "score", "points lost"], rows)


@click.command()
@click.argument("cases", nargs=-1, type=click.Choice(zoo.NAMES))
@click.option("--tool", "tools", multiple=True, type=click.Choice(list(TOOLS)), help="Only this one; repeatable.")
@click.option("--anew", is_flag=True, help="Measure again what is kept.")
@click.option("--write-only", is_flag=True, help="Write the page from what is kept.")
def main(cases: tuple[str, ...], tools: tuple[str, ...], anew: bool, write_only: bool) -> None:
    """Measure and write the table."""
    for name in () if write_only else cases or zoo.NAMES:
        case = zoo.case(name)
        found = tables.kept("prune", name) or {"base": score(case, loaded(case)[0]), "tools": {}}
        for tool in tools or TOOLS:
            if anew:
                for path in folder_of(case).glob(MODELS[tool]):
                    path.unlink()
            elif LABELS[tool] in found["tools"]:
                continue
            made = measure(case, tool)
            found["tools"].update(made)
            tables.keep("prune", name, found)
            click.echo(f"{name} {made}")
    tables.write("prune", report(), PAGE)


if __name__ == "__main__":
    main()
