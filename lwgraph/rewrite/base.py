"""What a pass is: its contract, its options, and the context it runs in."""

from __future__ import annotations

import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from lwgraph import ir, registry
from lwgraph.calibrate import Statistics
from lwgraph.calibrate.capture import ACTIVATION_BYTES
from lwgraph.contract import Contract
from lwgraph.errors import UsageError
from lwgraph.executor import in_stated_types
from lwgraph.failures import Failures
from lwgraph.objects import load_object
from lwgraph.rewrite.options import build, format_options, parse_spelling

if TYPE_CHECKING:
    from lwgraph.calibrate.known_ranges import KnownRanges
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


@dataclass(eq=False)
class Log:
    """What changes while passes run: what they tell, what they remember, and how many rewrites they did.

    Attributes:
        skipped: refusals, in the order in which they were recorded.
        warnings: lines that the user should read.
        gains: what recovery passes measured.
        memory: what passes keep between their calls.
        proved: local proofs that need no repeating.
        limit: rewriting stops after so many rewrites (bisection); None: never.
        rewrites: that were allowed so far, over all passes.
        last: pass and place of the last of them.
    """

    skipped: dict[Skipped, None] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    gains: list[Gain] = field(default_factory=list)
    memory: dict[object, object] = field(default_factory=dict)
    proved: set[object] = field(default_factory=set)
    limit: int | None = None
    rewrites: int = 0
    last: tuple[str, str] | None = None


@dataclass(frozen=True, eq=False)
class Context:
    """What a pass may use besides the model. Everything optional is None when the user gave nothing for it.

    Only its log changes. `beside` makes another context where a part of the work needs other data or statistics.
    """

    executor: Executor | None = None  # the target runtime
    reference: Executor | None = None  # the independent one
    statistics: Statistics | None = None  # Gram matrices of layer inputs, collected on first use
    data: list[Feeds] | None = None  # calibration feeds: what may be fitted to
    probe: list[Feeds] | None = None  # only for running, never for fitting: generated, or evaluation data
    teacher: ir.Model | None = None  # the model before any approximate rewrite, which recovery passes imitate
    seed: int = 0
    threads: int = 1
    progress: Callable[[str, int, int], None] = lambda what, done, total: None
    details: dict[str, Any] | None = None  # for the report: what passes measured, by section; None: nobody asks
    ranges: KnownRanges | None = None  # of the network that the model is a variant of, to be compared with others
    memory_bytes: int | None = None  # that statistics and fits may take together; None: what they take by themselves
    patience: Callable[[], float] = lambda: math.inf  # seconds that the next pass of a pipeline may take
    failures: Failures = field(default_factory=lambda: Failures(strict=True), repr=False)  # records, or raises
    log: Log = field(default_factory=Log, repr=False)

    @property
    def feeds(self) -> list[Feeds]:
        """What the model can be run on; nothing may be fitted to it, see `data`."""
        return self.probe or self.data or []

    @property
    def skipped(self) -> list[Skipped]:
        """Every refusal, in the order in which it was recorded."""
        return list(self.log.skipped)

    @property
    def warnings(self) -> list[str]:
        """What the user should read; `warn` adds to it."""
        return self.log.warnings

    @property
    def gains(self) -> list[Gain]:
        """What recovery passes measured, and where they record it."""
        return self.log.gains

    @property
    def memory(self) -> dict[object, object]:
        """What passes keep between their calls."""
        return self.log.memory

    def beside(self, **changes: Any) -> Context:
        """A context that differs in `changes` and shares the log, with its refusals, warnings and count of rewrites."""
        return dataclasses.replace(self, **changes)

    def statistics_of(self, model: ir.Model, data: list[Feeds] | None = None) -> Statistics:
        """Statistics of a model's layer inputs on the data, or on a part of them.

        Those of a few models are alive at a time, and fits need as much, so each takes half of `memory_bytes` at most.
        """
        executor = in_stated_types(self.executor or registry.executor("ort", threads=self.threads))
        return Statistics(
            model,
            (self.data or []) if data is None else data,
            executor,
            self.seed,
            memory_bytes=None if self.memory_bytes is None else self.memory_bytes // 2,
            activation_bytes=self.bytes_of(ACTIVATION_BYTES),
            progress=self.progress,
        )

    def bytes_of(self, wanted: int, share: float = 0.125) -> int:
        """What a step may take that would take `wanted` bytes: no more than a share of `memory_bytes`."""
        return wanted if self.memory_bytes is None else min(wanted, int(share * self.memory_bytes))

    def skip(self, pass_name: str, place: str, reason: str) -> None:
        """Record a refusal once."""
        self.log.skipped[Skipped(pass_name, place, reason)] = None

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
        log = self.log
        if log.limit is not None and log.rewrites >= log.limit:
            return False
        log.rewrites += 1
        log.last = (pass_name, place)
        return True

    def evaluator(self) -> Executor:
        """An executor for a pass that must compute something: the reference when there is one, else the target."""
        return self.reference or self.executor or registry.executor("reference")


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
    """The pass class of a registered name (a form's, too) or of `module:Class`; UsageError with a near miss.

    The module may also be a file, as in `file.py:Class`. A form that is named so stands for its pass over all layers,
    as a registered one does.
    """
    found = load_object(name, "pass or form") if ":" in name else registry.pass_class(name)
    if isinstance(found, type) and not issubclass(found, Pass) and hasattr(found, "as_pass"):
        found = found.as_pass()
    if not (isinstance(found, type) and issubclass(found, Pass)):
        raise UsageError(
            f"'{name}' is not a pass; allowed: a class derived from lwgraph.rewrite.Pass or lwgraph.layers.Form"
        )
    return found


def spelling(cls: type[Pass]) -> str:
    """The registered name, or `module:Class` for a class that is not registered."""
    name = cls.name
    known = name in registry.names("passes") or name in registry.names("forms")
    if known and registry.pass_class(name) is cls:
        return name
    return f"{cls.__module__}:{cls.__qualname__}"


__all__ = ["Context", "Contract", "Gain", "Pass", "Skip", "Skipped", "find_class", "spelling"]
