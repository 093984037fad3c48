"""Before and after of each pass, as text (`golden.py` says how the files read).

`LWGRAPH_UPDATE_GOLDEN=1 pytest tests/passes/test_golden.py` writes what is found into the files, and fails, for a
person to read the difference.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from lwgraph import ir, registry
from lwgraph.calibrate.generate import generate
from lwgraph.measure import compare_runs
from lwgraph.rewrite import Context, Pass
from lwgraph.rewrite.instruments.verify import plain_executor
from lwgraph.text import to_text
from tests.passes.golden import CASES, FILES, Case, read
from tests.rewrite.rewrite_models import verify

UPDATE = os.environ.get("LWGRAPH_UPDATE_GOLDEN") == "1"


def shown(model: ir.Model, count: int) -> str:
    if count == 0:
        return "unchanged"
    text = re.sub(r"^model .*\n", "", to_text(model))
    return f"{count} rewrite{'s' if count > 1 else ''}\n{text.strip()}"


@pytest.mark.parametrize("case", CASES, ids=[f"{c.path.stem}-{c.title.replace(' ', '_')}" for c in CASES])
def test_golden(case: Case) -> None:
    p, before = Pass.parse(case.settings["pass"]), case.model
    verify(before)
    after = ir.clone(before)
    count = p.run(after, Context())
    verify(after)
    assert (ir.fingerprint(after) == ir.fingerprint(before)) == (count == 0)
    found = shown(after, count)
    if UPDATE and found != case.after:
        case.path.write_text(_updated(case, found), "utf-8")
    assert found == case.after
    if count:
        feeds = generate(before, 2, seed=1)
        for executor in (plain_executor(), registry.executor("reference", precise=True)):
            comparison = compare_runs(executor.prepare(before), executor.prepare(after), feeds, p.contract)
            assert comparison.ok, str(comparison)


def _updated(case: Case, found: str) -> str:
    text = case.path.read_text("utf-8")
    start = text.index(f"=== {case.title}\n")
    start = text.index("--- after\n", start) + len("--- after\n")
    end = text.find("\n=== ", start)
    tail = text[end:] if end >= 0 else ""
    return text[:start] + found + "\n" + tail


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_each_pass_has_a_rewrite_and_a_twin(path: Path) -> None:
    cases = read(path)
    assert any(c.after == "unchanged" for c in cases)
    assert any(c.after != "unchanged" for c in cases)
    assert len({c.title for c in cases}) == len(cases)
