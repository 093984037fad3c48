"""Runtimes, precisions and compressors against each other: every model in every runtime that is here, scored and timed.

Kept after each step, so that a second call goes on where the first one ended. See RUNTIMES.md.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click

from benchmarks import judge, tables, whole, zoo
from benchmarks.optimize import call
from benchmarks.peers.run import PEERS, run, write_feeds
from benchmarks.run import commit
from benchmarks.zoo import Case, cache
from lwgraph import ir
from lwgraph.errors import LwgraphError
from lwgraph.executor import Executor
from lwgraph.measure import paired_latency
from lwgraph.measure.kernels import is_integer_kernel, kernels
from lwgraph.optimizer.request import parse_seconds
from lwgraph.optimizer.target import ANY, OPENVINO, ORT, executors_here, expanded
from lwgraph.views.written import INT8, layers

PAGE = Path(__file__).resolve().parent / "RUNTIMES.md"
COMPRESSORS = ("nncf_int8", "nncf_int8_mixed", "ort_minmax")
FLOAT = "float"
ROW_SECONDS = 4.0  # of timing for each row
NEAR = 1.05  # how far from the fastest row the answer of --target any may be


def _made(case: Case, budget: str, kept: dict[str, Any]) -> dict[str, Path]:
    """The models by who made them; each maker runs once."""
    folder = cache.folder("results") / "runtimes" / case.name
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "feeds").exists():
        write_feeds(case.calibration(), folder / "feeds")
    spent: dict[str, Any] = kept.setdefault("made", {})
    found = {FLOAT: case.model()}
    for name in COMPRESSORS:
        out = folder / f"{name}.onnx"
        if name not in spent:
            outcome = run(PEERS[name], case.model(), folder / "feeds", out)
            spent[name] = {"seconds": outcome.seconds, "error": outcome.error}
            tables.keep("runtimes", case.name, kept)
        if not spent[name]["error"]:
            found[name] = out
    targets = expanded(ANY)
    for target in (*targets, ANY):
        name = f"lwgraph for {target}"
        out = folder / f"lwgraph-{target.replace(':', '-')}.onnx"
        if name not in spent:
            allowed = parse_seconds(budget) * (len(targets) if target == ANY else 1)
            options = ["--target", target, "--budget", f"{allowed:g}", "--report", str(out.with_suffix(""))]
            seconds, error = call(case, out, [*whole.options(case, judge.BUDGET), *options])
            spent[name] = {"seconds": seconds, "error": error, "budget": allowed, "commit": commit()}
            tables.keep("runtimes", case.name, kept)
        if not spent[name]["error"]:
            found[name] = out
    return found


def in_integers(model: ir.Model) -> list[str]:
    """The layers that the file has in 8-bit integers."""
    return [layer.name for layer in layers(model) if layer.precision == INT8]


def in_floats(executor: Executor, model: ir.Model) -> list[str]:
    """Those of them that the runtime computes in floats all the same."""
    ran = kernels(executor, model) or {}
    return [name for name in in_integers(model) if name not in ran or not is_integer_kernel(ran[name])]


def untrue(rows: Mapping[str, Any]) -> list[str]:
    """Layers that a plan for OpenVINO calls integer and that OpenVINO computes in floats."""
    return [
        f"{row['model']} in {row['target']}: {layer}"
        for row in rows.values()
        if row["model"].startswith(f"lwgraph for {OPENVINO}") and row["target"].startswith(OPENVINO)
        for layer in row.get("floats", ())
    ]


def _scored(case: Case, made: Mapping[str, Path], kept: dict[str, Any]) -> None:
    rows: dict[str, Any] = kept.setdefault("rows", {})
    for target, executor in executors_here(ANY, judge.THREADS).items():
        for name, path in made.items():
            key = f"{name} in {target}"
            if key in rows:
                continue
            model = ir.load(path)
            # A runtime that takes the process with it leaves this row, and a second call goes on behind it.
            rows[key] = {"model": name, "target": target, "error": "the runtime crashed"}
            tables.keep("runtimes", case.name, kept)
            try:
                score = case.metric(executor.prepare(model))
                rows[key] = {"model": name, "target": target, "score": score, "floats": in_floats(executor, model)}
                rows[key]["integers"] = len(in_integers(model))
            except LwgraphError as error:
                rows[key] = {"model": name, "target": target, "error": str(error)}
            tables.keep("runtimes", case.name, kept)
    base = rows[f"{FLOAT} in {ORT}"]["score"]
    for row in rows.values():
        if "score" in row:
            row["points"] = case.points(base, row["score"])


def _timed(case: Case, made: Mapping[str, Path], kept: dict[str, Any]) -> None:
    executors, rows = executors_here(ANY, judge.THREADS), kept["rows"]
    good = {key: row for key, row in rows.items() if "score" in row}
    runs = {key: executors[row["target"]].prepare(ir.load(made[row["model"]])) for key, row in good.items()}
    times = paired_latency(runs, [case.example()], threads=judge.THREADS, seconds=ROW_SECONDS * len(runs))
    for key, row in good.items():
        speed = times.speedup(key)
        row |= {"milliseconds": 1e3 * times.timing(key).minimum, "speed": speed.ratio, "interval": speed.interval}
        row["settled"] = speed.settled
    kept["timed"] = True
    tables.keep("runtimes", case.name, kept)


def measure(case: Case, budget: str, again: bool) -> dict[str, Any]:
    """Everything about one case; `again`: the models that are kept are timed anew."""
    kept = tables.kept("runtimes", case.name) or {}
    made = _made(case, budget, kept)
    _scored(case, made, kept)
    if again or not kept.get("timed"):
        _timed(case, made, kept)
    return kept


def within(rows: Mapping[str, Any]) -> dict[str, Any]:
    """The rows that lose a point at most and were timed."""
    return {key: row for key, row in rows.items() if "speed" in row and judge.within(row["points"])}


def answer(rows: Mapping[str, Any]) -> dict[str, Any] | None:
    """The fastest row of the file that --target any wrote."""
    ours = [row for row in within(rows).values() if row["model"] == f"lwgraph for {ANY}"]
    return max(ours, key=lambda row: float(row["speed"]), default=None)


def best_peer(rows: Mapping[str, Any]) -> dict[str, Any] | None:
    """The fastest row that lwgraph has no part in: another compressor, or the float model in a runtime."""
    others = [row for row in within(rows).values() if not row["model"].startswith("lwgraph")]
    return max(others, key=lambda row: float(row["speed"]), default=None)


def _lines(name: str, kept: Mapping[str, Any]) -> Iterator[str]:
    rows = kept["rows"]
    table = [
        [
            row["model"],
            row["target"],
            "" if "points" not in row else f"{row['points']:.2f}",
            "" if "speed" not in row else f"{row['speed']:.2f}",
            "" if "speed" not in row else "{:.2f} to {:.2f}".format(*row["interval"]),
            row.get("error", "")[:60].replace("|", "/")
            or (f"{len(row['floats'])} of {row['integers']}" if row["integers"] else ""),
        ]
        for row in rows.values()
    ]
    made = [f"{by}: {m['budget']:g} s, build {m['commit']}" for by, m in kept["made"].items() if "commit" in m]
    yield f"**{name}**{' (' if made else ''}{'; '.join(made)}{')' if made else ''}\n"
    yield tables.table(["model", "runtime", "points lost", "speed", "95 %", "integers run in floats"], table) + "\n"


def report() -> str:
    """The page's tables, with what --target any reaches of what could be had."""
    parts, gains, summary, wrong = list[str](), list[float](), list[list[str]](), list[str]()
    for name in zoo.NAMES:
        if (kept := tables.kept("runtimes", name)) is None or not kept.get("timed"):
            continue
        parts += _lines(name, kept)
        wrong += [f"{name}, {each}" for each in untrue(kept["rows"])]
        ours, peer = answer(kept["rows"]), best_peer(kept["rows"])
        if ours is None or peer is None:
            summary.append([name, "none", "", "", ""])
            continue
        fastest = max(float(row["speed"]) for row in within(kept["rows"]).values())
        gains.append(ours["speed"] / peer["speed"])
        reached = f"{ours['speed'] / fastest:.2f}{'' if fastest <= NEAR * ours['speed'] else ' (short of it)'}"
        where = f"{peer['model']} in {peer['target']}"
        summary.append([name, f"{ours['speed']:.2f} in {ours['target']}", reached, f"{gains[-1]:.2f}", where])
    head = ["case", "--target any", "of the fastest row", "over the best peer", "which is"]
    mean = math.exp(sum(map(math.log, gains)) / len(gains)) if gains else math.nan
    foot = f"Geometric mean over the best peer: {mean:.2f} ({len(gains)} cases)."
    said = "Layers that a plan for OpenVINO calls integer and that ran in floats there: "
    return "\n".join(
        [
            tables.conditions(),
            "",
            tables.table(head, summary),
            "",
            foot,
            "",
            said + ("; ".join(wrong) or "none") + ".",
            "",
            *parts,
        ]
    )


