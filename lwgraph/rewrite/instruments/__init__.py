"""Instruments: verify, time, dump, bisect, reproduce."""

from lwgraph.rewrite.instrument import Instrument
from lwgraph.rewrite.instruments.bisect import BisectLimit, Culprit, find_culprit
from lwgraph.rewrite.instruments.dump import Dump
from lwgraph.rewrite.instruments.reproducer import Reproducer
from lwgraph.rewrite.instruments.timing import PassTimer
from lwgraph.rewrite.instruments.verify import Verify

__all__ = ["BisectLimit", "Culprit", "Dump", "Instrument", "PassTimer", "Reproducer", "Verify", "find_culprit"]
