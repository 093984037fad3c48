"""What a plan chooses: forms of sites, widths of groups, blocks that go, and the precision of the network."""

from __future__ import annotations

from dataclasses import dataclass

KEEP = "keep"
VERSION = 2


@dataclass(frozen=True)
class Choice:
    """What a site becomes.

    Attributes:
        form: the form's text, `low-rank{rank=32}`, or "keep".
        error: predicted relative output error of the site.
        ms: predicted milliseconds of the layer and of the form.
    """

    form: str = KEEP
    error: float = 0.0
    ms: tuple[float, float] = (0.0, 0.0)


@dataclass(frozen=True)
class Width:
    """How many channels of a coupling group stay; which ones, is decided when the plan is applied.

    Attributes:
        keep: channels that stay, at least 1.
        of: channels there are.
        error: predicted relative output error of the layers that read them.
        ms: predicted milliseconds of all layers of the group, before and after.
    """

    keep: int
    of: int
    error: float = 0.0
    ms: tuple[float, float] = (0.0, 0.0)


@dataclass(frozen=True)
class Removed:
    """A residual block that goes.

    Attributes:
        error: predicted relative error at the block's output.
        ms: predicted milliseconds of the block, and of what takes its place.
    """

    error: float = 0.0
    ms: tuple[float, float] = (0.0, 0.0)


@dataclass(frozen=True)
class Precision:
    """How the network is computed after its structure is decided.

    Attributes:
        passes: spellings of passes to run, in order, `quantize{calibration_method=mse}`; empty: as it was.
        keep_float: names of sites or nodes that those passes leave alone; a site stands for all nodes of its form.
        dynamic: names of sites or nodes whose grids are taken as the model runs, where the passes take those of others
            from data; none where a pass does so for all.
        error: predicted relative error at the network's output.
        ms: predicted milliseconds of the network before and after.
    """

    passes: tuple[str, ...] = ()
    keep_float: tuple[str, ...] = ()
    error: float = 0.0
    ms: tuple[float, float] = (0.0, 0.0)
    dynamic: tuple[str, ...] = ()


__all__ = ["KEEP", "VERSION", "Choice", "Precision", "Removed", "Width"]
