"""How long `lwgraph optimize` takes: in passes over the data, in seconds, beside plain quantization with ONNX Runtime.

Each case is optimized from an empty cache, as it is without any option on the time. Beside it stand the pass `quantize`
alone and ONNX Runtime's `quantize_static` (min-max, one scale per channel, after its pre-processing) on the same
calibration samples, without what starting a process takes, and one evaluation of what the latter gives; a second run
from the cache that the first one left; and a run with a budget. What the first and the last of these runs give is timed
in turns with what an exhaustive search finds (see `whole`). Then come networks that nothing was tuned for: a ResNet-50
with random weights, chains of convolutions, and the demo. Rows are kept, with the build; a second call goes on where
the first was stopped.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnx

from benchmarks import judge, run, tables, whole, zoo
from benchmarks.zoo import Case, cache
from lwgraph.errors import LwgraphError

PEERS = Path(__file__).resolve().parent / "peers"
BUDGETS = {"arbez_yolox_s": "180s"}  # the others have:
BUDGET = "60s"
CHAINS = (75, 150, 300)  # layers
GROWTH = 1.2  # the power of the number of layers that a run may grow by
RESNET, RESNET_SAMPLES, RESNET_SECONDS = "resnet50_random", 64, 90.0
DEMO, DEMO_SECONDS = "demo", 45.0
DEMO_CALL = "from lwgraph.cli import main; main()"
OTHERS = (RESNET, *(f"chain_{layers}" for layers in CHAINS), DEMO)
NAMES = (*zoo.NAMES, *OTHERS)
OPTIONS = {"per_channel": True, "method": "MinMax"}
# The pass `quantize` with ranges and rounding as the peer has them, with all ways tried, and as it is without options:
# it then also finds out which layers had better stay in floats.
ALONE = {
    "minmax": "quantize{keep=none,calibration_method=minmax,equalize=false,rounding=nearest}",
    "auto": "quantize{keep=none}",
    "judged": "quantize",
}
# Runs a script and prints the seconds that it took, once what it imports is there.
TIMED = """
import runpy, sys, time
import onnxruntime.quantization, onnxruntime.quantization.shape_inference, lwgraph.cli
del sys.argv[0]
start = time.perf_counter()
runpy.run_path(sys.argv[0], run_name="__main__")
print(time.perf_counter() - start)
"""


def _spent(script: str, case: Case, feeds: Path, out: Path, options: dict[str, Any]) -> tuple[float | None, str]:
    """Seconds that a peer's script, or ours, takes with the case; None where it fails, and how."""
    command = [sys.executable, "-c", TIMED, str(PEERS / script), str(case.model()), str(feeds), str(out)]
    done = subprocess.run([*command, json.dumps(options)], capture_output=True, text=True)
    if done.returncode:
        return None, done.stderr.strip()[-200:]
    return float(done.stdout.split()[-1]), ""


def _feeds(case: Case, folder: Path) -> Path:
    feeds = folder / "feeds"
    feeds.mkdir()
    for number, feed in enumerate(case.calibration()):
        np.savez(feeds / f"{number:05}.npz", **feed)  # type: ignore[arg-type]
    return feeds


def alone(case: Case) -> dict[str, Any]:
    """Seconds of the pass `quantize`, in the ways of ALONE, and of quantize_static on the same samples; the build."""
    with tempfile.TemporaryDirectory() as scratch:
        feeds, out = _feeds(case, Path(scratch)), Path(scratch, "out.onnx")
        found = {way: _spent("quantize_lwgraph.py", case, feeds, out, {"passes": p})[0] for way, p in ALONE.items()}
        return {**found, "static": _spent("quantize_ort.py", case, feeds, out, OPTIONS)[0], "commit": run.commit()}


