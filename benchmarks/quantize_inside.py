"""What int8 does inside: python -m benchmarks.quantize_inside bits|integers|calibration|memory [CASE]... | table.

bits: weights on a 4-bit grid, activations in float. integers: every integer tensor in two runtimes. calibration: the
ranges of all tensors, by ONNX Runtime's calibrators and by lwgraph's. memory: the peak when many samples calibrate.
Results are kept; `table` writes them into QUANTIZE.md.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import click
import numpy as np

from benchmarks import tables, zoo
from benchmarks.peers.run import Peer, run
from benchmarks.quantize import folder, simplified
from benchmarks.quantize_table import PAGE
from lwgraph import ir, registry
from lwgraph.calibrate.ranges import SAMPLES as SAMPLED
from lwgraph.calibrate.ranges import collect
from lwgraph.calibrate.subsample import spread
from lwgraph.passes.quantize.graph.shapes import infer
from lwgraph.passes.quantize.grids.observer import FEW
from lwgraph.rewrite import Context, Pipeline

METHODS = {"minmax": "MinMax", "entropy": "Entropy"}
DENSE = ("fmnist_resnet14", "orinet", "arbez_yolox_s", "ddddocr_common", "ffdnet_rgb")
SAMPLES = 48  # that choose 4-bit weights
Record = dict[str, Any]


def keep(case: str, what: str, found: Record) -> None:
    """Keep one result and print it."""
    tables.keep("quantize-inside", case, (tables.kept("quantize-inside", case) or {}) | {what: found})
    click.echo(f"{case} {what} {found}")


@click.group()
def main() -> None:
    """What int8 does inside."""


CASES = click.argument("cases", nargs=-1, type=click.Choice(zoo.NAMES))


@main.command()
@CASES
@click.option("--samples", default=SAMPLES, show_default=True)
@click.option("--rounding", "roundings", multiple=True, default=("block=0", "block=32"), show_default=True)
def bits(cases: tuple[str, ...], samples: int, roundings: tuple[str, ...]) -> None:
    """Points that a model loses with its weights on 4-bit grids: options of round-weights."""
    executor = registry.executor("ort", threads=1)
    for name in cases or DENSE:
        for rounding in roundings:
            case, model, started = zoo.case(name), ir.load(simplified(zoo.case(name))), time.process_time()
            context = Context(executor=executor, data=spread(case.calibration(), samples), threads=1)
            Pipeline.parse(f"default,round-weights{{bits=4,{rounding}}}").run(model, context)
            seconds = time.process_time() - started
            lost = case.points(case.published, case.metric(executor.prepare(model)))
            keep(
                name,
                f"bits {rounding}",
                {
                    "samples": len(context.data or ()),
                    "lost": lost,
                    "seconds": seconds,
                    "doubts": len([w for w in context.warnings if "samples for" in w]),
                },
            )


@main.command()
@CASES
@click.option("--samples", default=1, show_default=True)
def integers(cases: tuple[str, ...], samples: int) -> None:
    """Every integer tensor of the kept quantized models: ONNX Runtime against the reference runtime.

    What float layers make integers of may differ by a step at ties; behind them both go on from ONNX Runtime's.
    """
    for name in cases or zoo.NAMES:
        case = zoo.case(name)
        model = ir.load(folder(case) / "lwgraph_int8.onnx")
        names = [str(node.outputs[0].name) for node in model.graph if node.op_type == "QuantizeLinear"]
        ort = registry.executor("ort", threads=1)
        whole, made = ort.prepare(model, names), _made_of_floats(model)
        given = _given(model, made)
        runs = [ort.prepare(model, names), registry.executor("reference", qdq="integer").prepare(model, names)]
        shares, steps = dict.fromkeys(names, 0.0), dict.fromkeys(names, 0)
        for feed in [case.example(), *case.calibration()][:samples]:
            known = whole(feed)
            ours, theirs = (run({**feed, **{given[key]: known[key] for key in made}}) for run in runs)
            for key in names:
                gap = np.abs(ours[key].astype(np.int64) - theirs[key].astype(np.int64))
                shares[key] = max(shares[key], float((gap > 0).mean()))
                steps[key] = max(steps[key], int(gap.max(initial=0)))
        keep(
            name,
            "integers",
            {
                "tensors": len(names),
                "differ": sum(shares[key] > 0 for key in names if key not in made),
                "steps": max((steps[key] for key in names if key not in made), default=0),
                "made": len(made),
                "made_steps": max((steps[key] for key in made), default=0),
                "share": max((shares[key] for key in made), default=0.0),
            },
        )


def _made_of_floats(model: ir.Model) -> list[str]:
    """The integer tensors that no integer kernel makes: the layer before QuantizeLinear, or its Relu or Clip, reads
    floats."""
    found = []
    for node in model.graph:
        if node.op_type != "QuantizeLinear" or (value := node.inputs[0]) is None or value.is_graph_input():
            continue
        maker = value.producer()
        while maker is not None and maker.op_type in ("Relu", "Clip") and maker.inputs[0] is not None:
            maker = maker.inputs[0].producer()
        read = [] if maker is None else [v for v in maker.inputs if v is not None and not ir.is_constant(v)]
        if any((before := v.producer()) is None or before.op_type != "DequantizeLinear" for v in read):
            found.append(str(node.outputs[0].name))
    return found


def _given(model: ir.Model, names: list[str]) -> dict[str, str]:
    """Let what reads the named tensors read inputs of the model in their place; the inputs' names."""
    values, found = {v.name: v for node in model.graph for v in node.outputs}, {}
    for name in names:
        value = values[name]
        new = ir.Value(name=f"{name}_given", type=value.type, shape=value.shape)
        model.graph.inputs.append(new)
        for use in list(value.uses()):
            use.node.replace_input_with(use.idx, new)
        found[name] = f"{name}_given"
    return found


