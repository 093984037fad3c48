"""Tables in benchmarks/README.md, each between two markers, and the kept results they are written from."""

from __future__ import annotations

import json
import platform
import re
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.zoo import cache
from benchmarks.zoo.data import frozen_folder

README = Path(__file__).resolve().parent / "README.md"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; the first column is left-aligned, the others right-aligned."""
    lines = [header, [":--"] + ["--:"] * (len(header) - 1), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def write(marker: str, text: str, page: Path = README) -> None:
    """Replace what stands between `<!-- MARKER -->` and `<!-- /MARKER -->` in a page."""
    content = page.read_text("utf8")
    pattern = re.compile(rf"(<!-- {marker} -->\n).*?(<!-- /{marker} -->)", re.DOTALL)
    if not pattern.search(content):
        raise ValueError(f"{page} has no <!-- {marker} --> ... <!-- /{marker} -->")
    page.write_text(pattern.sub(lambda found: f"{found[1]}{text}\n{found[2]}", content), "utf8")


def keep(kind: str, name: str, result: dict[str, Any]) -> None:
    """Keep one result, so that a table can be written again after a part of it was measured anew."""
    with cache.replacing(cache.folder("results") / kind / f"{name}.json") as new:
        new.write_text(json.dumps(result, indent=1))


def kept(kind: str, name: str) -> dict[str, Any] | None:
    """The result kept last, or None."""
    path = cache.folder("results") / kind / f"{name}.json"
    if not path.exists():
        return None
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def forget(kind: str, name: str) -> None:
    """Drop a result that is kept; fine where there is none."""
    (cache.folder("results") / kind / f"{name}.json").unlink(missing_ok=True)


def conditions() -> str:
    """What the figures depend on: processor, versions, data."""
    names = re.findall(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    packages = ", ".join(f"{name} {version(name)}" for name in ("onnxruntime", "onnx", "onnxsim", "numpy"))
    data = "the frozen" if frozen_folder() else "generated"
    processor = names[0] if names else platform.processor()
    return f"{processor}; Python {platform.python_version()}, {packages}; one thread; {data} data."
