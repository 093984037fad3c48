"""int8 by lwgraph and by its peers, on every case: python -m benchmarks.quantize build|score|time|table|calibration.

Every tool gets the same model (after onnxsim) and the same calibration samples, in a process of its own on one core.
What a step finds is kept on disk and done again only when its model or script changed.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import click

from benchmarks import judge, zoo
from benchmarks.closeness import closeness
from benchmarks.peers.run import HERE, PEERS, SECONDS, Peer, run, write_feeds
from benchmarks.zoo import Case, cache
from lwgraph import ir, registry
from lwgraph.errors import LwgraphError
from lwgraph.measure.kernels import is_integer_kernel

ORT = tuple(f"ort_{method}{kind}" for method in ("minmax", "percentile", "entropy") for kind in ("", "_pertensor"))
TOOLS = ("lwgraph_int8", *ORT, "ort_minmax_convonly", "nncf_int8", "nncf_int8_mixed", "aimet_int8", "quark_int8")
Record = dict[str, Any]


def folder(case: Case) -> Path:
    """Where a case's models and records are kept."""
    return cache.folder("results") / "quantize" / case.name


def record(case: Case, tool: str, new: Record | None = None) -> Record:
    """What is known of a tool on a case; `new` is added to it."""
    path = folder(case) / f"{tool}.json"
    known: Record = json.loads(path.read_text()) if path.exists() else {}
    if new is not None:
        known |= new
        with cache.replacing(path) as file:
            file.write_text(json.dumps(known, indent=1))
    return known


def simplified(case: Case) -> Path:
    """The model that every tool is given: the input after onnxsim."""
    path = folder(case) / "onnxsim.onnx"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        outcome = run(PEERS["onnxsim"], case.model(), path.parent, path)
        if outcome.model is None:
            raise LwgraphError(f"onnxsim failed on {case.name}: {outcome.error}")
    return path


def build(case: Case, tool: str, fresh: bool, limit: float = SECONDS) -> Record:
    """Let a tool make its model within `limit` seconds, if it did not yet."""
    peer, source = PEERS[tool], simplified(case)
    key = _key(peer, source)
    known = record(case, tool)
    if not fresh and known.get("key") == key:
        return known
    feeds = folder(case) / "feeds"
    if not feeds.exists():
        with cache.replacing(feeds) as made:
            write_feeds(case.calibration(), made)
    outcome = run(peer, source, feeds, folder(case) / f"{tool}.onnx", one_core=True, limit=limit)
    (folder(case) / f"{tool}.json").unlink(missing_ok=True)  # what was measured of an older model
    return record(
        case,
        tool,
        {
            "key": key,
            "seconds": outcome.seconds,
            "cpu": outcome.cpu_seconds,
            "gigabytes": outcome.peak_gigabytes,
            "error": outcome.error,
        },
    )


def score(case: Case, tool: str) -> Record:
    """Measure the accuracy of a tool's model on all evaluation data, and read back what ran in integers."""
    path = folder(case) / f"{tool}.onnx"
    known = record(case, tool)
    if known.get("error") or not path.exists():
        return known
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if known.get("scored") == digest:
        return known
    try:
        found: Record = {"value": judge.score(case, path), "scored": digest, "size": judge.size(path)}
        found |= integer_share(path)
    except LwgraphError as error:
        found = {"error": f"its model does not run: {error}"}
    except (ValueError, IndexError) as error:
        found = {"error": f"its outputs have other shapes: {error}"}
    return record(case, tool, found)


def integer_share(path: Path) -> Record:
    """How many layers ONNX Runtime runs in integers and in float, and how many islands the float ones form."""
    executor: Any = registry.executor("ort", threads=1)
    nodes = executor.optimized(ir.load(path)).graph.node
    dense = ("Conv", "FusedConv", "Gemm", "FusedGemm", "MatMul", "FusedMatMul", "ConvTranspose", "NhwcFusedConv")
    integer = sum(
        is_integer_kernel(n.op_type)
        and n.op_type
        not in ("QLinearAdd", "QLinearMul", "QLinearConcat", "QLinearSigmoid", "QLinearLeakyRelu", "QLinearSoftmax")
        and "Pool" not in n.op_type
        for n in nodes
    )
    return {"integer": integer, "float": sum(n.op_type in dense for n in nodes), "islands": islands(nodes)}


def islands(nodes: Any) -> int:
    """Connected parts of a runtime's graph that compute in float between integer kernels: they read and feed those."""
    makers = {name: n for n in nodes for name in n.output}
    parent: dict[str, str] = {}

    def root(name: str) -> str:
        while parent.setdefault(name, name) != name:
            name = parent[name]
        return name

    def floats(n: Any) -> bool:
        return not is_integer_kernel(n.op_type) and n.op_type not in ("QuantizeLinear", "DequantizeLinear")

    enters, leaves = set(), set()
    for node in nodes:
        for name in node.input:
            maker = makers.get(name)
            if maker is None:
                continue
            if floats(node) and floats(maker):
                parent[root(node.output[0])] = root(maker.output[0])
            elif floats(node) and maker.op_type == "DequantizeLinear":
                enters.add(node.output[0])
            elif node.op_type == "QuantizeLinear" and floats(maker):
                leaves.add(maker.output[0])
    return len({root(name) for name in enters} & {root(name) for name in leaves})


