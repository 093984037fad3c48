"""A family: several models of one run along its front, whose common weights are stored once."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lwgraph import ir, registry
from lwgraph.calibrate import generate
from lwgraph.errors import DataError, ModelError, UsageError
from lwgraph.measure import paired_latency

if TYPE_CHECKING:
    import onnxruntime

MANIFEST, WEIGHTS = "family.json", "weights.bin"
VERSION = 1
SECONDS = 3.0  # of timing all members, about
_NAMES = {1: ("only",), 2: ("small", "large"), 3: ("small", "medium", "large")}


@dataclass(frozen=True)
class Member:
    """One model of a family.

    Attributes:
        name: "small", "medium", "large"; of other numbers "1", the fastest, and so on.
        file: in the family's folder.
        plan: its number in the table of the run.
        drop: what it was estimated to lose of the metric, in the metric's unit.
        milliseconds: of one run, on the machine and with the threads that the family was written with.
        bytes: that it takes alone.
        verdict: on the promise: "kept", "broken" or "not resolved".
    """

    name: str
    file: str
    plan: int
    drop: float
    milliseconds: float
    bytes: int
    verdict: str


class Family:
    """The models of a folder that `write_family` made, the fastest first; see `load_family`."""

    def __init__(self, folder: Path, members: Sequence[Member], threads: int) -> None:
        self.folder, self.members, self.threads = folder, tuple(members), threads

    def __repr__(self) -> str:
        rows = ", ".join(f"{m.name} {m.milliseconds:.3g} ms" for m in self.members)
        return f"Family({str(self.folder)!r}: {rows})"

    @cached_property
    def measured(self) -> dict[str, float]:
        """Milliseconds of one run of each member on this machine, by name; measured once, all in turns."""
        executor = registry.executor("ort", threads=self.threads)
        models = {member.name: ir.load(self.folder / member.file) for member in self.members}
        return _milliseconds(models, executor, self.threads, SECONDS)

    def within(self, milliseconds: float) -> onnxruntime.InferenceSession:
        """A session of the member that loses least of those that take at most so long for one run on this machine.

        Raises:
            UsageError: no member is as fast.
        """
        return self.session(self.choose(milliseconds).name)

    def choose(self, milliseconds: float) -> Member:
        """The member that `within` opens."""
        fast = [member for member in self.members if self.measured[member.name] <= milliseconds]
        if not fast:
            name = min(self.measured, key=lambda each: self.measured[each])
            raise UsageError(
                f"no member runs in {milliseconds:g} ms here; the fastest, '{name}', takes {self.measured[name]:.3g} ms"
            )
        return min(fast, key=lambda member: (member.drop, self.measured[member.name]))

    def session(self, name: str) -> onnxruntime.InferenceSession:
        """A session of one member. Raises UsageError for a name that is none."""
        import onnxruntime

        member = next((each for each in self.members if each.name == name), None)
        if member is None:
            raise UsageError(f"there is no member '{name}'; allowed: {', '.join(m.name for m in self.members)}")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = self.threads, 3
        return onnxruntime.InferenceSession(str(self.folder / member.file), options, providers=["CPUExecutionProvider"])


def load_family(folder: str | os.PathLike[str]) -> Family:
    """The family in a folder.

    Raises:
        UsageError: there is none.
        DataError: its manifest cannot be read.
    """
    path = Path(folder, MANIFEST)
    if not path.is_file():
        raise UsageError(f"'{folder}' holds no family: it has no {MANIFEST}; lwgraph optimize --family writes one")
    try:
        told = json.loads(path.read_text(encoding="utf8"))
        if told["lwgraph_family"] != VERSION:
            raise DataError(f"'{path}' is of version {told['lwgraph_family']}; this release reads {VERSION}")
        return Family(path.parent, [Member(**each) for each in told["members"]], int(told["threads"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"'{path}' cannot be read: {error}") from None


def write_family(
    model: ir.Source, folder: str | os.PathLike[str], members: int | Sequence[float] = 3, *, threads: int = 1
) -> Family:
    """Write models of the front that the last `optimize` of this model found, each proved anew.

    Args:
        model: the input of that run.
        folder: a new one, for the models, their weights and the manifest.
        members: how many models, spread evenly along the front from the plan that was delivered to the one that loses
            least (faster ones count where these are too few); or milliseconds: for each the plan
            that loses least of those that are as fast on this machine.
        threads: of the runtime.

    Returns:
        the family; of fewer members where the front has fewer plans, or where two latencies have the same plan.

    Raises:
        UsageError: there is no front of this model, no plan is as fast as stated, or the folder exists.
        CheckError: a model does not hold what is checked.
    """
    from lwgraph.optimizer import front

    source, folder = ir.load(model), Path(folder)
    executor, reference = registry.executor("ort", threads=threads), registry.executor("reference")
    feeds = list(generate(source, 1, 0, executor=executor))
    rows: list[front.FrontRow] = []
    models: list[ir.Model] = []
    for number in front.numbers(source):
        row, made = front.pick(source, number, executor, reference, feeds)
        rows.append(row)
        models.append(made)
    times = _milliseconds(
        {str(row.number): made for row, made in zip(rows, models, strict=True)}, executor, threads, SECONDS
    )
    chosen = _chosen(rows, times, members)
    names = _NAMES.get(len(chosen)) or tuple(str(place) for place in range(1, len(chosen) + 1))
    found = []
    for name, at in zip(names, chosen, strict=True):
        row = rows[at]
        ms = times[str(row.number)]
        found.append(Member(name, f"{name}.onnx", row.number, row.drop, ms, ir.size(models[at]), row.verdict))
    try:
        folder.mkdir()
    except FileExistsError:
        raise UsageError(f"'{folder}' exists; name a new folder for the family") from None
    except OSError as error:
        raise ModelError(f"'{folder}' cannot be written: {error.strerror}") from None
    ir.save_together({folder / m.file: models[at] for m, at in zip(found, chosen, strict=True)}, folder / WEIGHTS)
    told: dict[str, Any] = {"lwgraph_family": VERSION, "threads": threads, "members": [asdict(m) for m in found]}
    (folder / MANIFEST).write_text(json.dumps(told, indent=2) + "\n", encoding="utf8")
    return Family(folder, found, threads)


def parse_members(text: str) -> int | list[float]:
    """How many members, or their latencies: "3"; "2ms,5ms". Raises UsageError for anything else."""
    if re.fullmatch(r"[1-8]", text.strip()):
        return int(text)
    found = [re.fullmatch(r"\s*(\d+\.?\d*|\.\d+)\s*ms\s*", part) for part in text.split(",")]
    if not all(found):
        raise UsageError(f"--family is '{text}'; allowed: a number of models from 1 to 8, or latencies such as 2ms,5ms")
    return [float(each[1]) for each in found if each is not None]


def _chosen(rows: Sequence[Any], times: dict[str, float], members: int | Sequence[float]) -> list[int]:
    """Places of rows, the fastest first."""
    usable = [at for at, row in enumerate(rows) if row.verdict != "broken"] or list(range(len(rows)))
    if isinstance(members, int):
        count = min(members, len(usable))
        # From the plan that was delivered on; faster ones, which may lose more than was promised, where these are few.
        usable = usable[min(next((i for i, at in enumerate(usable) if rows[at].chosen), 0), len(usable) - count) :]
        if count == 1:
            return [usable[0]]
        return [usable[round(place * (len(usable) - 1) / (count - 1))] for place in range(count)]
    found: dict[int, None] = {}
    for most in sorted(members):
        fast = [at for at in usable if times[str(rows[at].number)] <= most]
        if not fast:
            least = min(times.values())
            raise UsageError(f"no plan runs in {most:g} ms here; the fastest takes {least:.3g} ms")
        found[min(fast, key=lambda at: (rows[at].drop, at))] = None
    return list(found)


def _milliseconds(models: dict[str, ir.Model], executor: Any, threads: int, seconds: float) -> dict[str, float]:
    first = next(iter(models.values()))
    feeds = list(generate(first, 1, 0, executor=executor))
    runs = {name: executor.prepare(each) for name, each in models.items()}
    timed = paired_latency(runs, feeds, threads=threads, seconds=seconds)
    return {name: 1e3 * timed.timing(name).minimum for name in models}


__all__ = ["Family", "Member", "load_family", "parse_members", "write_family"]
