"""Passes: the contract, the options, the pattern language, the driver, the pipeline and its instruments."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

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


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'lwgraph.rewrite' has no attribute '{name}'")
    import importlib

    return getattr(importlib.import_module(f"lwgraph.rewrite.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(_HOME)


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
