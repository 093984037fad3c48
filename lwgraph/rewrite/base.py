"""What a pass is: its contract, its options, and the context it runs in."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, ClassVar

from lwgraph import ir

if TYPE_CHECKING:
    from lwgraph.calibrate import Statistics
    from lwgraph.executor import Executor, Feeds


class Contract(Enum):
    """What a pass promises about the outputs; the pipeline holds it to that numerically."""

    EXACT = "bit-identical outputs"
    ROUNDING = "equal over the reals; rounding may differ"
    APPROXIMATE = "different by design, within a stated budget"


class Skip(Exception):  # noqa: N818 - not an error: a refusal with a reason
    """Raised by a rewrite that declines a site; the reason is shown by --explain."""


@dataclass(frozen=True)
class Skipped:
    """One refusal: which pass, at which node or value, and why."""

    pass_name: str
    place: str
    reason: str


@dataclass
class Context:
    """What a pass may use besides the model. Everything optional is None when the user gave nothing for it."""

    executor: Executor | None = None  # the target runtime
    reference: Executor | None = None  # the independent one
    statistics: Statistics | None = None  # Gram matrices of layer inputs, collected on first use
    data: list[Feeds] | None = None  # calibration feeds
    seed: int = 0
    threads: int = 1
    skipped: list[Skipped] = field(default_factory=list)
    progress: Callable[[str, int, int], None] = lambda what, done, total: None

    def skip(self, pass_name: str, place: str, reason: str) -> None:
        """Record a refusal once."""
        entry = Skipped(pass_name, place, reason)
        if entry not in self.skipped:
            self.skipped.append(entry)


@dataclass(frozen=True)
class Pass(ABC):
    """A rewrite of a whole model. Subclasses are frozen dataclasses; their fields are their options."""

    name: ClassVar[str]
    contract: ClassVar[Contract]

    @abstractmethod
    def run(self, model: ir.Model, context: Context) -> int:
        """Rewrite `model` in place; return how many rewrites were done (0: untouched)."""
