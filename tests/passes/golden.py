"""Before and after of each pass, read from text files.

A file holds the cases of one pass and lies where the pass does: `=== title`, a line of settings (`pass:`, `opset:`),
`--- before` with a model in onnx's syntax (see `rewrite_models.parse`), `--- after` with the count of rewrites and the
model as lwgraph shows it. A twin that must not match has the line `unchanged` instead.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from lwgraph import ir
from tests.rewrite.rewrite_models import parse


@dataclass(frozen=True)
class Case:
    path: Path
    title: str
    settings: dict[str, str]
    before: str
    after: str

    @property
    def model(self) -> ir.Model:
        return parse(
            self.before,
            opset=int(self.settings.get("opset", "17")),
            extra=self.settings.get("extra", ""),
            ir_version=int(self.settings.get("ir", "10")),
        )


def _settings(text: str) -> dict[str, str]:
    return {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in text.splitlines() if line)}


def read(path: Path) -> list[Case]:
    cases = []
    shared: dict[str, str] = {}
    head, *blocks = re.split(r"^=== ", path.read_text("utf-8"), flags=re.MULTILINE)
    shared.update(_settings(head))
    for block in blocks:
        title, _, rest = block.partition("\n")
        settings, before, after = re.split(r"^--- (?:before|after)\n", rest, flags=re.MULTILINE)
        cases.append(Case(path, title.strip(), shared | _settings(settings), before.strip(), after.strip()))
    return cases


FILES = sorted(Path(__file__).parent.rglob("*.txt"))
CASES = [case for path in FILES for case in read(path)]
