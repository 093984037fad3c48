"""lwgraph passes: lists and describes the passes and forms, built-in and installed."""

from __future__ import annotations

import inspect
from typing import Any

import click
from rich.text import Text

from lwgraph.cli.common import console, output_options, print_json, table
from lwgraph.errors import UsageError


def _described(kind: str, name: str) -> dict[str, Any]:
    from lwgraph import registry
    from lwgraph.rewrite.options import describe

    found: Any = registry.pass_class(name) if kind == "pass" else registry.form_class(name)
    words = inspect.getdoc(found) or ""
    entry: dict[str, Any] = {"name": name, "kind": kind, "summary": words.split("\n")[0], "help": words}
    if kind == "pass":
        entry["contract"] = found.contract.name.lower()
    entry["options"] = [
        {"name": option.name, "type": option.type_text, "default": option.default_text, "help": option.help}
        for option in describe(found)
    ]
    return entry


def _entry(kind: str, name: str) -> dict[str, Any]:
    """Describe a plugin; one that cannot be loaded is described by its error, so that it does not hide the others."""
    try:
        return _described(kind, name)
    except UsageError as error:
        return {"name": name, "kind": kind, "summary": str(error), "error": str(error)}


@click.command()
@click.argument("name", required=False)
@output_options
def command(name: str | None, as_json: bool) -> None:
    """List the passes and forms, or describe the one called NAME with its options."""
    from lwgraph import registry
    from lwgraph.errors import did_you_mean

    known = dict.fromkeys(registry.names("forms"), "form") | dict.fromkeys(registry.names("passes"), "pass")
    if name is None:
        entries = [
            _entry(kind, each) for each, kind in sorted(known.items(), key=lambda item: (item[1] == "form", item[0]))
        ]
        if as_json:
            print_json(entries)
            return
        rows = [[e["name"], e.get("contract", e["kind"]), e["summary"]] for e in entries]
        console().print(table("", ["name", "contract", "what it does"], rows, numbers_from=3))
        return
    if name not in known:
        raise UsageError(f"no pass or form is named '{name}'{did_you_mean(name, known)}")
    entry = _described(known[name], name)
    if as_json:
        print_json(entry)
        return
    out = console()
    out.print(Text(entry["name"], "bold"), f" ({entry.get('contract', 'form')})\n")
    out.print(entry["help"], markup=False)
    if entry["options"]:
        out.print()
        rows = [[o["name"], o["type"], o["default"], o["help"]] for o in entry["options"]]
        out.print(table("", ["option", "type", "default", "help"], rows, numbers_from=4))
