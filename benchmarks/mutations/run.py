"""Seeded wrong rewrites, each as a pass that claims to keep the outputs; how many of them are caught, and by what."""

from __future__ import annotations

import json
import random
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import ClassVar

import click
import numpy as np
import onnx
import onnxruntime

from benchmarks import tables
from benchmarks.generated.draft import Input
from benchmarks.generated.grow import Network, network, session
from benchmarks.generated.run import build
from benchmarks.mutations.edits import EDITS, Place
from benchmarks.zoo import cache
from lwgraph import demo, ir
from lwgraph.arrays import Array
from lwgraph.contract import Contract
from lwgraph.errors import DataError, LwgraphError
from lwgraph.executor import Feeds
from lwgraph.measure.compare import compare
from lwgraph.rewrite import Context, Pass, Pipeline
from lwgraph.rewrite.instruments.verify import Verify
from lwgraph.tasks.worker import DeathError, HangError, Worker

PAGE = Path(__file__).resolve().parents[1] / "MUTATIONS.md"
COUNT = 200
TRIES = 60  # networks that are looked at for one that can be made wrong in the wanted way
REAL = 10  # one of so many is of a real model
FIRST = 500_000  # the first network: those of `python -m benchmarks generated` are others
TIMEOUT = 240.0  # seconds for one of them
SCALES = (1.0, -0.1, 4.0, 100.0, 0.01)


@dataclass
class Row:
    """What came of one wrong rewrite.

    Attributes:
        kind: of the edit, a key of EDITS.
        model: what was edited.
        done: the edit in words.
        contract: what the pass claims.
        caught: by what, in words; "" where it was accepted.
        left: how many edits before it were left, since they changed nothing that any input shows.
    """

    seed: int
    kind: str
    model: str
    done: str
    contract: str
    caught: str
    left: int


