"""Passes: the contract, the options, the pattern language, the driver, the pipeline and its instruments."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lwgraph.faces import lazy

if TYPE_CHECKING:
    from lwgraph.rewrite.base import Context, Contract, Gain, Pass, Skip, Skipped
    from lwgraph.rewrite.builder import Builder, Const
    from lwgraph.rewrite.pipeline import Pipeline, Step
    from lwgraph.rewrite.rule import RewritePass, Rule

_HOME = {
    "Builder": "builder",
    "Const": "builder",
    "Context": "base",
    "Contract": "base",
    "Gain": "base",
    "Pass": "base",
    "Pipeline": "pipeline",
    "RewritePass": "rule",
    "Rule": "rule",
    "Skip": "base",
    "Skipped": "base",
    "Step": "pipeline",
}


__getattr__, __dir__ = lazy(__name__, _HOME)

__all__ = [
    "Builder",
    "Const",
    "Context",
    "Contract",
    "Gain",
    "Pass",
    "Pipeline",
    "RewritePass",
    "Rule",
    "Skip",
    "Skipped",
    "Step",
]