@main.command()
@CASES
@click.option("--samples", default=32, show_default=True)
@click.option("--method", "methods", multiple=True, type=click.Choice(list(METHODS)), default=tuple(METHODS))
@click.option("--repeats", default=3, show_default=True)
def calibration(cases: tuple[str, ...], samples: int, methods: tuple[str, ...], repeats: int) -> None:
    """Processor time and peak memory of the ranges of all tensors, each tool in a process of its own, in turn; the
    median time of the repeats."""
    for name in cases or zoo.NAMES:
        simplified(zoo.case(name))
        for method in methods:
            found: dict[str, list[Record]] = {"ort": [], "lwgraph": []}
            for tool in [*found] * repeats:
                command = [sys.executable, "-m", "benchmarks.quantize_inside", "ranges", name, method, tool]
                done = subprocess.run([*command, str(samples)], capture_output=True, text=True, check=False)
                found[tool].append(
                    json.loads(done.stdout.splitlines()[-1])
                    if done.returncode == 0
                    else {"error": (done.stderr.splitlines() or ["no message"])[-1][:120]}
                )
            for tool, runs in found.items():
                failed = next((one for one in runs if "error" in one), None)
                middle = failed or sorted(runs, key=lambda one: float(one["seconds"]))[len(runs) // 2]
                keep(name, f"{method} {tool}", {"samples": samples} | middle)


@main.command(hidden=True)
@click.argument("name")
@click.argument("method", type=click.Choice(list(METHODS)))
@click.argument("tool", type=click.Choice(["ort", "lwgraph"]))
@click.argument("samples", type=int)
def ranges(name: str, method: str, tool: str, samples: int) -> None:
    """The part of `calibration` that runs in a process of its own; it prints JSON."""
    case = zoo.case(name)
    files = sorted((folder(case) / "feeds").glob("*.npz"))[:samples]
    data, started = [dict(np.load(file)) for file in files], time.process_time()
    _by_ort(simplified(case), data, method) if tool == "ort" else _by_lwgraph(simplified(case), data, method)
    click.echo(
        json.dumps(
            {
                "seconds": time.process_time() - started,
                "samples": len(data),
                "gigabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20),
            }
        )
    )


def _by_ort(path: Path, data: list[Any], method: str) -> None:
    from onnxruntime.quantization.calibrate import CalibrationDataReader, CalibrationMethod, create_calibrator

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        left = iter(data)

        def get_next(self) -> Any:
            return next(self.left, None)

    with tempfile.TemporaryDirectory() as scratch:
        calibrator = create_calibrator(
            str(path),
            augmented_model_path=f"{scratch}/model.onnx",
            calibrate_method=getattr(CalibrationMethod, METHODS[method]),
        )
        calibrator.collect_data(Reader())
        calibrator.compute_data()


def _by_lwgraph(path: Path, data: list[Any], method: str) -> None:
    model = ir.load(path)
    infer(model)
    executor = registry.executor("ort", threads=1)
    for observed in collect(model, data, executor, samples=FEW if method == "minmax" else SAMPLED).values():
        observed.range(method)


@main.command()
@CASES
@click.option("--samples", "counts", multiple=True, type=int, default=(16, 64, 256), show_default=True)
def memory(cases: tuple[str, ...], counts: tuple[int, ...]) -> None:
    """Peak memory of `quantize` (minmax): the case's samples, repeated, each read from disk when it is used."""
    for name in cases or ("arbez_yolox_s",):
        case = zoo.case(name)
        for count in counts:
            peer = Peer(
                "memory",
                "quantize_lwgraph.py",
                {"passes": "default,quantize{calibration_method=minmax,equalize=false,keep=none}", "samples": count},
            )
            outcome = run(peer, simplified(case), folder(case) / "feeds", folder(case) / "memory.onnx", one_core=True)
            keep(
                name,
                f"memory {count}",
                {"gigabytes": outcome.peak_gigabytes, "seconds": outcome.cpu_seconds, "error": outcome.error},
            )


@main.command("table")
def table() -> None:
    """Write what is kept into QUANTIZE.md."""
    known = {name: tables.kept("quantize-inside", name) or {} for name in zoo.NAMES}
    for marker, text in (
        ("bits", _bits(known)),
        ("integers", _integers(known)),
        ("calibration", _calibration(known)),
        ("memory", _memory(known)),
    ):
        tables.write(marker, text, PAGE)


def _bits(known: dict[str, Record]) -> str:
    rows = []
    for name, found in known.items():
        for what, one in found.items():
            if what.startswith("bits "):
                rows.append(
                    [
                        name,
                        what.removeprefix("bits "),
                        f"{one['samples']}",
                        f"{one['doubts']}",
                        f"{one['lost']:.2f}",
                        f"{one['seconds']:.0f} s",
                    ]
                )
    head = ["case", "round-weights{bits=4,...}", "samples", "layers short of samples", "points lost", "time"]
    return tables.table(head, rows)


def _integers(known: dict[str, Record]) -> str:
    rows = [
        [
            name,
            f"{one['tensors'] - one['made']}",
            f"{one['differ']}",
            f"{one['made']}",
            f"{one['made_steps']}",
            f"{100 * one['share']:.2g} %",
        ]
        for name, found in known.items()
        if (one := found.get("integers"))
    ]
    return tables.table(
        [
            "case",
            "tensors that integer kernels make",
            "that differ",
            "made of floats",
            "differ by at most, steps",
            "in, of the worst",
        ],
        rows,
    )


def _calibration(known: dict[str, Record]) -> str:
    rows = []
    for name, found in known.items():
        for method in METHODS:
            pair = [found.get(f"{method} {tool}") for tool in ("ort", "lwgraph")]
            if pair[0] is None or pair[1] is None:
                continue
            cells = [
                f"fails: {one['error']}" if "error" in one else f"{one['seconds']:.1f} s, {one['gigabytes']:.2f} GB"
                for one in pair
                if one
            ]
            both = all("seconds" in one for one in pair if one)
            ratio = f"{pair[1]['seconds'] / pair[0]['seconds']:.2f}" if both else ""
            rows.append([name, method, f"{pair[1]['samples']}", *cells, ratio])
    return tables.table(["case", "ranges", "samples", "ONNX Runtime", "lwgraph", "share of its time"], rows)


def _memory(known: dict[str, Record]) -> str:
    rows = [
        [name, what.removeprefix("memory "), f"{one['gigabytes']:.2f} GB", f"{one['seconds']:.0f} s"]
        for name, found in known.items()
        for what, one in found.items()
        if what.startswith("memory ")
    ]
    return tables.table(["case", "samples", "peak memory", "time"], rows)


if __name__ == "__main__":
    main()
