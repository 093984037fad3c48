"""Passes: the contract, the options, the pattern language, the driver, the pipeline and its instruments."""

from lwgraph.contract import Contract
from lwgraph.rewrite.base import Context, Gain, Pass, Skip, Skipped
from lwgraph.rewrite.builder import Builder, Const
from lwgraph.rewrite.instrument import Step
from lwgraph.rewrite.pipeline import Pipeline
from lwgraph.rewrite.rule import RewritePass, Rule

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
