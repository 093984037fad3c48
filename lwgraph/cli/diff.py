"""lwgraph diff: shows how two models differ as graphs."""

from __future__ import annotations

import click

from lwgraph.cli.common import json_option, print_json


@click.command()
@click.argument("a", metavar="A")
@click.argument("b", metavar="B")
@json_option
def command(a: str, b: str, as_json: bool) -> int:
    """Show how model B differs from model A as a graph. Exit code 1 if they differ, as with diff(1)."""
    from lwgraph import ir
    from lwgraph.text import diff

    found = diff(ir.load(a), ir.load(b))
    if as_json:
        print_json(found.to_dict())
    else:
        click.echo(str(found))
    return 0 if found.empty else 1
