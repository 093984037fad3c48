"""What the command line calls options, called as the arguments that they are in Python."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from contextlib import contextmanager

from lwgraph.errors import LwgraphError
from lwgraph.measure.kinds import OUTPUT_KINDS
from lwgraph.optimizer.presets import PRESETS
from lwgraph.optimizer.request import options, spelled
from lwgraph.report import Report

_COMMAND = re.compile(r"lwgraph [a-z]+ [^;)]*")  # a command line that is quoted stays one
_FLAG = re.compile(r"(?<![\w-])(--[a-z]+(?:-[a-z]+)*)(?![\w-])(?: (?P<value>'[^']*'|[^\s;)]*[^\s;),]))?")
_NUMBER = re.compile(r"[\d.]+(?:e[+-]?\d+)?")


@contextmanager
def arguments() -> Iterator[None]:
    """Within: errors of lwgraph speak of arguments."""
    try:
        yield
    except LwgraphError as error:
        error.args = (as_arguments(str(error)),)
        raise


def as_arguments(text: str) -> str:
    """`--max-drop is -1; give --data` as `max_drop is -1; give data=`; command lines in it stay as they are."""
    parts, end = [], 0
    for quoted in _COMMAND.finditer(text):
        parts += [_FLAG.sub(_argument, text[end : quoted.start()]), quoted[0]]
        end = quoted.end()
    return "".join([*parts, _FLAG.sub(_argument, text[end:])])


def speak_of_arguments(report: Report) -> None:
    """Make the lines of a report for users of Python."""
    report.notes = [as_arguments(note) for note in report.notes]
    report.failures = [as_arguments(failure) for failure in report.failures]
    report.outcome = as_arguments(report.outcome)
    if "promise" in report.details:
        report.details["promise"] = [as_arguments(line) for line in report.details["promise"]]


@functools.cache
def _fields() -> dict[str, tuple[str, bool]]:
    """By flag: the argument, and whether it takes a value."""
    return {spelled(f.name): (f.name, bool(said.metavar)) for f, _, said in options()}


def _argument(found: re.Match[str]) -> str:
    flag, value = found[1], found["value"]
    if flag not in _fields():
        return found[0]
    name, takes = _fields()[flag]
    behind = "" if value is None else f" {value}"
    if not takes:
        return f"{name}=True{behind}"
    if value is None:
        return f"{name}="
    if name == "input_shapes" and ":" in value:
        inner, _, sizes = value.rpartition(":")
        return f"{name}={{'{inner}': ({sizes})}}"
    if value[0] == "'" or _NUMBER.fullmatch(value):
        return f"{name}={value}"
    words = {"preset": PRESETS, "output_kind": OUTPUT_KINDS}.get(name, ())
    if value in words or re.search(r"\w[:=/]\w", value):
        return f"{name}='{value}'"
    return f"{name}{behind}" if value in ("is", "gives", "has", "makes", "scales") else f"{name}={behind}"


__all__ = ["arguments", "as_arguments", "speak_of_arguments"]
