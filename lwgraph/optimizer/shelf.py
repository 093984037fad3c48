"""Models that were made, kept in the cache folder: a run that was stopped goes on where it was."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lwgraph import ir
from lwgraph.errors import LwgraphError
from lwgraph.executor import Feeds
from lwgraph.plan.plan import KEEP, Plan
from lwgraph.plan.search.kept import kept_path

FOLDER = "models-1"  # raise the number when models are made in another way
MOST_BYTES = 1 << 27  # of one model
MOST_TOTAL = 1 << 30  # of all, of all networks: those not used for longest go


class Shelf:
    """What was made of one network, by plan.

    Never fails: `warning` says why nothing is kept.

    Args:
        facts: texts that tell the network, and how models are made of it, from others.
        feeds: samples that models are fitted to.
    """

    def __init__(self, facts: Sequence[object], feeds: Sequence[Feeds]) -> None:
        self.folder, self.warning = kept_path(FOLDER, facts, feeds).with_suffix(""), ""

    def get(self, plan: Plan) -> tuple[ir.Model, dict[str, Any]] | None:
        """The model of a plan, and what was put beside it; None where it is not there."""
        path = self._path(plan)
        try:
            beside: dict[str, Any] = json.loads(path.with_suffix(".json").read_text("utf8"))
            model = ir.load(path)
            os.utime(path)
        except (OSError, ValueError, LwgraphError):  # not there, or cut off
            return None
        return model, beside

    def put(self, plan: Plan, model: ir.Model, beside: Mapping[str, Any]) -> None:
        """Keep a model, unless it is too large, and plain data beside it: the files appear by renaming."""
        if ir.size(model) > MOST_BYTES:
            return
        path = self._path(plan)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            _write(path.with_suffix(".json"), json.dumps(beside).encode())
            _write(path, ir.to_proto(model).SerializeToString(deterministic=True))
            self._tidy()
        except OSError as error:
            self.warning = f"models are not kept: '{path}' cannot be written ({error}); set LWGRAPH_CACHE"

    def _path(self, plan: Plan) -> Path:
        return self.folder / f"{hashlib.sha256(said(plan).encode()).hexdigest()[:32]}.onnx"

    def _tidy(self) -> None:
        known = []
        for path in self.folder.parent.glob("*/*.onnx"):
            try:
                facts = path.stat()
            except OSError:  # another process was tidying
                continue
            known.append((facts.st_mtime, facts.st_size, path))
        total = sum(size for _, size, _ in known)
        for _, size, path in sorted(known):
            if total <= MOST_TOTAL:
                return
            path.unlink(missing_ok=True)
            path.with_suffix(".json").unlink(missing_ok=True)
            total -= size


def said(plan: Plan) -> str:
    """What a plan says of the model that comes of it: not what was predicted."""
    return json.dumps(
        {
            "blocks": sorted(plan.blocks),
            "groups": {name: width.keep for name, width in plan.groups.items()},
            "sites": {name: choice.form for name, choice in plan.sites.items() if choice.form != KEEP},
            "passes": plan.precision.passes,
            "float": plan.precision.keep_float,
        },
        sort_keys=True,
    )


def _write(path: Path, data: bytes) -> None:
    beside = path.with_suffix(f"{path.suffix}.{os.getpid()}")
    beside.write_bytes(data)
    beside.replace(path)


__all__ = ["Shelf", "said"]
