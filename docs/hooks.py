"""What mkdocs adds to the pages of this folder: the references that follow from the code, and the benchmarks.

`python docs/hooks.py` prints the generated pages. Only `on_files` needs mkdocs.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from lwgraph import registry
from lwgraph.cli import COMMANDS, cli
from lwgraph.rewrite.options import describe

ROOT = Path(__file__).parents[1]


def markdown(text: str) -> str:
    """Plain text as Markdown: what stands between backticks is left alone, listings are kept, the rest is escaped."""
    blocks = []
    for block in text.split("\n\n"):
        if all(line.startswith("    ") for line in block.splitlines()):
            blocks.append(block)
            continue
        parts = block.split("`")
        parts[::2] = [re.sub(r"([\\*_|\[\]])", r"\\\1", part).replace("<", "&lt;") for part in parts[::2]]
        blocks.append("`".join(parts))
    return "\n\n".join(blocks)


def described(found: type[Any], name: str, contract: str) -> str:
    """One pass or form: its docstring and its options."""
    lines = [f"## {name}", "", f"*{contract}*", "", markdown(inspect.getdoc(found) or ""), ""]
    options = describe(found)
    if options:
        lines += ["| option | type | default | what it does |", "|---|---|---|---|"]
        rows = ((o.name, o.type_text, o.default_text, o.help) for o in options)
        lines += ["| " + " | ".join(markdown(" ".join(str(cell).split())) for cell in row) + " |" for row in rows]
        lines.append("")
    return "\n".join(lines)


def built_in(group: str) -> list[str]:
    """Names of plug-ins of lwgraph itself; others that are installed here are no part of its documentation."""
    find = registry.pass_class if group == "passes" else registry.form_class
    return [name for name in sorted(registry.names(group)) if find(name).__module__.startswith("lwgraph.")]


def passes_page() -> str:
    """Every built-in pass."""
    page = [
        "# Passes",
        "",
        "Each is spelled `name{option=value}` on the command line; [writing one](../passes.md).",
        "",
    ]
    for name in built_in("passes"):
        found = registry.pass_class(name)
        page.append(described(found, name, found.contract.name.lower()))
    return "\n".join(page)


def forms_page() -> str:
    """Every built-in form."""
    page = ["# Forms", "", "Pictures, equations and when each pays: [forms](../forms.md).", ""]
    page += [described(registry.form_class(name), name, "approximate") for name in built_in("forms")]
    return "\n".join(page)


def commands_page() -> str:
    """What `--help` says of every command."""
    page = ["# Commands", "", "The same text as `lwgraph COMMAND --help`.", ""]
    for name in COMMANDS:
        parent = click.Context(cli, info_name="lwgraph")
        command = cli.get_command(parent, name)
        assert command is not None
        todo = [(command, click.Context(command, info_name=name, parent=parent, max_content_width=100))]
        for each, context in todo:
            page += [f"## {context.command_path}", "", "```text", each.get_help(context), "```", ""]
            if isinstance(each, click.Group):
                for inner in each.list_commands(context):
                    child = each.get_command(context, inner)
                    assert child is not None
                    todo.append((child, click.Context(child, info_name=inner, parent=context, max_content_width=100)))
    return "\n".join(page)


GENERATED: dict[str, Callable[[], str]] = {
    "reference/passes.md": passes_page,
    "reference/forms.md": forms_page,
    "reference/commands.md": commands_page,
}


def within_site(text: str, uri: str) -> str:
    """Links as they are in the checkout, to where the site has benchmarks and examples: inside the folder of pages."""
    if uri.startswith("benchmarks/"):
        return text.replace("](../docs/", "](../")
    up = "../" * uri.count("/")
    return re.sub(rf"\]\({re.escape(up)}\.\./(benchmarks|examples)/", rf"]({up}\1/", text)


def on_files(files: Any, config: Any) -> Any:
    """Add the generated pages, the benchmarks and the examples (called by mkdocs)."""
    from mkdocs.structure.files import File

    for uri, page in GENERATED.items():
        files.append(File.generated(config, uri, content=page()))
    others = [*(ROOT / "benchmarks").glob("*.md"), *(ROOT / "examples").glob("*/*.py")]
    for path in sorted(others):
        files.append(File.generated(config, path.relative_to(ROOT).as_posix(), abs_src_path=str(path)))
    return files


def on_page_markdown(text: str, page: Any, **_: Any) -> str:
    """Mend the links of a page (called by mkdocs)."""
    return within_site(text, page.file.src_uri)


if __name__ == "__main__":
    for generate in GENERATED.values():
        print(generate())