def static(case: Case, folder: Path) -> dict[str, Any]:
    """The points that quantize_static loses, the speed that it gives, the seconds of one evaluation of its model."""
    out = folder / "static.onnx"
    spent, why = _spent("quantize_ort.py", case, _feeds(case, folder), out, OPTIONS)
    if spent is None:
        return {"static": None, "evaluation": None, "why": why}
    base = judge.score(case, case.model())  # loads the data, too, which the timed evaluation need not
    started = time.perf_counter()
    try:
        found = judge.score(case, out)
    except LwgraphError as error:  # it writes models that ONNX Runtime cannot load, such as axes before opset 13
        return {"static": spent, "evaluation": None, "why": str(error)}
    return {
        "static": spent,
        "evaluation": time.perf_counter() - started,
        "static_points": case.points(base, found),
        "static_speed": judge.race(case, {"input": case.model(), "static": out}).speedup("static").ratio,
    }


def case_row(name: str) -> dict[str, Any]:
    """All figures of one case of the zoo."""
    case = zoo.case(name)
    with tempfile.TemporaryDirectory() as scratch:
        kept, now, short = Path(scratch), Path(scratch, "now.onnx"), Path(scratch, "short")
        peer, second, same = static(case, kept), None, None
        first = run.optimize(case.model(), whole.options(case), kept=kept)
        if not first.error:
            shutil.copy(kept / "out.onnx", now)
            second = run.optimize(case.model(), whole.options(case), kept=kept)
            same = _digest(kept / "out.onnx") == _digest(now)
        budget = BUDGETS.get(name, BUDGET)
        short.mkdir()
        limited = run.optimize(case.model(), [*whole.options(case), "--budget", budget], kept=short)
        return {
            **_against_whole(case, {"now": now, "limited": short / "out.onnx"}),
            **whole.figures(first, case.points_per_unit),
            **peer,
            "warm": None if second is None else whole.figures(second, 1.0)["passes"],
            "warm_seconds": None if second is None else second.seconds,
            "same": same,
            "budget": budget,
            "budget_seconds": limited.seconds,
            "budget_speed": limited.kept["speed"],
            "budget_points": whole.figures(limited, case.points_per_unit)["points"],
        }


def _against_whole(case: Case, made: dict[str, Path]) -> dict[str, Any]:
    """How fast results are, as a share of the speed of what an exhaustive search finds; its seconds and its build."""
    long = whole.of(case)
    told = {"long_seconds": long["seconds"], "long_commit": long["commit"]}
    there = {name: path for name, path in made.items() if path.exists()}
    if long["error"] or not there:
        return told
    times = judge.race(case, {"whole": whole.result(case.name), **there})
    return told | {f"{name}_share": times.speedup(name).ratio for name in there}


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


# ------------------------------------------------------------ networks that nothing was tuned for


