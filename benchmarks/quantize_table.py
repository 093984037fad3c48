"""The page benchmarks/QUANTIZE.md from what `benchmarks.quantize` has kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks import tables, zoo
from benchmarks.zoo import Case

PAGE = Path(__file__).resolve().parent / "QUANTIZE.md"
Record = dict[str, Any]
ALLOWED_POINTS, ALLOWED_TIME = 0.2, 0.03  # more than the best peer may not be lost, or be slower
DEPTHWISE = ("efficientnet_lite0", "ppocrv5_rec", "arbez_yolox_s")  # where peers lose most


def points(case: Case, found: Record) -> float | None:
    """Points lost; None when there is no score."""
    return None if found.get("error") or "value" not in found else case.points(case.published, found["value"])


def best(case: Case, records: dict[str, Record], prefix: str) -> str | None:
    """The configuration of a tool that loses least; of equals the one that is faster."""
    scored = [
        (points(case, r), -r.get("speedup", 0.0), name)
        for name, r in records.items()
        if name.startswith(prefix) and points(case, r) is not None
    ]
    return min(scored, key=lambda s: (round(s[0] or 0.0, 2), s[1]))[2] if scored else None


def case_table(case: Case, records: dict[str, Record]) -> str:
    """Every tool on one case."""
    rows = []
    for name, found in records.items():
        if not found:
            continue
        lost = points(case, found)
        speed = f"{found['speedup']:.2f}" if "speedup" in found else ""
        cost = f"{found['cpu']:.0f} s" if "cpu" in found else "", f"{found['gigabytes']:.2f} GB"
        if lost is None:
            error = str(found.get("error", ""))[:90].replace("|", "/")
            rows.append([name, "failed" if error else "not scored", "", "", "", "", *cost, error])
            continue
        layers = f"{found['integer']} / {found['float']} / {found['islands']}"
        error = f"{found['output_error']:.4f}" if "output_error" in found else ""
        agreed = f"{100 * found['agreement']:.2f} %" if found.get("agreement") is not None else ""
        size = f"{found['size'] / found['original']:.2f}"
        rows.append([name, f"{lost:.2f}", error, agreed, speed, size, *cost, layers])
    head = [
        "tool",
        "points lost",
        "output error",
        "agreement",
        "speed-up",
        "size",
        "time",
        "memory",
        "integer / float / islands",
    ]
    return f"**{case.name}** (float: {case.published:.4f} {case.unit})\n\n" + tables.table(head, rows)


def verdicts(all_records: dict[str, dict[str, Record]]) -> str:
    """Ours against each peer's best configuration, case by case, and whether the aims are met."""
    rows = []
    for name, records in all_records.items():
        case, ours = zoo.case(name), records.get("lwgraph_int8", {})
        mine = points(case, ours)
        cells = [name, "" if mine is None else f"{mine:.2f}"]
        for prefix in ("ort_", "nncf_", "aimet_", "quark_"):
            other = best(case, records, prefix)
            if other is None:
                tried = [r for n, r in records.items() if n.startswith(prefix)]
                cells.append("failed" if any(r.get("error") for r in tried) else "")
                continue
            lost = points(case, records[other]) or 0.0
            speed = records[other].get("speedup")
            ratio = f", {ours['speedup'] / speed:.2f}x" if speed and ours.get("speedup") else ""
            cells.append(f"{lost:.2f} ({other}{ratio})")
        rows.append(cells)
    return tables.table(["case", "lwgraph", "ORT, best", "NNCF, best", "AIMET", "Quark"], rows)


def aims(all_records: dict[str, dict[str, Record]]) -> str:
    """Counts over the cases for which both have a score."""
    lines = []
    for prefix, label in (("ort_", "ONNX Runtime"), ("nncf_", "NNCF"), ("aimet_", "AIMET"), ("quark_", "Quark")):
        compared = worse = better = slower = 0
        recovered = []
        for name, records in all_records.items():
            case = zoo.case(name)
            mine, other = points(case, records.get("lwgraph_int8", {})), best(case, records, prefix)
            if mine is None or other is None:
                continue
            theirs = points(case, records[other]) or 0.0
            compared += 1
            worse += mine > theirs + ALLOWED_POINTS
            better += mine < theirs
            speeds = records["lwgraph_int8"].get("speedup"), records[other].get("speedup")
            slower += bool(speeds[0] and speeds[1] and speeds[0] < (1 - ALLOWED_TIME) * speeds[1])
            if name in DEPTHWISE and theirs > 0.5:
                recovered.append(f"{name} {100 * (1 - max(mine, 0.0) / theirs):.0f} %")
        if compared:
            lines.append(
                f"- Against {label} in its best configuration, {compared} cases: better in {better}, worse by "
                f"over {ALLOWED_POINTS} points in {worse}, slower by over {100 * ALLOWED_TIME:.0f} % in "
                f"{slower}. Of its loss recovered: {', '.join(recovered) or 'it loses 0.5 points nowhere'}."
            )
    return "\n".join(lines)


def write(all_records: dict[str, dict[str, Record]]) -> None:
    """Rewrite what stands between the page's markers."""
    tables.write("verdicts", f"{tables.conditions()}\n\n{verdicts(all_records)}\n\n{aims(all_records)}", PAGE)
    tables.write("cases", "\n\n".join(case_table(zoo.case(n), r) for n, r in all_records.items()), PAGE)
