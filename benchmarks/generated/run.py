"""Many networks, each in a worker process that may die or hang; results are kept by build, and a run goes on."""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path

import click
import numpy as np
import onnx

from benchmarks import tables
from benchmarks.generated import checks
from benchmarks.generated.grow import NEWEST, OLDEST, PIECES, network
from benchmarks.generated.minimize import minimize
from benchmarks.zoo import cache
from lwgraph.tasks.worker import DeathError, HangError, Worker

PAGE = Path(__file__).resolve().parents[1] / "GENERATED.md"
TIMEOUT = 120.0  # seconds that one network may take
EVERY = 5  # of so many networks one goes through approximate passes, too
AT_ONCE = 10  # networks that the worker does before it answers


@dataclass
class Row:
    """What came of one network.

    Attributes:
        runs: whether ONNX Runtime loads it; otherwise it does not count.
        actions: name of each action that was done, and its rewrites.
        refused: name of an action, and the reason that lwgraph gave for not doing it.
        faults: action, kind and message.
        delicate: whether an output turned over already where inputs move by a rounding, so that it says nothing.
    """

    seed: int
    family: str = ""
    nodes: int = 0
    kinds: list[str] = field(default_factory=list)
    runs: bool = True
    actions: dict[str, int] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    faults: list[tuple[str, str, str]] = field(default_factory=list)
    delicate: bool = False


def do(seed: int, approximate: bool, pieces: int = PIECES) -> Row:
    """All checks of one network."""
    net = network(seed, pieces)
    row = Row(seed, net.family, len(net.proto.graph.node), sorted(net.kinds))
    case = checks.case_of(net)
    if case is None:
        row.runs = False
        return row
    for action in (*checks.EXACT, checks.DEFAULT, *(checks.actions_of(net) if approximate else ())):
        found = checks.check(case, action)
        row.actions[action] = found.rewrites
        row.delicate |= found.ill
        if found.refused:
            row.refused[action] = found.refused
        if found.fault is not None:
            row.faults.append((action, found.fault.kind, found.fault.message))
    return row


def do_all(seeds: list[int], every: int) -> list[Row]:
    """Several networks."""
    return [do(seed, seed % every == 0) for seed in seeds]


def reduce_to_file(seed: int, action: str, folder: str) -> str:
    """Make a failing network small and write it, with its feeds and what went wrong; the file's path."""
    case = checks.case_of(network(seed))
    assert case is not None
    small, message = minimize(case, action)
    path = Path(folder) / f"{seed}-{action.split('{')[0].replace(',', '-')}.onnx"
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(small.proto, path)
    arrays = {f"{i}/{name}": np.asarray(a) for i, feed in enumerate(small.feeds) for name, a in feed.items()}
    np.savez(path.with_suffix(".npz"), **arrays)
    command = f"python -m benchmarks generated --seed {seed} --count 1"
    path.with_suffix(".txt").write_text(
        f"{action}\n{message}\n\n{command}\n\n{onnx.printer.to_text(small.proto)}\n", "utf8"
    )
    return str(path)


def build() -> str:
    """The commit of the checkout, with a plus sign where something is not committed."""
    root = PAGE.parent

    def git(*words: str) -> str:
        done = subprocess.run(["git", *words], cwd=root, capture_output=True, text=True, check=False)
        return done.stdout.strip() if done.returncode == 0 else ""

    commit = git("rev-parse", "--short=9", "HEAD") or "unknown"
    return commit + ("+" if git("status", "--porcelain", "--untracked-files=no", "--", "../lwgraph") else "")


