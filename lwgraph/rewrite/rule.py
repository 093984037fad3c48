"""A local rewrite as a pass: a pattern, and a replacement written like it."""

from __future__ import annotations

import functools
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from lwgraph import ir
from lwgraph.rewrite.base import Context, Pass
from lwgraph.rewrite.driver import CompiledRule, rewrite
from lwgraph.rewrite.pattern import compile_pattern


@dataclass(frozen=True)
class Rule:
    """One pattern function and its replacement function."""

    pattern: Callable[..., Any]
    replace: Callable[..., Any]


@dataclass(frozen=True)
class RewritePass(Pass):
    """A pass made of local rewrites, applied wherever they match until none does.

    `pattern(self, op, ...)` is described in `lwgraph.rewrite.pattern`. `replace(self, op, ...)` takes whichever of the
    pattern's names it needs and returns the value, or tuple of values, that stands for what the pattern returned; it
    only builds, with `op.Type(...)`, `op.const(array)` and `op.copy(node, ...)`. To refuse, it raises `Skip(reason)`,
    or returns None where there is nothing to explain. A pass with several patterns overrides `rules`.
    """

    asks: ClassVar[bool] = True
    min_opset: ClassVar[int] = 7  # operators broadcast as NumPy does from here on

    @abstractmethod
    def pattern(self, op: Any, *args: Any) -> Any:
        """The pattern to look for."""

    @abstractmethod
    def replace(self, op: Any, *args: Any) -> Any:
        """The replacement."""

    def rules(self) -> Sequence[Rule]:
        """The rewrites, tried in order at each node."""
        return (Rule(self.pattern, self.replace),)

    def run(self, model: ir.Model, context: Context) -> int:
        """Apply the rules to every graph of the model until none matches."""
        return rewrite(model, _compiled(self), self.name, context, self.min_opset)


@functools.lru_cache(maxsize=512)
def _compiled(p: RewritePass) -> tuple[CompiledRule, ...]:
    return tuple(CompiledRule(compile_pattern(r.pattern, r.replace, f"pass '{p.name}'"), r.replace) for r in p.rules())
