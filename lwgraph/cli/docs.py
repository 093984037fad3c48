"""lwgraph docs: shows the documentation that came with this release."""

from __future__ import annotations

import sys

import click

from lwgraph.cli.common import console, output_options, print_json


@click.command()
@click.argument("page", metavar="[PAGE]", required=False)
@output_options
def command(page: str | None, as_json: bool) -> int:
    """List the pages of the documentation, or show one, such as promises.

    Into a file or a pipe a page goes as the Markdown that it is.
    """
    from rich.markdown import Markdown

    from lwgraph import documentation

    if page is None:
        found = documentation.pages()
        if as_json:
            print_json({"pages": found, "folder": str(documentation.folder())})
            return 0
        width = max(map(len, found), default=0)
        for name, title in found.items():
            console().print(f"{name:{width}}  {title}", markup=False)
        return 0
    text = documentation.read(page)
    if as_json:
        print_json({"page": page, "text": text})
    elif sys.stdout.isatty():
        console().print(Markdown(text))
    else:
        console().print(text, markup=False, soft_wrap=True)
    return 0
