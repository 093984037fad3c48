"""Encoders beside ONNX Runtime's own tools for them: dynamic and static integers, the transformers optimizer.

Rows are kept, with the build; a second call goes on where the first was stopped. All models of a case are timed in
turns, on one thread and one sample.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import click
import numpy as np

from benchmarks import judge, run, tables
from benchmarks.peers.run import Peer, write_feeds
from benchmarks.peers.run import run as run_peer
from benchmarks.zoo import Case, cache
from lwgraph import ir, registry
from lwgraph.calibrate import Statistics
from lwgraph.executor import Feeds
from lwgraph.passes.prune.channels import PruneChannels
from lwgraph.rewrite import Pipeline
from lwgraph.rewrite.base import Context

PAGE = Path(__file__).resolve().parent / "TRANSFORMERS.md"
OURS, ALONE = "lwgraph", "lwgraph, dynamic integers alone"


@dataclass(frozen=True)
class Encoder:
    """A case, what lwgraph is asked for in it, and what ONNX Runtime's optimizer calls its kind ("": none fits).

    Attributes:
        also: what it is asked for besides, by the name of the row.
    """

    name: str
    asked: tuple[str, ...]
    kind: str = ""
    also: tuple[tuple[str, tuple[str, ...]], ...] = ()

    def asking(self) -> dict[str, tuple[str, ...]]:
        """What lwgraph is asked for, by the names of its rows."""
        data = ("--data", f"benchmarks.zoo.{self.name}:calibration")
        promised = {OURS: self.asked, **dict(self.also)}
        alone = ("-p", "default,quantize{activations=dynamic}", "--unproven")
        return {**{name: (*data, *asked) for name, asked in promised.items()}, ALONE: alone}

    @property
    def case(self) -> Case:
        """The model with its data."""
        found: Case = import_module(f"benchmarks.zoo.{self.name}").CASE
        return found

    def unseen(self, most: int = 64) -> list[Feeds]:
        """Inputs that no fit saw; those for calibration where the case has no others."""
        given = getattr(import_module(f"benchmarks.zoo.{self.name}"), "evaluation", self.case.calibration)()
        if isinstance(given, list):
            return given[:most]
        return [{"image": image[None]} for image in given["image"][:most]]


_CLOSE = ("--metric", "benchmarks.zoo.minilm:closeness")
ENCODERS = (
    Encoder(
        "minilm",
        (*_CLOSE, "--max-drop", "0.018"),
        "bert",
        (("lwgraph, cosine 0.993", (*_CLOSE, "--max-drop", "0.007")),),
    ),
    Encoder("docstrings", ("--metric", "benchmarks.zoo.docstrings:metric", "--max-drop", "0.01"), "bert"),
    Encoder("ppocrv5_rec", ("--metric", "benchmarks.zoo.ppocrv5_rec:metric", "--max-drop", "0.01")),
    Encoder("vit_fmnist", ("--metric", "benchmarks.zoo.vit_fmnist:metric", "--max-drop", "0.01"), "vit"),
)


def peers(encoder: Encoder) -> list[Peer]:
    """ONNX Runtime's tools that there are for an encoder."""
    dynamic = {"fuse": "", "dynamic": True}
    found = [
        Peer("dynamic, per channel", "transform_ort.py", {**dynamic, "per_channel": True}),
        Peer("dynamic, per tensor", "transform_ort.py", {**dynamic, "per_channel": False}),
        Peer("static, per channel", "quantize_ort.py", {"per_channel": True}),
    ]
    if encoder.kind:
        fused = {"fuse": encoder.kind, "per_channel": True}
        found += [
            Peer("transformers optimizer", "transform_ort.py", {**fused, "dynamic": False}),
            Peer("the same, then dynamic", "transform_ort.py", {**fused, "dynamic": True}),
        ]
    return found


def cosine(encoder: Encoder, model: Path) -> float:
    """The mean cosine of the first output to the float model's."""
    executor = registry.executor("ort", threads=judge.THREADS)
    a, b = (executor.prepare(ir.load(path)) for path in (encoder.case.model(), model))
    found = []
    for feed in encoder.unseen():
        one, two = (np.asarray(next(iter(r(feed).values())), np.float64).reshape(-1) for r in (a, b))
        found.append(float(one @ two / max(np.linalg.norm(one) * np.linalg.norm(two), 1e-30)))
    return float(np.mean(found))


