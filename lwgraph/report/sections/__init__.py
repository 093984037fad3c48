"""The sections of the HTML page, in order; each is a file with one function `(report) -> html`, "" when it has nothing.

A section takes what it shows from the fields of the report, or from `report.details[NAME]`, plain data that goes into
the JSON report as it is. Every text that comes from a model is escaped by the section.
"""

from __future__ import annotations

from collections.abc import Callable

from lwgraph.report.record import Report
from lwgraph.report.sections.accuracy import accuracy
from lwgraph.report.sections.architecture import architecture
from lwgraph.report.sections.coupling import coupling
from lwgraph.report.sections.footer import footer
from lwgraph.report.sections.front import front
from lwgraph.report.sections.latency import latency
from lwgraph.report.sections.layer_sensitivity import layer_sensitivity
from lwgraph.report.sections.layers import layers
from lwgraph.report.sections.passes import passes
from lwgraph.report.sections.proof import proof
from lwgraph.report.sections.quantization import quantization
from lwgraph.report.sections.refusals import refusals
from lwgraph.report.sections.remaining import remaining
from lwgraph.report.sections.run import run
from lwgraph.report.sections.runtimes import runtimes
from lwgraph.report.sections.search import search
from lwgraph.report.sections.sensitivity import sensitivity
from lwgraph.report.sections.stages import stages
from lwgraph.report.sections.tiles import tiles

Section = Callable[[Report], str]
SECTIONS: tuple[Section, ...] = (
    runtimes,
    tiles,
    stages,
    accuracy,
    front,
    latency,
    architecture,
    remaining,
    run,
    search,
    layers,
    layer_sensitivity,
    quantization,
    sensitivity,
    coupling,
    proof,
    passes,
    refusals,
    footer,
)

__all__ = ["SECTIONS", "Section"]