def beside_peers() -> str:
    """Each case in a row: OpenVINO's float and NNCF's models in it, and what --target any gives; speeds and points."""
    installed = [target for target in expanded(ANY) if target != ORT][
        -1
    ]  # OpenVINO computes in its narrowest by itself
    columns = {
        "as installed": f"{FLOAT} in {installed}",
        "float32": f"{FLOAT} in {OPENVINO}:f32",
        "NNCF, performance": f"nncf_int8 in {OPENVINO}:f32",
        "NNCF, mixed": f"nncf_int8_mixed in {OPENVINO}:f32",
    }
    table = []
    for name in zoo.NAMES:
        if (kept := tables.kept("runtimes", name)) is None or not kept.get("timed"):
            continue
        ours = answer(kept["rows"])
        cells = [kept["rows"].get(key, {}) for key in columns.values()] + [ours or {}]
        told = [f"{row['speed']:.2f} ({row['points']:.2f})" if "speed" in row else "none" for row in cells]
        table.append([name, *told[:-1], told[-1] if ours is None else f"{told[-1]} in {ours['target']}"])
    return tables.conditions() + "\n\n" + tables.table(["case", *columns, "lwgraph --target any"], table)


def main(cases: tuple[str, ...], budget: str, again: bool) -> bool:
    """Measure the cases and write the page; whether all that plans for OpenVINO call integer ran in integers there."""
    right = True
    for name in cases or zoo.NAMES:
        click.echo(name)
        wrong = untrue(measure(zoo.case(name), budget, again)["rows"])
        for each in wrong:
            click.echo(f"  not in integers: {each}")
        right = right and not wrong
        tables.write("runtimes", report(), PAGE)
        tables.write("runtimes", beside_peers())
    return right
