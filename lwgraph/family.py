"""A family: several models of one run along its front, whose common weights are stored once."""

from __future__ import annotations

import json
import math
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

    from lwgraph.optimizer.front import FrontRow

    _Read = tuple[FrontRow, ir.Model]  # a plan of the front, with its model

MANIFEST, WEIGHTS = "family.json", "weights.bin"
VERSION = 1
SECONDS = 3.0  # of timing all plans, about
APART = 0.98  # of the time of a plan that loses less, a member takes at most; nearer ones are told apart by chance
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
        members: how many models, spread from the plan that was delivered to the one that loses least, each slower than
            the last by the same factor as nearly as the front has it (faster plans count where these are too few); or
            milliseconds: for each the plan that loses least of those that are as fast on this machine.
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
    plans = [front.read(source, number) for number in front.numbers(source)]
    times = _milliseconds({str(row.number): made for row, made in plans}, executor, threads, SECONDS)
    plans = _spread(plans, times, members) if isinstance(members, int) else _within(plans, times, members)
    feeds = list(generate(source, 1, 0, executor=executor))
    for row, made in plans:
        front.prove(source, row.number, made, executor, reference, feeds)
    names = _NAMES.get(len(plans)) or tuple(str(place) for place in range(1, len(plans) + 1))
    found = [
        Member(name, f"{name}.onnx", row.number, row.drop, times[str(row.number)], ir.size(made), row.verdict)
        for name, (row, made) in zip(names, plans, strict=True)
    ]
    try:
        folder.mkdir()
    except FileExistsError:
        raise UsageError(f"'{folder}' exists; name a new folder for the family") from None
    except OSError as error:
        raise ModelError(f"'{folder}' cannot be written: {error.strerror}") from None
    models = {folder / member.file: made for member, (_, made) in zip(found, plans, strict=True)}
    ir.save_together(models, folder / WEIGHTS)
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


def _spread(plans: Sequence[_Read], times: dict[str, float], count: int) -> list[_Read]:
    """So many plans, from the one that was delivered on; faster ones, which lose more, where these are too few.

    Their times grow by one factor, as nearly as there are plans for it: by their places on the front alone, two members
    could be as good as the same model.
    """
    usable = _apart(_usable(plans), times)
    count = min(count, len(usable))
    delivered = next((at for at, (row, _) in enumerate(usable) if row.chosen), 0)
    usable = usable[min(delivered, len(usable) - count) :]
    logs = [math.log(times[str(row.number)]) for row, _ in usable]
    taken = [0]
    for place in range(1, count):
        wanted = logs[0] + (logs[-1] - logs[0]) * place / (count - 1)
        left = range(taken[-1] + 1, len(usable) - (count - 1 - place))  # so that each of the others finds one, too
        taken.append(min(left, key=lambda at: abs(logs[at] - wanted)))
    return [usable[at] for at in taken]


def _apart(plans: Sequence[_Read], times: dict[str, float]) -> list[_Read]:
    """The plans that are surely faster than all that lose less; the one that was delivered stays."""
    found: list[_Read] = []
    for each in reversed(plans):
        own = times[str(each[0].number)]
        if each[0].chosen or all(own < APART * times[str(other.number)] for other, _ in found):
            found.append(each)
    return found[::-1]


def _within(plans: Sequence[_Read], times: dict[str, float], most: Sequence[float]) -> list[_Read]:
    """For each time in milliseconds the plan that loses least of those that are as fast, the fastest first."""
    found: dict[int, _Read] = {}
    for limit in sorted(most):
        fast = [each for each in _usable(plans) if times[str(each[0].number)] <= limit]
        if not fast:
            raise UsageError(f"no plan runs in {limit:g} ms here; the fastest takes {min(times.values()):.3g} ms")
        best = min(fast, key=lambda each: (each[0].drop, each[0].number))
        found[best[0].number] = best
    return list(found.values())


def _usable(plans: Sequence[_Read]) -> list[_Read]:
    return [each for each in plans if each[0].verdict != "broken"] or list(plans)


def _milliseconds(models: dict[str, ir.Model], executor: Any, threads: int, seconds: float) -> dict[str, float]:
    first = next(iter(models.values()))
    feeds = list(generate(first, 1, 0, executor=executor))
    runs = {name: executor.prepare(each) for name, each in models.items()}
    timed = paired_latency(runs, feeds, threads=threads, seconds=seconds)
    return {name: 1e3 * timed.timing(name).minimum for name in models}


__all__ = ["Family", "Member", "load_family", "parse_members", "write_family"]
