"""The executor protocol: what runs a model, and what it may offer besides.

Implementations live in `runtime/` and in third-party plugins. `prepare` is all that an executor must have. The other
protocols here are optional abilities, which `offered` asks for.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeVar, cast, runtime_checkable

from lwgraph import ir
from lwgraph.arrays import Array

if TYPE_CHECKING:
    import onnx

T = TypeVar("T")
Feeds = Mapping[str, Array]
Run = Callable[[Feeds], dict[str, Array]]
MOST_THREADS = max(64, os.cpu_count() or 1)  # that an executor can be asked for


@runtime_checkable
class Executor(Protocol):
    """Runs models. Options (threads, precision) belong to the instance."""

    name: str

    def prepare(self, model: ir.Model, outputs: Sequence[str] | None = None) -> Run:
        """Make `model` ready to run.

        Args:
            model: the model; it is not changed.
            outputs: names of main-graph values to return; any intermediate may be named. None: the graph's outputs.

        Returns:
            a function from {input name: array} to {value name: array}, in the order of `outputs`.

        Raises:
            ModelError: the runtime cannot load the model, or a value in `outputs` does not exist.
            DataError: (when called) a feed is missing, unknown, or has the wrong dtype or shape.
        """
        ...


# ------------------------------------------------------------ who watches the runs

_check: ContextVar[Callable[[], None]] = ContextVar("check", default=lambda: None)


@contextmanager
def watched(check: Callable[[], None]) -> Iterator[None]:
    """Within, in this thread: `check` is called before each run of a model, and may raise to end the work."""
    token = _check.set(check)
    try:
        yield
    finally:
        _check.reset(token)


def before_run() -> None:
    """To be called by an executor before it runs a model; raises where the work is to end."""
    _check.get()()


# ------------------------------------------------------------ what an executor may offer


class Untimed(Protocol):
    """Has a twin for runs that nobody times."""

    def untimed(self) -> Executor:
        """One with the same results, faster, by whatever means would falsify a timing, such as all cores."""
        ...


class ReadySooner(Protocol):
    """Has a twin for models that run only once or twice, of whose outputs the shapes are wanted."""

    def ready_sooner(self) -> Executor:
        """One that does not bring weights into an order in which they are read faster."""
        ...


class AsWritten(Protocol):
    """Takes liberties that the graph does not state, and has a twin that takes none."""

    def as_written(self) -> Executor:
        """One that computes what the graph says, to be compared with another executor."""
        ...


class ShowsGraph(Protocol):
    """Shows the graph that it really runs."""

    def optimized(self, model: ir.Model) -> onnx.ModelProto:
        """That graph, after the runtime's own optimizations; ModelError when it cannot load the model."""
        ...


class Profiles(Protocol):
    """Tells what each kernel takes."""

    def profile(self, model: ir.Model, feeds: Sequence[Feeds]) -> list[Kernel]:
        """The kernels in the order in which they ran; ModelError or DataError when the model cannot be run."""
        ...


class Precisions(Protocol):
    """Computes floats in one of several precisions, which `registry.executor("NAME:PRECISION")` chooses."""

    @property
    def precisions(self) -> list[str]:
        """Those that this machine computes in."""
        ...


class ToldAsCode(Protocol):
    """Tells how users run a model just as it does."""

    def code(self, path: str) -> str:
        """Python that runs the model in a file: lines that load it, and a line that gives its outputs."""
        ...


@runtime_checkable
class LargeWeights(Protocol):
    """A run that other runs may take the weights from: where they do not fit together, it reads them anew each time."""

    @property
    def bytes(self) -> int:
        """Of the weights."""
        ...

    @property
    def room(self) -> float:
        """Bytes that runs may hold together."""
        ...


class FixesSizes(Protocol):
    """Is faster with a model whose sizes are known when it is loaded."""

    def at_sizes(self, sizes: Mapping[str, Sequence[int]]) -> Executor:
        """A twin that loads models for these sizes of some inputs, by name, and takes no others."""
        ...


class InCallingThread(Protocol):
    """Tells whether all of a run is done by the thread that asked for it, so that its own clock tells the time."""

    @property
    def in_calling_thread(self) -> bool:
        """Whether it is."""
        ...


