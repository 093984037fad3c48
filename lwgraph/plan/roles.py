"""What plans need of plugins: who leaves out channels and blocks, computes in integers, trains.

A role is an entry point of the group `lwgraph.roles` under one of the names below: a class, made without arguments,
whose instances have what the role's protocol states. `registry.role(name, protocol)` finds it. So a plan knows no pass
and no option of a pass, and a third party's plugin can take the place of a built-in one. `lwgraph.testing.check_role`
tries a class of one's own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from lwgraph import ir
from lwgraph.executor import Executor
from lwgraph.rewrite.base import Context, Pass

GROUPS, BLOCKS = "removes-channels", "removes-blocks"  # `Removes`, `RemovesBlocks`
QUANTIZES = "quantizes"  # `Quantizes`
CODES = "codes-weights"  # `CodesWeights`
SHRINKS = "shrinks-inputs"  # `ShrinksInputs`
TRAINS = "trains"  # `Trains`
SHAPES = "infers-shapes"  # a pass that records the shapes of values, of nodes that forms put there, too


# ------------------------------------------------------------ leaving out


@dataclass(frozen=True)
class Removal:
    """One size of one item: a group of coupled channels, or a residual block.

    Attributes:
        item: the item's name, unique in the model; the same in every copy of the model.
        kept: how much of the item stays: channels of a group; 0 of a block.
        width: how much there is now: channels of a group; 1 for a block.
        macs: multiply-accumulates of the whole model, one batch, when this alone is done.
        error: predicted relative output error ||Y - Yhat||^2 / ||Y - mean Y||^2, summed over the layers that read the
            item, after compensation (`Form.estimate` predicts the same of one layer).
        nodes: the layers whose work changes.
        left: of each of these, the share of its work that is left.
    """

    item: str
    kept: int
    width: int
    macs: int
    error: float
    nodes: tuple[str, ...] = ()
    left: tuple[float, ...] = ()


@runtime_checkable
class Removes(Protocol):
    """Leaves things out, choice by choice. The passes `prune-channels` and `prune-blocks` do.

    Its text, `str`, tells it apart from others in the cache of what was measured with it.
    Several choices in one call are made together. What was found out for `options` is kept in the context, so that
    `apply` on copies of the same model is quick.
    """

    @property
    def name(self) -> str:
        """What refusals are recorded under."""

    def options(self, model: ir.Model, context: Context) -> list[Removal]:
        """Every item's sizes, largest first, by item. The model is not changed."""

    def apply(self, model: ir.Model, kept: Mapping[str, int], context: Context, *, refit: bool = False) -> int:
        """Leave out all but `kept` of the items named, in place, and compensate; how much was removed.

        With `refit`, all layers that this changes are then fitted anew to what the model gave before, in order.

        Raises:
            UsageError: an item that the model does not have, or a size that it cannot have.
        """


@runtime_checkable
class RemovesBlocks(Removes, Protocol):
    """Leaves out residual blocks, whose errors it measures at the network's outputs."""

    def judging(self, samples: int) -> RemovesBlocks:
        """The same, but that measures on at most so many samples."""


# ------------------------------------------------------------ integers


NEAR = 1.02  # times as long is as fast: predicted times are of kernels one by one


@dataclass(frozen=True)
class Mix:
    """Integers and floats in one network.

    Attributes:
        kept: names of the nodes that stay in floats.
        share: of what all in integers is predicted to do to the outputs, what it does.
        time: that it is predicted to take, as a share of what all in floats takes.
    """

    kept: tuple[str, ...]
    share: float
    time: float


@dataclass(frozen=True)
class Survey:
    """What a quantizer measured of one network.

    Attributes:
        damage: by the name of a node, the relative squared error of the outputs that its integers cause; empty where
            all integers together cause so little that nothing was measured.
        kept: names of the nodes that could be in integers and that it would leave in float; empty where it would leave
            all of them.
        slower: what these take longer in integers, as a share of all that could be in integers.
        even: whether evening out the channels brought the outputs nearer; None: not known.
        method: the way to take ranges that brought them nearest, as `Quantizes.exactly` takes it; "": not known.
        mixes: that are predicted to be faster than floats alone, from the fastest to the most accurate.
    """

    damage: dict[str, float] = field(default_factory=dict)
    kept: tuple[str, ...] = ()
    slower: float = 0.0
    even: bool | None = None
    method: str = ""
    mixes: tuple[Mix, ...] = ()

    def mix(self, share: float) -> Mix | None:
        """The fastest mix that does at most this share of what all in integers does; None where there is none.

        Of those that are as fast as far as can be told, it is the one that does least.
        """
        able = [mix for mix in self.mixes if mix.share <= share]
        return min((mix for mix in able if mix.time <= NEAR * able[0].time), key=lambda mix: mix.share, default=None)


