"""python -m benchmarks.torch_executor [CASE]...: does the torch executor run every public model, and agree?

Forward: one realistic sample against the reference runtime, by the table of tolerances for rounding. Gradients: in
float64, the derivative of a random projection of the outputs along a random direction of all weights, by backward and
by central differences. Nothing is trained.
"""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

import click

from benchmarks import tables, zoo
from lwgraph import ir, registry
from lwgraph.errors import ModelError
from lwgraph.measure.compare import compare
from lwgraph.rewrite import Contract

STEP = 1e-8  # of every weight tensor's root mean square: few ReLUs change sides within it


def derivatives(model: ir.Model, feeds: dict[str, Any]) -> tuple[float, float, int]:
    """By backward and by central differences, and how many weight tensors took part. Float64."""
    import torch

    from lwgraph.runtime.torch_ops import to_torch

    module = registry.executor("torch", precise=True).module(model)  # type: ignore[attr-defined]
    generator = torch.Generator().manual_seed(0)
    inputs = {n: to_torch(a) for n, a in feeds.items()}
    weights = [p for _, p in module.weights()]
    ways = [torch.randn(w.shape, generator=generator, dtype=torch.float64) for w in weights]
    ways = [d * w.detach().square().mean().sqrt() for d, w in zip(ways, weights, strict=True)]

    def project(outputs: dict[str, Any]) -> Any:
        draw = torch.Generator().manual_seed(1)
        floats = [v for v in outputs.values() if v.is_floating_point()]
        return sum((v * torch.randn(v.shape, generator=draw, dtype=v.dtype)).sum() for v in floats)

    loss = project(module(inputs))
    slopes = torch.autograd.grad(loss, weights, allow_unused=True)
    backward = sum(float((g * d).sum()) for g, d in zip(slopes, ways, strict=True) if g is not None)
    ends = []
    with torch.no_grad():
        for sign in (1, -2):
            for weight, way in zip(weights, ways, strict=True):
                weight.add_(way, alpha=sign * STEP)
            ends.append(float(project(module(inputs))))
    return backward, (ends[0] - ends[1]) / (2 * STEP), len(weights)


def measure(name: str) -> list[str]:
    """One row: operators, agreement forward, agreement of the derivative."""
    case = zoo.case(name)
    model, feeds = ir.load(case.model()), case.example()
    operators = Counter(node.op_type for node in model.graph)
    try:
        torch_run = registry.executor("torch").prepare(model)
        torch_run(feeds)
    except ModelError as error:
        return [name, str(len(operators)), str(error), "", "", "", ""]
    start = time.process_time()
    ours = torch_run(feeds)
    taken = time.process_time() - start
    found = compare(registry.executor("reference").prepare(model)(feeds), ours, Contract.ROUNDING)
    worst = found.worst
    assert worst is not None
    backward, differences, count = derivatives(model, feeds)
    return [
        name,
        str(len(operators)),
        "within" if found.ok else str(found.first_failure),
        f"{worst.relative:.1e}",
        f"{worst.excess:.3f}",
        f"{abs(backward / differences - 1):.1e} ({count})",
        f"{taken:.2f}",
    ]


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("cases", nargs=-1, type=click.Choice(zoo.NAMES), metavar="[CASE]...")
def main(cases: tuple[str, ...]) -> None:
    """Check the torch executor on public models."""
    rows = []
    for name in cases or zoo.NAMES:
        rows.append(measure(name))
        click.echo(" | ".join(rows[-1]))
    header = [
        "case",
        "operators",
        "tolerance",
        "largest difference over the scale",
        "share of what is allowed",
        "derivative, relative difference (weights)",
        "seconds",
    ]
    click.echo(tables.table(header, rows))


if __name__ == "__main__":
    main()
