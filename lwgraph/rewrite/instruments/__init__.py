"""Instruments: verify, time, dump, bisect, reproduce."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lwgraph.rewrite.instruments.base import Instrument
    from lwgraph.rewrite.instruments.bisect import BisectLimit, Culprit, find_culprit
    from lwgraph.rewrite.instruments.dump import Dump
    from lwgraph.rewrite.instruments.reproducer import Reproducer
    from lwgraph.rewrite.instruments.timing import PassTimer
    from lwgraph.rewrite.instruments.verify import Verify

_HOME = {
    "BisectLimit": "bisect",
    "Culprit": "bisect",
    "Dump": "dump",
    "Instrument": "base",
    "Reproducer": "reproducer",
    "PassTimer": "timing",
    "Verify": "verify",
    "find_culprit": "bisect",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'lwgraph.rewrite.instruments' has no attribute '{name}'")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)


__all__ = ["BisectLimit", "Culprit", "Dump", "Instrument", "PassTimer", "Reproducer", "Verify", "find_culprit"]