@dataclass(frozen=True)
class Kernel:
    """One kernel of an optimized graph: its node's name there, its operator, and seconds per run of the model.

    The seconds are the median of the calls, times how often a run calls kernels of this name.

    Attributes:
        precision: that it ran in, in the runtime's own word; "" where the runtime does not tell.
        nodes: names of the model's nodes that it stands for; empty where the runtime does not tell.
    """

    name: str
    op_type: str
    seconds: float
    precision: str = ""
    nodes: tuple[str, ...] = ()


class Settings(NamedTuple):
    """What tells one executor from another of its name, in the keys of what was measured with it; "" where not told.

    Attributes:
        version: of the runtime.
        level: of its own optimizations.
        threads: that it computes with.
    """

    version: str = ""
    level: str = ""
    threads: int | str = ""


def offered(executor: Executor, ability: type[T]) -> T | None:
    """The executor as one of the optional protocols above; None where it lacks the ability.

    A wrapper that hands on attributes has what it hands on, so attributes are looked up, not types.
    """
    members = [name for name in vars(ability) if not name.startswith("_")]
    return cast(T, executor) if all(hasattr(executor, name) for name in members) else None


def at_sizes_of(executor: Executor, model: ir.Model, feeds: Sequence[Feeds]) -> Executor:
    """The twin that loads the model for the sizes of the feeds, where that is faster and they all have the same.

    The executor itself where it gains nothing from known sizes, where the model states them, or where they differ.
    """
    able = offered(executor, FixesSizes)
    sizes: dict[str, tuple[int, ...]] = {}
    for value in model.graph.inputs:
        name = value.name or ""
        if value.shape is not None and value.shape.is_static():
            continue
        found = {feed[name].shape for feed in feeds if name in feed}
        if len(found) > 1:
            return executor
        if found:  # an input with a default may not be fed
            sizes[name] = found.pop()
    return executor if able is None or not sizes else able.at_sizes(sizes)


def untimed(executor: Executor) -> Executor:
    """The executor for runs that nobody times: statistics, ranges, outputs to compare."""
    able = offered(executor, Untimed)
    return executor if able is None else able.untimed()


def ready_sooner(executor: Executor) -> Executor:
    """The executor for a single run, of which only the shapes are wanted."""
    able = offered(executor, ReadySooner)
    return executor if able is None else able.ready_sooner()


def as_written(executor: Executor) -> Executor:
    """The executor for comparisons with another one: it computes what the graph says."""
    able = offered(executor, AsWritten)
    return executor if able is None else able.as_written()


def faithful(executor: Executor) -> bool:
    """Whether it computes in the types that the graph states, so that a model on it is the model itself."""
    return as_written(executor).name == executor.name


def in_stated_types(executor: Executor) -> Executor:
    """The executor itself where it is faithful, else its twin that is: statistics and what is lost are against that."""
    return executor if faithful(executor) else as_written(executor)


def fit_together(runs: Iterable[object]) -> bool:
    """Whether the weights of all of them can be held at once, so that they can run in turn."""
    large = [run for run in runs if isinstance(run, LargeWeights)]
    return sum(run.bytes for run in large) <= min((run.room for run in large), default=0)


def in_calling_thread(executor: Executor) -> bool:
    """Whether the executor says that the calling thread does all of a run."""
    able = offered(executor, InCallingThread)
    return able is not None and able.in_calling_thread


def settings(executor: Executor) -> Settings:
    """The settings that the executor has as attributes."""
    return Settings(**{name: getattr(executor, name) for name in Settings._fields if hasattr(executor, name)})


__all__ = [
    "MOST_THREADS",
    "Array",
    "AsWritten",
    "Executor",
    "Feeds",
    "FixesSizes",
    "InCallingThread",
    "Kernel",
    "LargeWeights",
    "Precisions",
    "Profiles",
    "ReadySooner",
    "Run",
    "Settings",
    "ShowsGraph",
    "ToldAsCode",
    "Untimed",
    "as_written",
    "before_run",
    "faithful",
    "fit_together",
    "in_calling_thread",
    "in_stated_types",
    "offered",
    "ready_sooner",
    "settings",
    "untimed",
    "watched",
]