def main(minutes: float, first: int, count: int, every: int, page: bool) -> bool:
    """Run networks from `first` on; whether none has a fault. Those of this build that are kept are not run again."""
    name = build()
    path = cache.folder("results") / "generated" / f"{name}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    known = read(path)
    todo = [s for s in range(first, first + count) if s not in known or (s % every == 0 and len(known[s].actions) == 2)]
    worker, end = Worker(main=False), time.monotonic() + 60 * minutes
    with path.open("a", encoding="utf8") as out:
        for start in range(0, len(todo), AT_ONCE):
            if time.monotonic() > end:
                break
            for row in _rows(worker, todo[start : start + AT_ONCE], every):
                known[row.seed] = row
                out.write(json.dumps(asdict(row)) + "\n")
                out.flush()
                for action, kind, message in row.faults:
                    click.echo(f"seed {row.seed}: {action}: {kind}: {message}")
                    click.echo(f"    {_small(worker, row.seed, action)}")
    worker.close()
    rows = [row for seed, row in sorted(known.items()) if first <= seed < first + count]
    click.echo(summary(rows))
    if page:
        tables.write("generated", f"Build {name}.\n\n{summary(rows)}", PAGE)
    return not any(row.faults for row in rows)


def read(path: Path) -> dict[int, Row]:
    """Rows by seed; of two of one seed the later."""
    if not path.exists():
        return {}
    rows = [Row(**json.loads(line)) for line in path.read_text("utf8").splitlines()]
    return {row.seed: row for row in rows}


def _rows(worker: Worker, seeds: list[int], every: int) -> list[Row]:
    """What came of networks; where the process died or hung, one network after the other, to know of which."""
    try:
        return worker.call(do_all, seeds, every, timeout=TIMEOUT * len(seeds))
    except Exception as error:
        if len(seeds) > 1:
            return [row for seed in seeds for row in _rows(worker, [seed], every)]
        kind = "died" if isinstance(error, DeathError) else "hung" if isinstance(error, HangError) else "benchmark"
        return [Row(seeds[0], faults=[("all", kind, f"{type(error).__name__}: {error}")])]


def _small(worker: Worker, seed: int, action: str) -> str:
    folder = str(cache.folder("results") / "generated" / "failures")
    try:
        return f"made small: {worker.call(reduce_to_file, seed, action, folder, timeout=600)}"
    except Exception as error:
        return f"not made small: {type(error).__name__}: {error}"


def summary(rows: list[Row]) -> str:
    """Counts by family, by action and by fault, as Markdown."""
    counted = [row for row in rows if row.runs]
    approximate = [row for row in counted if len(row.actions) > 2]
    families: dict[str, list[Row]] = {}
    for row in counted:
        families.setdefault(row.family or "died", []).append(row)

    def line(name: str, of: list[Row]) -> list[str]:
        faults = Counter(kind for row in of for _, kind, _ in row.faults)
        wrong = faults["wrong"] + faults["invalid"]
        errors = faults["error"] + faults["undone"] + faults["died"] + faults["hung"]
        more = sum(len(row.actions) > 2 for row in of)
        nodes = sorted(row.nodes for row in of)
        return [
            name,
            *map(str, (len(of), nodes[len(nodes) // 2], more, wrong, errors, faults["unsettled"], faults["larger"])),
            str(sum(row.delicate for row in of)),
        ]

    header = [
        "family", "networks", "nodes", "approximate", "wrong", "errors", "not settled", "larger", "delicate",
    ]  # fmt: skip
    body = [line(name, of) for name, of in sorted(families.items())]
    text = tables.table(header, [*body, *([line("all", counted)] if counted else [])])
    reasons = Counter(_kind_of(reason) for row in approximate for reason in row.refused.values())
    done: Counter[str] = Counter(action for row in approximate for action in list(row.actions)[2:])
    did: Counter[str] = Counter(a for row in approximate for a, n in list(row.actions.items())[2:] if n)
    told = tables.table(
        ["pass", "networks", "changed"],
        [[f"`{action}`", str(n), str(did[action])] for action, n in sorted(done.items())],
    )
    parts = [
        f"Opsets {OLDEST} to {NEWEST}; {len(rows) - len(counted)} more that ONNX Runtime does not load.",
        text,
        told,
    ]
    if reasons:
        parts.append(tables.table(["refused because", "networks"], [[r, str(n)] for r, n in reasons.most_common()]))
    return "\n\n".join(parts)


def _kind_of(reason: str) -> str:
    """A reason without what it names."""
    return re.sub(r"\d+(\.\d+)?(e-?\d+)?", "N", re.sub(r"'[^']*'", "'...'", reason)).replace("|", "/")[:150]
