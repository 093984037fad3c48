"""A measuring kit: the small models that prices come from, and a script that times them on another machine."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lwgraph import ir
from lwgraph.errors import UsageError
from lwgraph.executor import Executor, Feeds, Run
from lwgraph.plan.price import kit_script
from lwgraph.plan.price.oracle import Oracle
from lwgraph.plan.price.price_table import PriceCache
from lwgraph.plan.price.timed_model import OnFeeds, TimedModels

LENT_BYTES = 4096  # tensors from this size on are not in the kit: the script makes random ones
LENT = {
    ir.DataType.FLOAT,
    ir.DataType.DOUBLE,
    ir.DataType.FLOAT16,
    ir.DataType.INT8,
    ir.DataType.UINT8,
    ir.DataType.INT16,
    ir.DataType.UINT16,
    ir.DataType.INT32,
    ir.DataType.INT64,
}


@dataclass(frozen=True, eq=False)
class KitEntry:
    """Models that are timed together.

    Attributes:
        kind: see `lwgraph.plan.price.regress`.
        keys: what the prices that come of them are kept under, without the target.
        models: each with the shape and type of its input "x".
        what: for people.
    """

    kind: str
    keys: tuple[Any, ...]
    models: tuple[tuple[ir.Model, tuple[int, ...], str], ...]
    what: str


class Recorded:
    """A model that was to be run; runs only if it is called."""

    def __init__(self, model: ir.Model, outputs: Sequence[str] | None, executor: Executor) -> None:
        self.model, self._outputs, self._executor = model, outputs, executor
        self._run: Run | None = None

    def __call__(self, feeds: Feeds) -> dict[str, Any]:
        """Run it here; for what the making of the small models itself must know."""
        self._run = self._run or self._executor.prepare(self.model, self._outputs)
        return self._run(feeds)


class _Recording:
    """An executor that puts off preparing: most models of a kit never run here."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor

    def prepare(self, model: ir.Model, outputs: Sequence[str] | None = None) -> Run:
        return Recorded(model, outputs, self._executor)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._executor, name)


class Recorder(Oracle):
    """An oracle that writes down what it would measure. Its prices mean nothing."""

    def __init__(self, executor: Executor) -> None:
        super().__init__(_Recording(executor), PriceCache.in_memory())
        self.batches: list[KitEntry] = []

    def _carry_out(self, kind: str, keys: Sequence[str], runs: Sequence[Run], timed: TimedModels) -> None:
        models = []
        for run in runs:
            feeds = run.feeds if isinstance(run, OnFeeds) else timed.feeds
            recorded = run.run if isinstance(run, OnFeeds) else run
            assert isinstance(recorded, Recorded)
            x = np.asarray(feeds["x"])
            models.append((recorded.model, tuple(x.shape), x.dtype.name))
        plain = tuple(json.loads(key)[1:] for key in keys)
        self.batches.append(KitEntry(kind, plain, tuple(models), f"{timed.site.name} {kind}"))
        for key in keys:
            self.cache.put(key, 1.0, 0.5, 0)


def check_folder(folder: Path) -> None:
    """UsageError when a kit cannot be written to `folder`."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"--export '{folder}' exists and is not an empty folder; name another")


def write_kit(batches: Sequence[KitEntry], folder: Path) -> int:
    """Write `measure.py`, `manifest.json` and `models/` into `folder`, which must be new or empty.

    The models hold no large weights, which do not matter for time: the script makes random ones of the same shape.

    Returns:
        how many models there are.

    Raises:
        UsageError: the folder cannot be used.
    """
    check_folder(folder)
    try:
        models = folder / "models"
        models.mkdir(parents=True)
        entries = [_entry(batch, folder) for batch in batches]
        (folder / "manifest.json").write_text(
            json.dumps({"lwgraph_kit": kit_script.FORMAT, "batches": entries}, indent=1) + "\n", encoding="utf-8"
        )
        shutil.copyfile(kit_script.__file__, folder / "measure.py")
        return sum(1 for _ in models.iterdir())
    except OSError as error:
        raise UsageError(f"--export '{folder}' cannot be written: {error.strerror or error}") from None


def _entry(batch: KitEntry, folder: Path) -> dict[str, Any]:
    models = []
    for model, shape, dtype in batch.models:
        names = [str(value.name) for value in model.graph.outputs]
        proto, lent = ir.detached_proto(model, names, LENT_BYTES, LENT)
        data = proto.SerializeToString(deterministic=True)
        file = f"models/{hashlib.sha256(data).hexdigest()[:16]}.onnx"
        (folder / file).write_bytes(data)
        weights = [[name, array.dtype.name, list(array.shape)] for name, array in lent.items()]
        models.append({"file": file, "lent": weights, "shape": list(shape), "dtype": dtype})
    plain = {"kind": batch.kind, "keys": list(batch.keys), "what": batch.what, "models": models}
    identity = hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:16]
    return {"id": identity, **plain}


__all__ = ["KitEntry", "Recorded", "Recorder", "check_folder", "write_kit"]