def mutate(seed: int, contract: Contract = Contract.EXACT, first: int = FIRST) -> Row | None:
    """Make one wrong rewrite and have a pipeline check it; None where no network takes an edit of its kind or another.

    An edit counts where it changes an output, in ONNX Runtime itself, on an input that the network takes.
    """
    kinds, left = list(EDITS), 0
    kind = kinds[seed % len(kinds)]
    for number, net in enumerate(_networks(seed, first)):
        if number == TRIES // 2:  # rare: another kind does for it
            kind = kinds[(seed // len(kinds)) % (len(kinds) - 3)]
        proto = onnx.ModelProto()
        proto.CopyFrom(net.proto)
        words = EDITS[kind](Place(proto, net.inputs, random.Random(seed)))
        if not words:
            continue
        if not differs(net, proto, contract):
            left += 1
            continue
        try:
            caught = check(net.proto, proto, contract)
        except DataError:  # no input is generated for it: there is nothing to check with, and the user is told
            continue
        return Row(seed, kind, f"{net.family} {net.seed}", words, contract.value, caught, left)
    return None


def check(proto: onnx.ModelProto, wrong: onnx.ModelProto, contract: Contract) -> str:
    """What the checks say to a pass that makes `wrong` of a model; "" where they accept it."""

    class Wrong(Pass):
        """A pass that is wrong on purpose."""

        name: ClassVar[str] = "wrong"

        def run(self, model: ir.Model, context: Context) -> int:
            ir.replace_contents(model, ir.load(wrong))
            return 1

    Wrong.contract = contract
    model = ir.load(proto)
    try:
        Pipeline([Wrong()]).run(model, Context(), [Verify()])
    except DataError:
        raise
    except LwgraphError as error:
        return " ".join(str(error).split())
    return ""


def differs(net: Network, wrong: onnx.ModelProto, contract: Contract) -> bool:
    """Whether an output differs beyond the contract on some input that both models take."""
    try:
        before, after = session(net.proto, False), session(wrong, False)
    except Exception:  # what does not load is no rewrite
        return False
    for feeds in _feeds(net):
        results = []
        for each in (before, after):
            try:
                results.append(_run(each, feeds))
            except Exception:
                break
        if not results or any(_odd(value) for value in results[0].values()):
            continue
        if len(results) < 2 or not compare(*results, contract).ok:
            return True
    return False


def _run(each: onnxruntime.InferenceSession, feeds: Feeds) -> dict[str, Array]:
    names = [output.name for output in each.get_outputs()]
    return dict(zip(names, each.run(names, dict(feeds)), strict=True))


def _odd(value: Array) -> bool:
    return np.size(value) == 0 or (np.asarray(value).dtype.kind == "f" and not np.isfinite(value).all())


def _feeds(net: Network) -> Iterator[dict[str, Array]]:
    """Inputs of all sizes and scales; odd, even and larger sizes of every dynamic axis."""
    sizes = net.sizes()
    more = [dict.fromkeys(sizes[0], size) for size in (1, 2, 3, 33, 48)]
    for each in [*sizes, *more]:
        for number, scale in enumerate(SCALES):
            yield net.feeds(each, number, scale)
    wide = [Input(i.name, i.shape, i.dtype, *_range(i)) for i in net.inputs]
    if any(i.dtype not in ("float32", "bool") for i in net.inputs):
        yield from (Network(net.seed, net.proto, wide, net.family).feeds(sizes[0], k) for k in range(3))
    for dull in (0.0, 0.5):  # ties
        yield {n: np.full_like(a, dull) if a.dtype.kind == "f" else a for n, a in net.feeds(sizes[0], 0).items()}


def _range(given: Input) -> tuple[int, int]:
    """Integers over the whole type where the network says nothing of tables."""
    kind = np.dtype(given.dtype)
    if kind.kind not in "iu" or given.high != 7:
        return given.low, given.high
    limits = np.iinfo(kind)
    return max(int(limits.min), -(1 << 20)), min(int(limits.max), 1 << 20)


def _networks(seed: int, first: int) -> Iterator[Network]:
    if seed % REAL == REAL - 1:
        yield from real(seed)
    for number in range(TRIES):
        try:
            net = network(first + TRIES * seed + number)
        except Exception:  # the generator's own faults are found elsewhere
            continue
        if _runs(net):
            yield net


def _runs(net: Network) -> bool:
    try:
        for optimize in (True, False):
            _run(session(net.proto, optimize), net.feeds(net.sizes()[0], 0))
    except Exception:  # what ONNX Runtime does not run is no network
        return False
    return True


def real(seed: int) -> Iterator[Network]:
    """The demo's classifier, and a logistic regression that comes with ONNX Runtime."""
    folder = Path(onnxruntime.__file__).parent / "datasets"
    rows = [Network(seed, onnx.load(demo.MODEL), [Input("image", ("N", 1, 28, 28))], "fmnist_resnet14")]
    if (folder / "logreg_iris.onnx").is_file():
        proto = onnx.load(folder / "logreg_iris.onnx")
        rows.append(Network(seed, proto, [Input(proto.graph.input[0].name, (3, 2))], "logreg_iris"))
    for net in random.Random(seed).sample(rows, len(rows)):
        given = net.proto.graph.input[0]
        net.inputs = [Input(given.name, net.inputs[0].shape)]
        if _runs(net):
            yield net


def _tried(worker: Worker, seed: int, contract: Contract) -> Row | None:
    """One wrong rewrite, in a process that ONNX Runtime may take with it: other networks are taken then."""
    for again in range(4):
        try:
            return worker.call(mutate, seed, contract, FIRST * (1 + again), timeout=TIMEOUT)
        except (DeathError, HangError):
            continue
    return None


def main(count: int, page: bool) -> bool:
    """Try `count` wrong rewrites under both contracts; whether at least 99 % of each are caught. Those kept for this
    build are not tried again."""
    name = build()
    path = cache.folder("results") / "mutations" / f"{name}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = path.read_text("utf8").splitlines() if path.exists() else []
    rows = {(row.seed, row.contract): row for row in (Row(**json.loads(line)) for line in lines)}
    start, worker = time.monotonic(), Worker(main=False)
    with path.open("a", encoding="utf8") as out:
        for contract in (Contract.EXACT, Contract.ROUNDING):
            for seed in range(count):
                if (seed, contract.value) in rows:
                    continue
                row = _tried(worker, seed, contract)
                if row is None:
                    click.echo(f"seed {seed}, {contract.name}: no network takes '{list(EDITS)[seed % len(EDITS)]}'")
                    continue
                rows[seed, contract.value] = row
                out.write(json.dumps(asdict(row)) + "\n")
                out.flush()
                if not row.caught:
                    click.echo(f"seed {seed}, {contract.name}: accepted: {row.kind}: {row.done} ({row.model})")
    worker.close()
    found = [row for (seed, _), row in sorted(rows.items()) if seed < count]
    click.echo(f"{summary(found)}\n\n{time.monotonic() - start:.0f} s")
    if page:
        tables.write("mutations", f"Build {name}.\n\n{summary(found)}", PAGE)
    return all(_share(found, contract) >= 0.99 for contract in (Contract.EXACT, Contract.ROUNDING))


def _share(rows: list[Row], contract: Contract) -> float:
    mine = [row for row in rows if row.contract == contract.value]
    return sum(bool(row.caught) for row in mine) / max(len(mine), 1)


def summary(rows: list[Row]) -> str:
    """Counts by kind, as Markdown, and each rewrite that was accepted."""
    contracts = [Contract.EXACT, Contract.ROUNDING]
    body = []
    for kind in [*EDITS, "all"]:
        line = [kind]
        for contract in contracts:
            mine = [r for r in rows if r.contract == contract.value and kind in (r.kind, "all")]
            line += [str(len(mine)), str(sum(bool(row.caught) for row in mine))]
        body.append(line)
    text = tables.table(["wrong", "exact", "caught", "rounding", "caught"], body)
    ways = Counter(_way(row.caught) for row in rows if row.caught)
    told = tables.table(["caught by", "rewrites"], [[way, str(n)] for way, n in ways.most_common()])
    missed = [f"- seed {r.seed}, {r.contract}: {r.kind}: {r.done} ({r.model})" for r in rows if not r.caught]
    return "\n\n".join([text, told, "\n".join(["Accepted:", "", *missed]) if missed else "None was accepted."])


def _way(caught: str) -> str:
    """Which check it was."""
    if "broke its contract" in caught:
        varied = caught.rpartition("; on ")[2].split(";")[0] if "; on " in caught else ""
        return f"outputs on {varied}" if varied else "outputs on the generated inputs"
    for words, way in (
        ("cannot run", "the runtime refuses it"),
        ("interface", "the interface"),
        ("invalid model", "the verifier of structure and shapes"),
    ):
        if words in caught:
            return way
    return "another error"


__all__ = ["Row", "check", "main", "mutate", "summary"]
