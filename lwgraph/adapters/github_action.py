"""What the GitHub Action (`action.yml`) runs: optimize strictly, tell, and fail where a limit is broken.

Its inputs are environment variables, so that nothing of them is ever read by a shell.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def command(asked: Mapping[str, str]) -> list[str]:
    """The command line: options of the user, then what makes a run fit for continuous integration."""
    limits = ["--max-bytes", asked["LWGRAPH_MAX_BYTES"]] if asked.get("LWGRAPH_MAX_BYTES") else []
    if asked.get("LWGRAPH_MAX_RATIO"):
        limits += ["--speedup", f"{1 / float(asked['LWGRAPH_MAX_RATIO']):g}"]
    return [
        *("optimize", asked["LWGRAPH_MODEL"], "-o", asked["LWGRAPH_OUTPUT"], "--report", asked["LWGRAPH_REPORT"]),
        *shlex.split(asked.get("LWGRAPH_OPTIONS", "")),
        *limits,
        *("--strict", "--overwrite", "--json"),
    ]


def told(document: Mapping[str, Any]) -> dict[str, str]:
    """The outputs of the action."""
    stages = document["stages"]
    ratio = stages[-1]["ratio"]
    return {
        "verdict": document["verdict"],
        "speed": "" if ratio is None else f"{1 / ratio:.3f}",
        "bytes": str(stages[-1]["facts"]["bytes"]),
        "model": document["output"],
    }


def failure(document: Mapping[str, Any], asked: Mapping[str, str]) -> str:
    """Why the step fails, in one line; "" where it does not."""
    if "error" in document:
        return str(document["error"])
    if document["verdict"] == "broken":
        return str(document["outcome"])
    if document["verdict"] == "not resolved" and asked.get("LWGRAPH_NOT_RESOLVED", "fail") != "pass":
        return str(document["outcome"])
    return ""


def main() -> int:
    """Run, write outputs and summary where GitHub asks for them, print an error annotation on failure."""
    asked = os.environ
    try:
        line = command(asked)
    except ValueError as error:
        print(f"::error::max-latency-ratio or options cannot be read: {error}")
        return 2
    ended = subprocess.run([sys.executable, "-m", "lwgraph", *line], stdout=subprocess.PIPE, text=True, check=False)
    document = json.loads(ended.stdout)
    if "error" not in document:
        found = told(document)
        _append("GITHUB_OUTPUT", "".join(f"{name}={value}\n" for name, value in found.items()))
        _append("GITHUB_STEP_SUMMARY", summary(document, found))
        print(f"verdict {found['verdict']}, speed {found['speed'] or 'not measured'}, {found['bytes']} bytes")
    why = failure(document, asked)
    if why:
        print(f"::error::{why}")
    return 1 if why else 0


def summary(document: Mapping[str, Any], found: Mapping[str, str]) -> str:
    """The run as a table in Markdown."""
    rows = [
        f"| {stage['name']} | {stage['facts']['bytes']:,} | {stage['speed'].partition(' (')[0]} "
        f"| {'' if stage['score'] is None else format(stage['score'], '.4f')} |"
        for stage in document["stages"]
    ]
    head = f"### lwgraph: {document['source']}: promise {found['verdict']}\n\n"
    notes = "".join(f"\n* {note}" for note in document["notes"])
    return head + "\n".join(["| model | bytes | speed | score |", "|---|--:|--:|--:|", *rows]) + f"\n{notes}\n"


def _append(variable: str, text: str) -> None:
    path = os.environ.get(variable)
    if path:
        with Path(path).open("a", encoding="utf8") as file:
            file.write(text)


if __name__ == "__main__":
    sys.exit(main())

__all__ = ["command", "failure", "main", "summary", "told"]