def resnet50() -> onnx.ModelProto:
    """A ResNet-50 (He et al. 2015, table 1) without BatchNormalization, with random weights; x (N, 3, 224, 224).

    The last layer's bias takes the features' mean away, or all inputs would be of one class.
    """
    net, width = run.Network((3, 224, 224), 4), 64

    def conv(out: int, into: int, size: int, stride: int = 1, scale: float = 1.0) -> None:
        weight, pad = scale * net.random(out, into, size, size), size // 2
        net.add("Conv", weight, np.zeros(out), kernel_shape=[size] * 2, strides=[stride] * 2, pads=[pad] * 4)

    conv(64, 3, 7, 2)
    net.add("Relu")
    net.add("MaxPool", kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    for blocks, inner, stride in ((3, 64, 1), (4, 128, 2), (6, 256, 2), (3, 512, 2)):
        for block in range(blocks):
            start, step = net.now, stride if block == 0 else 1
            if block == 0:
                conv(4 * inner, width, 1, step)
            shortcut, net.now = net.now, start
            conv(inner, width, 1)
            net.add("Relu")
            conv(inner, inner, 3, step)
            net.add("Relu")
            conv(4 * inner, inner, 1, scale=0.3)  # sums of 16 branches stay in bounds
            net.add("Add")
            net.nodes[-1].input.append(shortcut)
            net.add("Relu")
            width = 4 * inner
    net.add("GlobalAveragePool")
    net.add("Flatten")
    weight, features = net.random(1000, width), net.outputs(run.samples((3, 224, 224), 8, 1)[0])
    net.add("Gemm", weight, -weight @ features.mean(0), transB=1)
    return net.model()


def made(name: str) -> tuple[Path, Path]:
    """The model and the data of a network, made once."""
    folder = cache.folder("results") / "run"
    model, data = folder / f"{name}.onnx", folder / f"{name}.npz"
    if not (model.exists() and data.exists()):
        folder.mkdir(parents=True, exist_ok=True)
        if name == RESNET:
            proto, (x, _) = resnet50(), run.samples((3, 224, 224), RESNET_SAMPLES, 2)
        else:
            net, shape = run.long_chain(int(name.removeprefix("chain_")))
            net.classify(*run.samples(shape, 256, 1))
            proto, (x, _) = net.model(), run.samples(shape, 256, 2)
        with cache.replacing(model) as new:
            onnx.save(proto, new)
        with cache.replacing(data) as new:
            np.savez(new, x=x)
    return model, data


def other_row(name: str) -> dict[str, Any]:
    """One run on a network that is made here."""
    model, data = made(name)
    return whole.figures(run.optimize(model, ["--data", str(data), "--metric", "agreement"]), 100.0)


def demo_row() -> dict[str, Any]:
    """The demo from an empty cache, as `make demo` runs it once it is installed."""
    with tempfile.TemporaryDirectory() as scratch:
        command = [sys.executable, "-c", DEMO_CALL, "demo", "-o", f"{scratch}/out"]
        environment = os.environ | {"LWGRAPH_CACHE": f"{scratch}/cache"}
        started = time.perf_counter()
        child = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=environment)
        peak, busy = run.watch(child)
        seconds, report = time.perf_counter() - started, Path(scratch, "out", "report.json")
        told = json.loads(report.read_text("utf8")) if report.exists() else {}
        error = "" if told else f"ended with {child.returncode}"
    return whole.figures(run.Run(seconds, busy, peak, error, told), 100.0)


# ------------------------------------------------------------ the table


def _cell(value: float | None, form: str, unit: str = "") -> str:
    return "" if value is None else f"{value:{form}}{unit}"


def _cold(found: dict[str, Any]) -> list[str]:
    return [
        found["commit"],
        _cell(found["pass_seconds"], ".1f", " s"),
        found["error"].replace("|", "/") or _cell(found["passes"], ".1f"),
        _cell(found["seconds"], ".0f", " s"),
        _cell(found["points"], ".2f"),
        _cell(found["speed"], ".2f"),
    ]


COLD = ["build", "one pass", "passes", "seconds", "points lost", "speed-up"]


def _cases(kept: dict[str, dict[str, Any]]) -> str:
    compared = ["of the exhaustive search's speed", "its seconds", "its build"]
    peer = ["quantize_static", "one evaluation", "its points lost", "its speed-up"]
    rows = [
        [
            name,
            *_cold(found),
            _cell(found.get("now_share"), ".2f"),
            _cell(found.get("long_seconds"), ".0f", " s"),
            found.get("long_commit", ""),
            _cell(found.get("static"), ".1f", " s"),
            _cell(found.get("evaluation"), ".1f", " s"),
            _cell(found.get("static_points"), ".2f"),
            _cell(found.get("static_speed"), ".2f"),
        ]
        for name, found in kept.items()
        if name in zoo.NAMES
    ]
    return tables.table(["case", *COLD, *compared, *peer], rows)


