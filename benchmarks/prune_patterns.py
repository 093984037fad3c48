"""`python -m benchmarks.prune_patterns`: every pattern of tests/passes/prune/networks.py halved; writes PRUNE.md.

Each group that can loses half of its channels; onnxsim and Torch-Pruning (through onnx2torch) are told a half, on the
same files. What counts is the share of the parameters that is kept, after the default passes on both sides (a peer's
exporter may fold batch normalization, which must not count as pruning), and whether the model runs.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnx

from benchmarks import tables
from benchmarks.peers.run import Peer, run, write_feeds
from benchmarks.prune import PAGE, TORCH, reason
from lwgraph import ir, registry
from lwgraph.errors import LwgraphError
from lwgraph.passes.prune.remove_channels import remove_channels
from lwgraph.rewrite import Context, Pipeline
from lwgraph.views.coupling import couple_channels
from tests.passes.prune import networks

NETWORKS = {**networks.PATTERNS, "resnet18": networks.resnet18}

PEERS = {
    "onnxsim": Peer("onnxsim", "prune_onnxsim.py", {"sparsity": 0.5}),
    "Torch-Pruning": Peer("torch", "prune_torch.py", {"ratio": 0.5}, TORCH),
}


def parameters(model: ir.Model) -> int:
    """Numbers in the initializers that are floats, after the default passes."""
    copy = ir.clone(model)
    Pipeline.parse("default").run(copy, Context())
    arrays = (value.const_value for value in copy.graph.initializers.values())
    return sum(array.size for array in arrays if array is not None and array.numpy().dtype.kind == "f")


def ours(model: ir.Model) -> ir.Model:
    """Half of every group that may shrink."""
    copy = ir.clone(model)
    coupling = couple_channels(copy)
    remove_channels(copy, coupling, {group: np.arange(group.width // 2) for group in coupling.prunable})
    return copy


def measure(proto: onnx.ModelProto) -> dict[str, Any]:
    """The share of the parameters that each tool keeps, or why it has no model that runs."""
    rng = np.random.default_rng(0)
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        onnx.save(onnx.shape_inference.infer_shapes(proto), folder / "model.onnx")  # onnxsim needs outputs' shapes
        model = ir.load(folder / "model.onnx")
        shapes = {
            value.name or "": [size if isinstance(size, int) else 1 for size in value.shape or ()]
            for value in model.graph.inputs
        }
        feed = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
        write_feeds([feed], folder / "feeds")
        before = registry.executor("ort").prepare(model)(feed)
        for name in ("lwgraph", *PEERS):
            try:
                if name == "lwgraph":
                    pruned = ours(model)
                else:
                    outcome = run(PEERS[name], folder / "model.onnx", folder / "feeds", folder / "out.onnx")
                    if outcome.model is None:
                        raise LwgraphError(outcome.error)
                    pruned = ir.load(outcome.model)
                after = registry.executor("ort").prepare(pruned)(feed)
                if [a.shape for a in after.values()] != [b.shape for b in before.values()]:
                    raise LwgraphError("its outputs have other shapes")
                found[name] = parameters(pruned) / parameters(model)
            except LwgraphError as error:
                found[name] = reason(error)
    return found


@click.command()
@click.argument("names", nargs=-1, type=click.Choice(list(NETWORKS)))
def main(names: tuple[str, ...]) -> None:
    """Measure and write the table."""
    for name in names or NETWORKS:
        found = measure(NETWORKS[name]())
        tables.keep("prune-patterns", name, found)
        click.echo(f"{name} {found}")
    rows = []
    for name in NETWORKS:
        found = tables.kept("prune-patterns", name) or {}
        if found:
            rows.append(
                [
                    name.replace("_", " "),
                    *(f"{value:.3f}" if isinstance(value, float) else f"fails: {value}" for value in found.values()),
                ]
            )
    tables.write("patterns", tables.table(["pattern", "lwgraph", *PEERS], rows), PAGE)


if __name__ == "__main__":
    main()
