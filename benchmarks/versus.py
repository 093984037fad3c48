"""The peers on every case: points lost, speed-up over the simplified float model, size, time and memory of the tool."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from benchmarks import judge, tables, whole, zoo
from benchmarks.peers.run import PEERS, run, write_feeds
from benchmarks.run import commit
from benchmarks.zoo import Case, cache
from lwgraph.errors import LwgraphError


def _models(case: Case, names: tuple[str, ...], folder: Path) -> tuple[dict[str, Path], dict[str, dict[str, Any]]]:
    """Let each peer make its model: the models that came of it, and a record of each peer."""
    write_feeds(case.calibration(), folder / "feeds")
    models, records = {}, {}
    for name in names:
        outcome = run(PEERS[name], case.model(), folder / "feeds", folder / f"{name}.onnx")
        records[name] = {"seconds": outcome.seconds, "gigabytes": outcome.peak_gigabytes, "error": outcome.error}
        if outcome.model:
            models[name] = outcome.model
        click.echo(f"  {name:24} {outcome.seconds:6.1f} s  {outcome.error}")
    return models, records


def measure(case: Case, names: tuple[str, ...]) -> dict[str, Any]:
    """Everything about one case, as it is kept."""
    folder = cache.folder("results") / "versus" / case.name
    models, records = _models(case, tuple(dict.fromkeys(("onnxsim", *names))), folder)
    if (ours := whole.result(case.name)).exists():
        ran = whole.of(case)
        models["lwgraph"], records["lwgraph"] = ours, {"error": "", "seconds": ran["seconds"]}
        records["lwgraph"] |= {"gigabytes": ran["peak"] / 1e9, "commit": ran["commit"]}
    base = judge.score(case, case.model())
    for name in list(models):
        try:
            records[name]["points"] = case.points(base, judge.score(case, models[name]))
            records[name]["size"] = judge.size(models[name]) / judge.size(case.model())
        except LwgraphError as error:
            records[name]["error"] = str(error)
            del models[name]
        except (ValueError, IndexError) as error:  # outputs of other ranks than the metric reads
            records[name]["error"] = f"its outputs cannot be scored: {error}"
            del models[name]
    reference = models.pop("onnxsim", case.model())
    latencies = judge.race(case, {"onnxsim": reference, "float": case.model()} | models)
    for name in ["onnxsim", *models]:
        records[name]["speedup"] = latencies.speedup(name).ratio
    milliseconds = latencies.timing("onnxsim").median * 1e3
    return {"base": base, "milliseconds": milliseconds, "peers": records, "commit": commit()}


def _row(name: str, record: dict[str, Any]) -> list[str]:
    if record["error"]:
        return [name, "failed", "", "", "", record["error"][:60].replace("|", "/")]
    spent = [f"{record['seconds']:.0f} s", f"{record['gigabytes']:.1f} GB"] if "seconds" in record else ["", ""]
    return [name, f"{record['points']:.2f}", f"{record['speedup']:.2f}", f"{record['size']:.2f}", *spent]


def report() -> str:
    """The README's section: per case all peers, the fastest within the budget in bold."""
    parts = []
    for case_name in zoo.NAMES:
        if (result := tables.kept("versus", case_name)) is None:
            continue
        case, peers = zoo.case(case_name), result["peers"]
        within = {n: r["speedup"] for n, r in peers.items() if not r["error"] and judge.within(r["points"])}
        best = max(within, key=lambda n: within[n], default="")
        rows = [_row(f"**{name}**" if name == best else name, record) for name, record in peers.items()]
        parts.append(
            f"**{case_name}**: {result['base']:.4f} {case.unit}, float {result['milliseconds']:.2f} ms; "
            f"measured at build {result['commit']}{_of_build(peers)}\n\n"
            + tables.table(["tool", "points lost", "speed-up", "size", "time", "memory"], rows)
        )
    return f"{tables.conditions()}\n\n" + "\n\n".join(parts)


def _of_build(peers: dict[str, dict[str, Any]]) -> str:
    return f", lwgraph of {ours['commit']}" if (ours := peers.get("lwgraph")) else ""


def main(cases: tuple[str, ...], names: tuple[str, ...], again: bool) -> None:
    """Measure the cases that are not kept with these tools, and write the table after each.

    Args:
        cases: their names; none: all.
        names: of the tools.
        again: whether to measure anew what is kept.
    """
    for name in cases or zoo.NAMES:
        click.echo(name)
        kept = tables.kept("versus", name)
        if again or kept is None or not set(names) <= set(kept["peers"]):
            tables.keep("versus", name, measure(zoo.case(name), names))
        tables.write("versus", report())