def _alone() -> str:
    rows = []
    for name in zoo.NAMES:
        if (found := tables.kept("quantizing", name)) is None:
            continue
        peer = found["static"]
        cells = [_cell(found[way], ".1f", " s") for way in ALONE]
        times = [_cell(found[way] / peer if found[way] and peer else None, ".1f") for way in ALONE]
        pairs = [cell for pair in zip(cells, times, strict=True) for cell in pair]
        rows.append([name, found["commit"], _cell(peer, ".1f", " s"), *pairs])
    header = ["case", "build", "quantize_static"]
    for words in ("extremes, nearest", "all ranges and roundings", "and layers judged"):
        header += [f"`quantize`, {words}", "times"]
    return tables.table(header, rows)


def _again(kept: dict[str, dict[str, Any]]) -> str:
    header = ["case", "second run, passes", "seconds", "the same bytes"]
    header += ["budget", "seconds", "points lost", "speed-up", "of the exhaustive search's speed"]
    rows = []
    for name, found in kept.items():
        if found.get("warm_seconds") is None:
            continue
        rows.append(
            [
                name,
                _cell(found["warm"], ".1f"),
                _cell(found["warm_seconds"], ".0f", " s"),
                "yes" if found["same"] else "no",
                found["budget"],
                _cell(found["budget_seconds"], ".0f", " s"),
                _cell(found["budget_points"], ".2f"),
                _cell(found["budget_speed"], ".2f"),
                _cell(found.get("limited_share"), ".2f"),
            ]
        )
    return tables.table(header, rows)


def growth(seconds: dict[int, float]) -> float:
    """The power of the number of layers by which seconds grow, from the shortest chain to the longest."""
    few, many = min(seconds), max(seconds)
    return math.log(seconds[many] / seconds[few]) / math.log(many / few)


def _others(kept: dict[str, dict[str, Any]]) -> str:
    rows = [[name, *_cold(found)] for name, found in kept.items() if name in OTHERS]
    chains = {n: kept[f"chain_{n}"]["seconds"] for n in CHAINS if f"chain_{n}" in kept}
    said = f"Allowed: {RESNET_SECONDS:g} s for {RESNET}, {DEMO_SECONDS:g} s for the demo."
    if len(chains) == len(CHAINS):
        said += (
            f" The chains' seconds grow as the number of layers to the power {growth(chains):.2f} ({GROWTH} allowed)."
        )
    return f"{said}\n\n{tables.table(['network', *COLD], rows)}"


def _report() -> str:
    rows = {name: tables.kept("seconds", name) for name in NAMES}
    kept = {name: found for name, found in rows.items() if found is not None}
    stages = ["case", "stage", "passes predicted", "passes", "seconds"]
    spent = [
        [name, s["name"], _cell(s["predicted"], ".1f"), _cell(s["passes"], ".1f"), _cell(s["seconds"], ".1f", " s")]
        for name, found in kept.items()
        for s in found["stages"]
        if s["predicted"] is not None
    ]
    parts = [tables.conditions(), _cases(kept), _alone(), _again(kept), _others(kept), tables.table(stages, spent)]
    return "\n\n".join(parts)


def row(name: str) -> dict[str, Any]:
    """All figures of one case or network."""
    return demo_row() if name == DEMO else case_row(name) if name in zoo.NAMES else other_row(name)


def main(names: Sequence[str], again: bool) -> None:
    """Measure what is not kept, and write the table after each."""
    for name in names or NAMES:
        if not again and tables.kept("seconds", name) is not None:
            continue
        found = row(name)
        tables.keep("seconds", name, found)
        tables.write("seconds", _report(), run.PAGE)
        click.echo(f"{name}: {json.dumps({key: value for key, value in found.items() if key != 'stages'})}")
    for name in [each for each in names or NAMES if each in zoo.NAMES]:
        if again or tables.kept("quantizing", name) is None:
            tables.keep("quantizing", name, alone(zoo.case(name)))
            tables.write("seconds", _report(), run.PAGE)
    tables.write("seconds", _report(), run.PAGE)
