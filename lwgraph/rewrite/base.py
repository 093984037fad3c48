"""What a pass is: its contract, its options, and the context it runs in."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from lwgraph import ir, registry
from lwgraph.contract import Contract
from lwgraph.errors import UsageError
from lwgraph.objects import load_object
from lwgraph.rewrite.options import build, format_options, parse_spelling

if TYPE_CHECKING:
    from lwgraph.calibrate import Statistics
    from lwgraph.executor import Executor, Feeds


class Skip(Exception):  # noqa: N818 - not an error: a refusal with a reason
    """Raised by a rewrite that declines a site; the reason is shown by --explain."""


@dataclass(frozen=True)
class Skipped:
    """One refusal: which pass, at which node or value, and why."""

    pass_name: str
    place: str
    reason: str

    def __str__(self) -> str:
        return f"{self.pass_name} at '{self.place}': {self.reason}"


@dataclass(frozen=True)
class Gain:
    """A distance to the original before and after a pass, lower is better, on data that the pass did not fit to."""

    pass_name: str
    what: str
    before: float
    after: float
    kept: bool = True  # False: it did not help and was undone

    def __str__(self) -> str:
        end = "" if self.kept else ", undone"
        return f"{self.pass_name}: {self.what} {self.before:.4g} -> {self.after:.4g}{end}"


@dataclass
class Context:
    """What a pass may use besides the model. Everything optional is None when the user gave nothing for it."""

    executor: Executor | None = None  # the target runtime
    reference: Executor | None = None  # the independent one
    statistics: Statistics | None = None  # Gram matrices of layer inputs, collected on first use
    data: list[Feeds] | None = None  # calibration feeds: what may be fitted to
    probe: list[Feeds] | None = None  # only for running, never for fitting: generated, or evaluation data
    teacher: ir.Model | None = None  # the model before any approximate rewrite, which recovery passes imitate
    seed: int = 0
    threads: int = 1
    limit: int | None = None  # stop rewriting after so many rewrites (bisection); None: never
    progress: Callable[[str, int, int], None] = lambda what, done, total: None
    warnings: list[str] = field(default_factory=list)
    gains: list[Gain] = field(default_factory=list)  # what recovery passes measured
    details: dict[str, Any] | None = None  # for the report: what passes measured, by section; None: nobody asks
    last: tuple[str, str] | None = field(default=None, init=False)  # pass and place of the last rewrite allowed
    rewrites: int = field(default=0, init=False)  # rewrites allowed so far, over all passes
    memory: dict[object, object] = field(default_factory=dict, repr=False)  # what passes keep between their calls
    proved: set[object] = field(default_factory=set, init=False, repr=False)  # local proofs that need no repeating
    _skipped: dict[Skipped, None] = field(default_factory=dict, init=False, repr=False)

    @property
    def feeds(self) -> list[Feeds]:
        """What the model can be run on; nothing may be fitted to it, see `data`."""
        return self.probe or self.data or []

    @property
    def skipped(self) -> list[Skipped]:
        """Every refusal, in the order in which it was recorded."""
        return list(self._skipped)

    def beside(self, **changes: Any) -> Context:
        """A context that differs in `changes` and records refusals, warnings and gains where this one does."""
        other: Context = dataclasses.replace(self, **changes)
        other._skipped = self._skipped
        return other

    def skip(self, pass_name: str, place: str, reason: str) -> None:
        """Record a refusal once."""
        self._skipped[Skipped(pass_name, place, reason)] = None

    def warn(self, message: str, about: str = "") -> None:
        """Record something that the user should read, once.

        Args:
            message: one line.
            about: how it begins; a second message that begins so says nothing new. "": only equal messages do that.
        """
        if not any(known == message or (about and known.startswith(about)) for known in self.warnings):
            self.warnings.append(message)

    def allow(self, pass_name: str, place: str) -> bool:
        """Ask before each rewrite; False when the limit is reached, and then the rewrite must not be done.

        For a pass with `asks = False` the pipeline asks once, for the whole of it.
        """
        if self.limit is not None and self.rewrites >= self.limit:
            return False
        self.rewrites += 1
        self.last = (pass_name, place)
        return True

    def evaluator(self) -> Executor:
        """An executor for a pass that must compute something: the reference when there is one, else the target."""
        found = self.reference or self.executor
        if found is None:
            found = self.reference = registry.executor("reference")
        return found


@dataclass(frozen=True)
class Pass(ABC):
    """A rewrite of a whole model. Subclasses are frozen dataclasses; their fields are their options.

    `str(p)` is the spelling on the command line, `name{option=value}` with the options that are not the default;
    `Pass.parse` reads it back. The docstring's first line is the help; an option's is in its `Annotated` type.
    A `guarded` pass that fails or breaks its contract is undone with a warning; any other stops the pipeline.
    """

    name: ClassVar[str]  # "fold-batch-norm": lower case and hyphens
    contract: ClassVar[Contract]
    guarded: ClassVar[bool] = False
    spares: ClassVar[str] = ""  # the option that names nodes to leave as they are, where there is one
    asks: ClassVar[bool] = False  # whether `run` asks `context.allow` before each rewrite

    @abstractmethod
    def run(self, model: ir.Model, context: Context) -> int:
        """Rewrite `model` in place; return how many rewrites were done (0: untouched)."""

    def __str__(self) -> str:
        return spelling(type(self)) + format_options(self)

    def sparing(self, nodes: Sequence[str]) -> Pass:
        """The pass told to leave these nodes as they are, too; itself where it `spares` none."""
        if not self.spares or not nodes:
            return self
        told = tuple(dict.fromkeys((*getattr(self, self.spares), *nodes)))
        changed: Pass = dataclasses.replace(self, **{self.spares: told})
        return changed

    @staticmethod
    def parse(text: str) -> Pass:
        """The pass spelled by `text`; UsageError with a near miss for an unknown name, option or value."""
        name, values = parse_spelling(text)
        return build(find_class(name), values)

    @staticmethod
    def check_option(name: str, ok: bool, value: object, allowed: str) -> None:
        """For `__post_init__`: UsageError saying what is allowed unless `ok`."""
        if not ok:
            raise UsageError(f"option '{name}' is {value!r}; allowed: {allowed}")


def find_class(name: str) -> type[Pass]:
    """The pass class of a registered name (a form's, too) or of `module:Class`; UsageError with a near miss."""
    found = load_object(name, "pass") if ":" in name else registry.pass_class(name)
    if not (isinstance(found, type) and issubclass(found, Pass)):
        raise UsageError(f"'{name}' is not a pass; allowed: a class derived from lwgraph.rewrite.Pass")
    return found


def spelling(cls: type[Pass]) -> str:
    """The registered name, or `module:Class` for a class that is not registered."""
    name = cls.name
    known = name in registry.names("passes") or name in registry.names("forms")
    if known and registry.pass_class(name) is cls:
        return name
    return f"{cls.__module__}:{cls.__qualname__}"


__all__ = ["Context", "Contract", "Gain", "Pass", "Skip", "Skipped", "find_class", "spelling"]
