"""Limits of size are judged where there was no time to measure a speed."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from lwgraph.measure.promise import BROKEN, KEPT, OPEN
from lwgraph.optimizer import Request
from lwgraph.optimizer.deliver import on_limits
from lwgraph.plan.plan import Plan


@pytest.mark.parametrize(
    ("asked", "verdict", "words"),
    [
        (
            {"max_bytes": 10},
            BROKEN,
            "--max-bytes 10 was exceeded: the result has 4,000 bytes; nothing nearer was found",
        ),
        ({"max_bytes": "1MB"}, KEPT, ""),
        ({"max_macs": 5}, BROKEN, "--max-macs 5 was exceeded: one run takes 800 multiply-accumulates"),
        ({"max_macs": 1000}, KEPT, ""),
        ({"speedup": 2.0}, OPEN, "the speed of the result was not measured"),
        ({"max_latency": 1.0, "max_bytes": "1MB"}, OPEN, "the speed of the result was not measured"),
        ({"speedup": 2.0, "max_bytes": 10}, BROKEN, "--max-bytes 10 was exceeded"),
    ],
)
def test_limits(asked: dict[str, Any], verdict: str, words: str) -> None:
    facts = SimpleNamespace(bytes=4000, macs=800)
    stage = SimpleNamespace(milliseconds=None, ratio=None, ratio_spread=None, facts=facts)
    setting: Any = SimpleNamespace(request=Request(**asked), judge=object())
    report: Any = SimpleNamespace(stages=[stage, stage])
    found, why = on_limits(setting, report, Plan(), None)
    assert found == verdict and why.startswith(words) and bool(why) == bool(words)
