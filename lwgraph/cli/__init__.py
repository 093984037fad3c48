"""The command line; each command is a file of this folder, imported when it is called."""

from __future__ import annotations

import importlib
import io
import os
import sys
from contextlib import suppress
from typing import Any, TextIO

import click

from lwgraph.errors import LwgraphError

COMMANDS = {
    "optimize": "Make a model smaller and faster, and prove it.",
    "inspect": "Show the size, operators, layers and cost of a model.",
    "verify": "Compare the outputs of two models; exit code 1 if they differ.",
    "bench": "Time models against each other.",
    "diff": "Show how two models differ as graphs.",
    "passes": "List the passes and forms, or describe one.",
    "measure": "Measure layers on this machine or on another.",
    "plan": "Show, compare and apply plans.",
    "bisect": "Find the first rewrite of a pipeline that breaks a model.",
    "docs": "List the pages of the documentation, or show one.",
    "demo": "Optimize the embedded model, with real accuracy before and after.",
}


class LazyGroup(click.Group):
    """Lists commands without importing them: `lwgraph --help` must not load onnx or a runtime."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The commands in the order of use."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """Import one command; None when there is none of this name."""
        if name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"lwgraph.cli.{name}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the command list from the table above."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        """Resolve a command as click does, and suggest a near miss when it does not exist."""
        from lwgraph.errors import did_you_mean

        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            ctx.fail(f"no command is named '{args[0]}'{did_you_mean(args[0], COMMANDS)}")
        return super().resolve_command(ctx, args)


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="lwgraph")
def cli() -> None:
    """lwgraph makes ONNX models smaller and faster, with proof.

    \b
    lwgraph optimize model.onnx                      exact rewrites and rewrites that only round
    lwgraph optimize model.onnx --data images/       the fastest model that keeps the accuracy
    """


def main() -> None:
    """Run the command line; ends with 0 (done), 1 (bad model or data, a check failed) or 2 (bad usage).

    Where --json was given, an error is a document, too: {"error": text, "exit": code}.
    """
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by whoever called us; a file opened later must not take its place
            setattr(sys, name, open(os.devnull, "w", encoding="utf8"))  # noqa: SIM115 - stays open to the end
        elif isinstance(stream := getattr(sys, name), io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="backslashreplace")  # names may hold what a terminal's encoding has not
    told = sys.stderr
    sys.stderr = _Forgiving(told)
    try:
        _run()
    finally:
        sys.stderr = told


class _Forgiving:
    """Standard error, on which what cannot be written is lost: nobody is left to be told, and the work goes on."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with suppress(OSError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _run() -> None:
    try:
        # Not `cli.main`, which makes exit code 1 of a reader of our output that leaves.
        with cli.make_context("lwgraph", sys.argv[1:]) as context:
            status = cli.invoke(context)
        sys.stdout.flush()
    except click.exceptions.Exit as end:
        status = end.exit_code
    except click.exceptions.Abort:
        _fail(_interrupted(), 130)
    except click.ClickException as error:
        error.show()
        _document(error.format_message(), error.exit_code)
        sys.exit(error.exit_code)
    except LwgraphError as error:
        _fail(str(error), error.exit_code)
    except KeyboardInterrupt:
        _fail(_interrupted(), 130)
    except BrokenPipeError:  # the reader of our output left, as `head` does
        _drop_output()
        sys.exit(0)
    except SystemError:  # NumPy's, which some of its releases end with where they are imported in a folder that is gone
        try:
            os.getcwd()
        except FileNotFoundError as error:
            _fail(f"the current folder cannot be used: {error.strerror}", 1)
        raise
    except OSError as error:
        if error.filename is None:
            _drop_output()  # what is still in its buffer could not be written either
        gone = "the current folder" if isinstance(error, FileNotFoundError) else "standard output"
        place = f"'{error.filename}'" if error.filename else gone
        _fail(f"{place} cannot be used: {error.strerror or error}", 1)
    except MemoryError:
        _fail("out of memory; use fewer or smaller samples, or a machine with more memory", 1)
    except RecursionError:
        _fail("the model or a file that was given is nested too deep", 1)
    sys.exit(status if isinstance(status, int) else 0)


def _drop_output() -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _interrupted() -> str:
    """What an interrupted command leaves, and how it goes on."""
    kept = "; what it measured is kept, and the same command goes on from there"
    return "interrupted; nothing was written" + kept * (sys.argv[1:2] in (["optimize"], ["measure"], ["inspect"]))


def _fail(message: str, code: int) -> None:
    click.echo(f"lwgraph: error: {' '.join(message.split())}", err=True)
    _document(message, code)
    sys.exit(code)


def _document(message: str, code: int) -> None:
    """Print the error as the one document that --json asks for."""
    if "--json" in sys.argv[1:]:
        from lwgraph.cli.common import print_json

        print_json({"error": " ".join(message.split()), "exit": code})


if __name__ == "__main__":
    main()
