"""Writes a folder that reproduces a failure."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import numpy as np

from lwgraph import ir
from lwgraph.errors import LwgraphError
from lwgraph.rewrite.base import Context, Pass
from lwgraph.rewrite.instrument import Instrument


class Reproducer(Instrument):
    """Writes into `folder`, on a failure: the model as it was before the pass, the pass, the feeds, and how to rerun.

    Copying the model before each pass costs its nodes, not its tensors.
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        self._before: ir.Model | None = None

    def before(self, p: Pass, model: ir.Model, context: Context) -> None:
        """Keep the model."""
        self._before = ir.clone(model)

    def failed(self, p: Pass, error: LwgraphError, context: Context) -> str:
        """Write the folder."""
        assert self._before is not None
        folder = self.folder / p.name
        folder.mkdir(parents=True, exist_ok=True)
        ir.save(self._before, folder / "model.onnx", overwrite=True)
        (folder / "pipeline.txt").write_text(f"{p}\n", "utf-8")
        data = context.feeds
        for index, feeds in enumerate(data):
            arrays: dict[str, Any] = {name: np.asarray(array) for name, array in feeds.items()}
            np.savez(folder / f"feeds_{index}.npz", **arrays)
        given = " --data feeds_0.npz" if data else ""
        (folder / "README.txt").write_text(
            f"{error}\n\nTo reproduce, in this folder:\n"
            f"    lwgraph optimize model.onnx -p {shlex.quote(str(p))}{given} -o after.onnx\n",
            "utf-8",
        )
        return f"to reproduce: '{folder}'"
