"""The options of `lwgraph optimize` on the command line, made of the fields of `Request`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, get_args

import click

F = TypeVar("F", bound=Callable[..., Any])


def request_options(*names: str) -> Callable[[F], F]:
    """Decorator: an option for each field of `Request`, in order.

    Args:
        names: of the fields; none: all.
    """
    from lwgraph.optimizer.request import options, spelled

    def decorate(function: F) -> F:
        listed = [each for each in options() if not names or each[0].name in names]
        for f, kind, said in reversed(listed):
            flags = [spelled(f.name)]
            if f.name == "pipeline":
                flags.insert(0, "-p")
            given: dict[str, Any] = {"help": said.text, "default": () if said.many else f.default}
            if not said.metavar:
                given["is_flag"] = True
            else:
                given.update(metavar=said.metavar, type=_type(kind), multiple=said.many)
                given["show_default"] = isinstance(f.default, (int, str))
            function = click.option(*flags, f.name, **given)(function)
        return function

    return decorate


def _type(kind: Any) -> Any:
    """How click reads a value: numbers as such, everything else as text that `Request` reads."""
    kinds = get_args(kind) or (kind,)
    if str in kinds or kind is Any:
        return str
    return int if int in kinds else float if float in kinds else str


__all__ = ["request_options"]
