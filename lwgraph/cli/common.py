"""Helpers of the commands: shared options, consoles, tables, checks of arguments."""

from __future__ import annotations

import json
import math
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click
from rich.console import Console
from rich.table import Table

from lwgraph.executor import MOST_THREADS

F = TypeVar("F", bound=Callable[..., Any])
_QUIET, _JSON = "lwgraph.quiet", "lwgraph.json"  # what commands were given, in the context's `meta`


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Leave a reader that left to the command line: it is no failure."""
        raise BrokenPipeError


def console() -> Console:
    """The console for results, standard output. In a file or a pipe its lines are 200 characters wide.

    Nothing that is printed is read as markup: names of nodes and files may hold brackets and colons. With --quiet
    nothing is printed.
    """
    width = None if sys.stdout.isatty() else 200
    return _Console(highlight=False, markup=False, emoji=False, width=width, quiet=is_quiet())


def side_console() -> Console:
    """The console for progress and warnings: standard error, so that results can be piped."""
    return Console(stderr=True, highlight=False, markup=False, emoji=False)


def is_quiet() -> bool:
    """Whether the command that runs was given --quiet."""
    context = click.get_current_context(silent=True)
    return context is not None and bool(context.meta.get(_QUIET))


def is_silent() -> bool:
    """Whether the command that runs shows no progress: it was given --quiet or --json."""
    context = click.get_current_context(silent=True)
    return context is not None and bool(context.meta.get(_QUIET) or context.meta.get(_JSON))


def print_json(data: Any) -> None:
    """Print one JSON document to standard output; `lwgraph.schemas.schema("output")` describes them all."""
    from lwgraph.report.record import finite

    click.echo(json.dumps(finite(data), indent=2, ensure_ascii=False, allow_nan=False))


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], numbers_from: int = 1) -> Table:
    """A plain table; columns from `numbers_from` on are right-aligned."""
    result = Table(title=title or None, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for index, column in enumerate(columns):
        result.add_column(column, justify="right" if index >= numbers_from else "left", overflow="fold")
    for row in rows:
        result.add_row(*row)
    return result


def _remember(key: str) -> Callable[[click.Context, click.Parameter, bool], bool]:
    def callback(context: click.Context, parameter: click.Parameter, value: bool) -> bool:
        context.meta[key] = context.meta.get(key, False) or value
        return value

    return callback


def output_options(function: F) -> F:
    """Decorator: `--json`, as the argument `as_json`, and `--quiet`, which consoles and progress look at themselves."""
    quiet = click.option(
        "--quiet",
        is_flag=True,
        expose_value=False,
        callback=_remember(_QUIET),
        help="Print nothing but errors (and what --json asks for); the exit code tells.",
    )
    as_json = click.option(
        "--json",
        "as_json",
        is_flag=True,
        callback=_remember(_JSON),
        help="Print one JSON document and nothing else, also where the command fails.",
    )
    return as_json(quiet(function))


class Number(click.FloatRange):
    """A finite number: no bound tells NaN apart."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """The number, or a usage error."""
        number: float = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{number} is not a finite number.", param, ctx)
        return number


threads_option = click.option(
    "--threads",
    type=click.IntRange(1, MOST_THREADS),
    default=1,
    show_default=True,
    help="Threads for the runtime to use.",
)
data_option = click.option(
    "--data",
    metavar="D",
    help="Inputs: image folder, .npz/.npy, .txt/.jsonl, test_data_set_* folder, or module:attribute.",
)
preprocess_option = click.option(
    "--preprocess",
    metavar="P",
    help="How images become inputs: 'resize=256,crop=224,scale=1/255', a TOML file, or auto: as beside the model.",
)
seed_option = click.option(
    "--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of all random choices."
)


shape_option = click.option(
    "--input-shape",
    "shapes",
    multiple=True,
    metavar="NAME:1,3,224,224",
    help="Shape of a generated input, if it cannot be inferred; repeatable.",
)


def parse_shapes(texts: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """`name:1,3,224,224` as {name: sizes}; UsageError for anything else."""
    from lwgraph.errors import UsageError

    found = {}
    for text in texts:
        name, colon, sizes = text.rpartition(":")
        numbers = sizes.split(",") if sizes else []
        if not colon or not name or not all(_is_size(n.strip(), int(i == 0)) for i, n in enumerate(numbers)):
            raise UsageError(
                f"--input-shape '{text}' is not NAME:SIZES with sizes of 1 or more (0 behind the first: nothing yet), "
                "e.g. image:1,3,224,224"
            )
        found[name] = tuple(int(n) for n in numbers)
    return found


def _is_size(text: str, least: int) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 19 and int(text) >= least


def check_destination(path: Path, overwrite: bool) -> None:
    """Raise UsageError if `path` cannot become the output, before any work is done."""
    from lwgraph import ir
    from lwgraph.errors import UsageError

    if not (words := ir.refusal(path, overwrite)):
        return
    if words.startswith("exists"):
        raise UsageError(f"output '{path}' exists; name another with -o, or replace it with --overwrite")
    raise UsageError(f"output '{path}' {words}; name another with -o")


def default_output(model: str) -> Path:
    """MODEL.lw.onnx beside the input. ModelError where MODEL is no file's name, such as "." or ""."""
    source = Path(model)
    if not source.name.strip():
        from lwgraph import ir

        ir.load(model)
    return source.with_name(f"{source.stem}.lw.onnx")


def check_apart(places: Mapping[str, str | Path | None]) -> None:
    """Raise UsageError if two options, by name, want to write to one place, before any work is done."""
    from lwgraph.errors import UsageError

    taken: dict[Path, str] = {}
    for option, place in places.items():
        if place is not None and (first := taken.setdefault(Path(place).absolute(), option)) is not option:
            raise UsageError(f"{first} and {option} are both '{place}'; name another with {option}")


def check_folder(path: str | None, what: str = "report folder", option: str = "--report") -> None:
    """Raise UsageError if files cannot be written into folder `path`, before any work is done; None: none are."""
    from lwgraph.errors import UsageError

    if path is None:
        return
    folder = Path(path)
    try:
        made = [each for each in (folder, *folder.parents) if not each.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        try:
            with tempfile.TemporaryFile(dir=folder):
                pass
        finally:
            for each in made:
                each.rmdir()
    except (OSError, ValueError) as error:  # a NUL in the name
        reason = getattr(error, "strerror", None) or str(error)
        raise UsageError(f"{what} '{path}' cannot be written: {reason}; name another with {option}") from error
