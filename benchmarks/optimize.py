"""`lwgraph optimize` on every case, as a user would call it, judged independently of what it says about itself."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import click

from benchmarks import judge, tables, whole, zoo
from benchmarks.peers.run import PEERS, run
from benchmarks.zoo import Case, cache
from lwgraph import ir, registry
from lwgraph.calibrate.generate import generate
from lwgraph.measure import compare_runs
from lwgraph.rewrite.base import Contract

CALL = "from lwgraph.cli import main; main()"  # the `lwgraph` of this interpreter
NOISE = 0.03  # a latency ratio is known to about this on a machine that is not quiet


def _simplified(case: Case) -> Path:
    """The model after onnxsim, which is what ours must beat; the model itself where onnxsim fails."""
    path = cache.folder("results") / "onnxsim" / f"{case.name}.onnx"
    path.parent.mkdir(exist_ok=True)
    return run(PEERS["onnxsim"], case.model(), path.parent, path).model or case.model()


def call(case: Case, out: Path, options: list[str]) -> tuple[float, str]:
    """Call the command line: seconds, and the error it ended with, if any."""
    out.parent.mkdir(exist_ok=True)
    out.unlink(missing_ok=True)
    command = [sys.executable, "-c", CALL, "optimize", str(case.model()), "-o", str(out), "--threads", "1", "--quiet"]
    started = time.perf_counter()
    done = subprocess.run([*command, *options], capture_output=True, text=True)
    seconds = time.perf_counter() - started
    if done.returncode not in (0, 3):  # 3: few samples resolve no promise
        lines = done.stderr.strip().splitlines() or ["no message"]
        return seconds, f"ended with {done.returncode}: {lines[-1][:200]}"
    return seconds, "" if out.exists() else "wrote no model"


def with_data(case: Case, points: float, extra: list[str], again: bool) -> dict[str, Any]:
    """Optimize within the budget, and judge the result; what is kept of that is of the run that is kept."""
    ran = whole.of(case, points, extra, again=again)
    told = {key: ran[key] for key in ("error", "seconds", "commit", "asked")}
    done = tables.kept("optimize", case.name)
    if done is not None and {key: done.get(key) for key in told} == told:
        return done
    if ran["error"]:
        return told
    out = whole.result(case.name)
    base, new = judge.score(case, case.model()), judge.score(case, out)
    race = judge.race(case, {"input": case.model(), "onnxsim": _simplified(case), "output": out})
    to_input = race.speedup("output").ratio
    return {
        **told,
        "base": base,
        "new": new,
        "points": case.points(base, new),
        "speedup": to_input,
        "speedup_onnxsim": to_input / race.speedup("onnxsim").ratio,
        "milliseconds": race.timing("input").median * 1e3,
        "size": judge.size(out) / judge.size(case.model()),
    }


def without_data(case: Case) -> dict[str, Any]:
    """Optimize without data; check on generated inputs, with both executors, that the output is what it should be."""
    out = cache.folder("results") / "nodata" / f"{case.name}.onnx"
    seconds, error = call(case, out, [])
    if error:
        return {"error": error, "seconds": seconds}
    before, after = ir.load(case.model()), ir.load(out)
    feeds = [case.example(), *generate(before, 1, seed=1)]
    verdicts = {}
    for name in ("ort", "reference"):
        executor = registry.executor(name)
        compared = compare_runs(executor.prepare(before), executor.prepare(after), feeds, Contract.APPROXIMATE)
        verdicts[name] = "equal" if compared.ok else str(compared)
    race = judge.race(case, {"input": case.model(), "output": out})
    nodes = [len(list(model.graph)) for model in (before, after)]
    size = judge.size(out) / judge.size(case.model())
    speedup = race.speedup("output").ratio
    return {"error": "", "seconds": seconds, "verdicts": verdicts, "speedup": speedup, "size": size, "nodes": nodes}


def _report() -> str:
    header = ["case", "before", "after", "points lost", "ms", "speed-up", "over onnxsim", "size", "time", "build"]
    rows = []
    for name in zoo.NAMES:
        if (found := tables.kept("optimize", name)) is None:
            continue
        if found["error"]:
            rows.append(
                [name, found["error"].replace("|", "/"), *[""] * 6, f"{found['seconds']:.0f} s", found["commit"]]
            )
            continue
        rows.append(
            [
                name,
                f"{found['base']:.4f}",
                f"{found['new']:.4f}",
                f"{found['points']:.2f}",
                f"{found['milliseconds']:.2f}",
                f"{found['speedup']:.2f}",
                f"{found['speedup_onnxsim']:.2f}",
                f"{found['size']:.2f}",
                f"{found['seconds']:.0f} s",
                found["commit"],
            ]
        )
    return f"{tables.conditions()}\n\n" + tables.table(header, rows)


def _report_without_data() -> str:
    header = ["case", "nodes", "ONNX Runtime", "reference", "speed-up", "size", "time"]
    rows = []
    for name in zoo.NAMES:
        if (found := tables.kept("nodata", name)) is None:
            continue
        if found["error"]:
            rows.append([name, found["error"].replace("|", "/"), *[""] * 4, f"{found['seconds']:.0f} s"])
            continue
        nodes, verdicts = found["nodes"], found["verdicts"]
        rows.append(
            [
                name,
                f"{nodes[0]} to {nodes[1]}",
                verdicts["ort"],
                verdicts["reference"],
                f"{found['speedup']:.2f}",
                f"{found['size']:.2f}",
                f"{found['seconds']:.0f} s",
            ]
        )
    return tables.table(header, rows)


def main(cases: tuple[str, ...], points: float, extra: list[str], again: bool) -> None:
    """Optimize with data what is not kept, and write the table after each."""
    for name in cases or zoo.NAMES:
        result = with_data(zoo.case(name), points, extra, again)
        tables.keep("optimize", name, result)
        tables.write("optimize", _report())
        click.echo(f"{name}: {result}")


def main_without_data(cases: tuple[str, ...]) -> bool:
    """Optimize without data and write the table; False when an output differs, is slower, or is larger."""
    fine = True
    for name in cases or zoo.NAMES:
        result = without_data(zoo.case(name))
        tables.keep("nodata", name, result)
        click.echo(f"{name}: {result}")
        fine &= (
            not result["error"]
            and set(result["verdicts"].values()) == {"equal"}
            and result["speedup"] >= 1 - NOISE
            and result["size"] <= 1
        )
    tables.write("nodata", _report_without_data())
    return fine
