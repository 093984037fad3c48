"""The errors that users see. Each message is one line: the thing, its value, what is allowed, the cure."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class LwgraphError(Exception):
    """Base of all errors raised on purpose; `exit_code` is what the command line ends with."""

    exit_code = 1


class ModelError(LwgraphError):
    """The model cannot be read, is invalid, or cannot be executed."""


class DataError(LwgraphError):
    """Calibration or evaluation data, or a metric on it, is unusable."""


class CheckError(LwgraphError):
    """A check failed: a broken invariant, a broken contract, outputs that differ."""


class UsageError(LwgraphError):
    """An option or a name is wrong."""

    exit_code = 2


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A suffix such as "; did you mean 'fuse-pad'?", or the whole list when nothing is near."""
    options = sorted(known)
    near = [option for option in options if option.lower() == name.lower()]
    near = near or difflib.get_close_matches(name, options, n=1, cutoff=0.6)
    if near:
        return f"; did you mean '{near[0]}'?"
    return f"; known: {', '.join(options)}" if options else ""
