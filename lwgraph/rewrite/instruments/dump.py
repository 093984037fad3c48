"""Writes the model as text after each pass that changed it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from lwgraph import ir
from lwgraph.rewrite.base import Context, Pass
from lwgraph.rewrite.instrument import Instrument, Step
from lwgraph.text import to_text


class Dump(Instrument):
    """Writes `000-input.txt`, then `NNN-pass.txt` after each pass that rewrote something, into a folder."""

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)

    def begin(self, model: ir.Model, pipeline: Iterable[Pass], context: Context) -> None:
        """Write the model as it is given."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._write(0, "input", model)

    def after(self, step: Step, model: ir.Model, context: Context) -> None:
        """Write the model when the pass changed it."""
        if step.count:
            self._write(step.index + 1, step.spec.name, model)

    def _write(self, number: int, name: str, model: ir.Model) -> None:
        (self.folder / f"{number:03d}-{name}.txt").write_text(to_text(model), "utf-8")