@runtime_checkable
class Quantizes(Protocol):
    """Puts networks into integers, by passes; a plan states their spelling. They need calibration data."""

    @property
    def ranges(self) -> Sequence[str]:
        """Ways to take the ranges of activations, at least one; the first stands where others are hardly better."""

    def judged(self) -> Pass:
        """The pass that decides for itself which layers stay in floats."""

    def exactly(self, ranges: str = "", even: bool | None = None) -> Pass:
        """The pass that puts all into integers that has a kernel, but what `Pass.spares` tells it to leave alone.

        Args:
            ranges: one of `ranges`; "": the pass finds out.
            even: whether channels are evened out first; None: the pass finds out.
        """

    def quick(self, ranges: str = "") -> Pass:
        """As `exactly`, with the simplest ranges ("": the first), for comparing plans."""

    def blank(self) -> Pass:
        """As `quick`, with no care for accuracy: the kernels take as long as in earnest."""

    def survey(self, model: ir.Model, context: Context) -> Survey:
        """What integers do to a network: damages, and what `judged` would leave in floats. Takes many runs.

        Args:
            model: in floats; it is not changed.
            context: `data` to calibrate and judge on; its executor is the target.

        Raises:
            LwgraphError: the network cannot be quantized.
        """


@runtime_checkable
class QuantizesDynamically(Protocol):
    """What a plugin in the role QUANTIZES may have besides: integers whose grids are taken as the model runs."""

    def dynamic(self) -> Pass:
        """The pass that puts all into such integers that has a kernel, but what it is told to leave; needs no data."""

    def running(self, static: Pass, nodes: Sequence[str]) -> Pass | None:
        """The pass `static`, but that these nodes take their grids as the model runs; None: it takes no grids."""

    def gaining(self, model: ir.Model, context: Context) -> Sequence[str] | None:
        """Names of the nodes that `dynamic` should leave in floats, as they are no faster; None where nothing gains.

        Args:
            model: in floats; it is not changed.
            context: the sizes of its first sample count; its executor is the target.
        """


@runtime_checkable
class CodesWeights(Protocol):
    """Stores weights as codes of a few bits, by passes; a plan states their spelling."""

    @property
    def bits(self) -> Sequence[int]:
        """How many bits a code may have."""

    def coded(self, bits: int, spared: Sequence[str] = ()) -> Pass:
        """The pass that stores all weights in codes of so many bits, but of the layers that are `spared`."""


@runtime_checkable
class CodesLayers(CodesWeights, Protocol):
    """What a plugin in the role CODES may have besides: layers of different widths."""

    def mixed(self, bits: Mapping[str, int], others: int) -> Pass:
        """The pass that stores the weights of layers, by name, in codes of so many bits, and all others in `others`."""


@runtime_checkable
class QuantizesElsewhere(Protocol):
    """What a plugin in the role QUANTIZES may have besides: it states the rules of a runtime that does not run it."""

    def blank_for(self, executor: Executor) -> Pass:
        """As `blank`, by the rules of this executor's runtime, whichever executor the pass is run with."""


# ------------------------------------------------------------ resolution


@runtime_checkable
class ShrinksInputs(Protocol):
    """Lets a network see smaller images, by passes; a plan states their spelling."""

    @property
    def scales(self) -> Sequence[float]:
        """Shares of rows and columns that are worth a try."""

    def shrunk(self, scale: float) -> Pass:
        """The pass that puts a reduction in front of images; it changes nothing where the network cannot take them."""


# ------------------------------------------------------------ training


@runtime_checkable
class Trains(Protocol):
    """Trains the weights of a model to imitate the context's teacher."""

    def require(self) -> None:
        """UsageError, which says how to install it, where something that training needs is missing."""

    def prepare(self, model: ir.Model, context: Context) -> None:
        """Bring back in place what takes seconds, before any training."""

    def train(self, model: ir.Model, context: Context, seconds: float) -> None:
        """Train in place.

        Args:
            model: whose weights change; the structure and the precisions stay.
            context: `teacher`, `data` to learn from; gains and refusals are recorded in it.
            seconds: of training, about.

        Raises:
            LwgraphError: training failed, or is not possible.
        """


__all__ = [
    "BLOCKS",
    "CODES",
    "GROUPS",
    "QUANTIZES",
    "SHAPES",
    "SHRINKS",
    "TRAINS",
    "CodesLayers",
    "CodesWeights",
    "Mix",
    "Quantizes",
    "QuantizesDynamically",
    "QuantizesElsewhere",
    "Removal",
    "Removes",
    "RemovesBlocks",
    "ShrinksInputs",
    "Survey",
    "Trains",
]
