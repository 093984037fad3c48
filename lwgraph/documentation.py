"""The pages of docs/, which a wheel has as lwgraph/docs."""

from __future__ import annotations

from pathlib import Path

from lwgraph.errors import UsageError, did_you_mean

_PACKAGE = Path(__file__).resolve().parent


def folder() -> Path:
    """Where the pages lie: in the package that was installed, or beside the package in the sources."""
    installed = _PACKAGE / "docs"
    return installed if installed.is_dir() else _PACKAGE.parent / "docs"


def pages() -> dict[str, str]:
    """The title of each page by its name, such as "promises" or "howto/ci"."""
    found = {}
    for path in sorted(folder().rglob("*.md")):
        name = path.relative_to(folder()).with_suffix("").as_posix()
        if not name.startswith("reference/"):  # which the site makes from docstrings
            with path.open(encoding="utf8") as file:
                found[name] = file.readline().lstrip("# ").strip()
    return found


def read(name: str) -> str:
    """A page, as Markdown; "docs/promises.md" is the page "promises".

    Raises:
        UsageError: there is none of this name.
    """
    known = pages()
    wanted = name.removeprefix("docs/").removesuffix(".md")
    if wanted not in known:
        raise UsageError(f"no page is named '{name}'{did_you_mean(wanted, known)}")
    return (folder() / f"{wanted}.md").read_text(encoding="utf8")


__all__ = ["folder", "pages", "read"]