def make(encoder: Encoder, name: str, folder: Path) -> dict[str, Any]:
    """Let one tool make its model, and judge that: the row of it, without its speed."""
    case, out, started = encoder.case, folder / f"{name}.onnx", time.perf_counter()
    if (given := encoder.asking().get(name)) is not None:
        done = run.optimize(case.model(), [*given, "-o", str(out), "--overwrite"])
        row: dict[str, Any] = {"error": done.error, "commit": done.kept["commit"], "runs": done.kept["runs"]}
    else:
        (peer,) = (each for each in peers(encoder) if each.name == name)
        outcome = run_peer(peer, case.model(), folder / "feeds", out)
        row = {"error": outcome.error}
    row["seconds"] = time.perf_counter() - started
    if not row["error"]:
        row |= {
            "score": judge.score(case, out),
            "cosine": cosine(encoder, out),
            "size": judge.size(out) / judge.size(case.model()),
        }
    return row


def measure(encoder: Encoder, again: bool) -> dict[str, Any]:
    """All rows of one encoder: those that are missing are made; then all models are timed in turns."""
    case, kind = encoder.case, f"transformers/{encoder.name}"
    folder = cache.folder("results") / kind
    write_feeds(case.calibration(), folder / "feeds")
    rows: dict[str, Any] = {}
    for name in (*encoder.asking(), *(peer.name for peer in peers(encoder))):
        kept = None if again else tables.kept(kind, name)
        rows[name] = kept or make(encoder, name, folder)
        tables.keep(kind, name, rows[name])
        click.echo(f"{encoder.name}, {name}: {rows[name]}")
    models = {name: folder / f"{name}.onnx" for name, row in rows.items() if not row["error"]}
    latencies = judge.race(case, {"float": case.model(), **models})
    for name in models:
        rows[name]["speed"] = latencies.speedup(name).ratio
    return {"base": judge.score(case, case.model()), "rows": rows}


def feed_forward() -> dict[str, float]:
    """Half the feed-forward neurons of the sentence encoder: 1 - cosine, by magnitude and fitted in closed form."""
    encoder = ENCODERS[0]
    case = encoder.case
    model, executor = ir.load(case.model()), registry.executor("ort", threads=judge.THREADS)
    Pipeline.parse("default").rewrite(model)
    data: list[Feeds] = [*case.calibration()]
    given = Context(executor=executor, data=data, statistics=Statistics(model, data, executor))
    found = {}
    for name, more in {
        "magnitude": {"importance": "l2", "compensate": False},
        "closed form": {"refit": False},
    }.items():
        copy, out = ir.clone(model), cache.folder("results") / f"feed-forward, {name}.onnx"
        PruneChannels(widths="feed-forward=0.5", **more).run(copy, given)  # type: ignore[arg-type]
        ir.save(copy, out, overwrite=True)
        found[name] = 1 - cosine(encoder, out)
    return found


def report() -> str:
    """The tables of all encoders that were measured."""
    parts = [tables.conditions()]
    for encoder in ENCODERS:
        if (found := tables.kept("transformers", encoder.name)) is None:
            continue
        body = []
        for name, row in found["rows"].items():
            if row["error"]:
                body.append([name, row["error"][:60].replace("|", "/"), "", "", "", ""])
                continue
            cells = [f"{row['speed']:.2f}", f"{row['score']:.4f}", f"{row['cosine']:.4f}", f"{row['size']:.2f}"]
            body.append([name, *cells, f"{row['seconds']:.0f} s"])
        builds = ", ".join(sorted({row["commit"] for row in found["rows"].values() if "commit" in row}))
        case = encoder.case
        parts.append(
            f"**{encoder.name}**, {case.about}: {case.unit} {found['base']:.4f} in floats; build {builds}\n\n"
            + tables.table(["tool", "speed-up", case.unit, "cosine", "size", "time"], body)
        )
    return "\n\n".join(parts)


def main(names: Sequence[str], again: bool) -> None:
    """Measure the encoders, and write the page after each."""
    for encoder in ENCODERS:
        if not names or encoder.name in names:
            tables.keep("transformers", encoder.name, measure(encoder, again))
            tables.write("transformers", report(), PAGE)
    if not names or "minilm" in names:
        lost = tables.kept("transformers", "feed_forward")
        if lost is None or again:
            tables.keep("transformers", "feed_forward", lost := feed_forward())
        rows = [[name, f"{value:.4f}"] for name, value in lost.items()]
        tables.write("feed-forward", tables.table(["half the neurons go", "1 - cosine"], rows), PAGE)
