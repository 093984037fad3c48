"""lwgraph diff: shows how two models differ as graphs."""

from __future__ import annotations

import click

from lwgraph.cli.common import console, output_options, print_json


@click.command()
@click.argument("a", metavar="A")
@click.argument("b", metavar="B")
@output_options
def command(a: str, b: str, as_json: bool) -> int:
    """Show how model B differs from model A as a graph. Exit code 1 if they differ, as with diff(1)."""
    from lwgraph import ir
    from lwgraph.text import diff

    found = diff(ir.load(a), ir.load(b))
    if as_json:
        print_json(found.to_dict())
    else:
        console().print(str(found), soft_wrap=True)
    return 0 if found.empty else 1
