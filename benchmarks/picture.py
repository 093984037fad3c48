"""The picture of README.md: the plans of one run, drawn by the code that draws them in the report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks import run
from lwgraph.report.chart import standalone
from lwgraph.report.sections.front import picture

ROOT = Path(__file__).resolve().parents[1]
PLANS, PICTURE = ROOT / "benchmarks" / "front.json", ROOT / "docs" / "front.svg"


def drawn(kept: dict[str, Any]) -> str:
    """The picture as an SVG file, of what is kept of a run."""
    return standalone(picture(kept["front"], kept["unit"]))


def main(report: Path | None) -> None:
    """Keep the plans of a report, where one is given, and draw those that are kept."""
    if report is not None:
        found = json.loads(report.read_text("utf8"))
        front = [{k: v for k, v in plan.items() if k != "why"} for plan in found["details"]["front"]]
        kept = {"build": run.commit(), "source": found["source"], "unit": found["score"]["unit"], "front": front}
        PLANS.write_text(json.dumps(kept, indent=1) + "\n", "utf8")
    PICTURE.write_text(drawn(json.loads(PLANS.read_text("utf8"))), "utf8")