def _key(peer: Peer, source: Path) -> str:
    facts = [(HERE / peer.script).read_text(), json.dumps(peer.options), *peer.packages, cache.stamp(source)]
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()


@click.group()
def main() -> None:
    """Quantization by lwgraph and by its peers."""


CASES = click.argument("cases", nargs=-1, type=click.Choice(zoo.NAMES))
TOOL = click.option("--tool", "tools", multiple=True, type=click.Choice(TOOLS), help="Only this one; repeatable.")


@main.command("build")
@CASES
@TOOL
@click.option("--fresh", is_flag=True, help="Again, even if nothing changed.")
@click.option("--limit", default=float(SECONDS), show_default=True, help="Seconds that each may take.")
def build_all(cases: tuple[str, ...], tools: tuple[str, ...], fresh: bool, limit: float) -> None:
    """Let the tools make their models."""
    for name in cases or zoo.NAMES:
        for tool in tools or TOOLS:
            found = build(zoo.case(name), tool, fresh, limit)
            click.echo(f"{name:20} {tool:24} {found['cpu']:7.1f} s {found['gigabytes']:5.2f} GB  {found['error']}")


@main.command("score")
@CASES
@TOOL
def score_all(cases: tuple[str, ...], tools: tuple[str, ...]) -> None:
    """Measure the accuracy of what was made."""
    for name in cases or zoo.NAMES:
        case = zoo.case(name)
        for tool in tools or TOOLS:
            found = score(case, tool)
            if found and not found.get("error"):
                click.echo(f"{name:20} {tool:24} {case.points(case.published, found['value']):7.2f} points lost")


@main.command("time")
@CASES
@TOOL
@click.option("--seconds", default=20.0, show_default=True, help="At most, for each case.")
def time_all(cases: tuple[str, ...], tools: tuple[str, ...], seconds: float) -> None:
    """Time the scored models against the float one, interleaved, one thread."""
    for name in cases or zoo.NAMES:
        case = zoo.case(name)
        known = {tool: record(case, tool) for tool in tools or TOOLS}
        models = {
            tool: folder(case) / f"{tool}.onnx"
            for tool, found in known.items()
            if "value" in found and not found.get("error") and (folder(case) / f"{tool}.onnx").exists()
        }
        found = judge.race(case, {"float": simplified(case)} | models, seconds)
        for tool in models:
            speed = found.speedup(tool)
            record(
                case,
                tool,
                {
                    "speedup": speed.ratio,
                    "spread": list(speed.interval),
                    "float_ms": 1e3 * found.timing("float").median,
                },
            )
            click.echo(f"{name:20} {tool:24} {speed.ratio:5.2f}x  ({speed.interval[0]:.2f} to {speed.interval[1]:.2f})")


@main.command("compare")
@CASES
@TOOL
def compare_all(cases: tuple[str, ...], tools: tuple[str, ...]) -> None:
    """Compare the outputs on the evaluation inputs with the float model's, sample by sample."""
    executor = registry.executor("ort", threads=judge.THREADS)
    for name in cases or zoo.NAMES:
        case = zoo.case(name)
        paths = {
            tool: folder(case) / f"{tool}.onnx"
            for tool in tools or TOOLS
            if "value" in (found := record(case, tool)) and not found.get("error")
        }
        runs = {tool: executor.prepare(ir.load(path)) for tool, path in paths.items()}
        for tool, sums in closeness(case, executor.prepare(ir.load(simplified(case))), runs).items():
            record(case, tool, {"output_error": sums.error, "agreement": sums.agreement})
            agreed = "" if sums.agreement is None else f"{100 * sums.agreement:6.2f} % agree"
            click.echo(f"{name:20} {tool:24} {sums.error:.5f} {agreed}")


@main.command("calibration")
@click.argument("name", type=click.Choice(zoo.NAMES))
@click.option("--samples", default=256, show_default=True)
@click.option("--method", default="minmax", show_default=True)
def calibration(name: str, samples: int, method: str) -> None:
    """Peak memory and time of calibrating on many samples: those of the case, repeated, read one by one from disk."""
    passes = f"default,quantize{{calibration_method={method},equalize=false,keep=none}}"
    peer = Peer("calibration", "quantize_lwgraph.py", {"passes": passes, "samples": samples})
    case = zoo.case(name)
    outcome = run(peer, simplified(case), folder(case) / "feeds", folder(case) / "calibration.onnx", one_core=True)
    click.echo(
        f"{name} {method} {samples} samples: {outcome.peak_gigabytes:.2f} GB, {outcome.cpu_seconds:.0f} s "
        f"{outcome.error}"
    )


@main.command("table")
def table() -> None:
    """Write the page from what is known."""
    from benchmarks import quantize_table

    known: dict[str, dict[str, Record]] = {}
    for name in zoo.NAMES:
        case = zoo.case(name)
        original = judge.size(simplified(case))
        found = {tool: record(case, tool) for tool in TOOLS}
        known[name] = {tool: kept | {"original": original} for tool, kept in found.items() if kept}
    quantize_table.write({name: records for name, records in known.items() if records})


if __name__ == "__main__":
    main()
