"""What the documentation names exists: modules, their attributes, files and links; and words.md has each word once."""

import importlib
import re
from importlib.metadata import entry_points
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def exists(name: str) -> bool:
    """Whether a dotted name is a module, something in one, or a group of entry points."""
    parts = name.split(".")
    for count in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:count]))
        except ModuleNotFoundError:
            continue
        for attribute in parts[count:]:
            if not hasattr(found, attribute):
                return bool(entry_points(group=name))
            found = getattr(found, attribute)
        return True
    return False


def broken_names(text: str) -> list[str]:
    """Dotted names of lwgraph that do not exist, those of import statements included."""
    names = set(re.findall(r"\blwgraph(?:\.[A-Za-z_]\w*)+", text))
    for module, imported in re.findall(r"^from (lwgraph[\w.]*) import (.+)$", text, re.MULTILINE):
        names |= {f"{module}.{name.strip()}" for name in imported.split(",")}
    return sorted(name for name in names if not exists(name))


def leads_somewhere(page: Path, link: str) -> bool:
    """Whether a link's file exists, and the heading in it that the part behind # names."""
    path, _, anchor = link.partition("#")
    target = page.parent / path if path else page
    if not anchor or not target.exists():
        return target.exists()
    headings = re.findall(r"^#+ (.+)$", target.read_text("utf-8"), re.MULTILINE)
    return anchor in {re.sub(r"[^\w\s-]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


def broken_paths(page: Path, text: str) -> list[str]:
    """Paths in backticks, at the start of a line of a listing, or in links that do not exist."""
    paths = {
        path for path in re.findall(r"`([\w.-]+(?:/[\w.-]*)+)`", text) if "/" in path.strip("/") or path[-1] == "/"
    }
    paths |= set(re.findall(r"^((?:lwgraph|tests|docs|benchmarks|examples)/\S*)", text, re.MULTILINE))
    links = {link for link in re.findall(r"\]\(([^)]+)\)", text) if "://" not in link}
    from_root = {path for path in paths if not (ROOT / path).exists() and not (page.parent / path).exists()}
    return sorted(from_root | {link for link in links if not leads_somewhere(page, link)})


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_a_page_names_exists(page):
    text = page.read_text("utf-8")
    assert broken_names(text) == []
    assert broken_paths(page, text) == []


def test_what_does_not_exist_is_found():
    links = "[x](no.md) [y](run.md#nowhere) [z](run.md#what-fails)"
    text = f"`lwgraph.plan.nowhere`, `lwgraph.errors`, `docs/no.md`, {links}\nfrom lwgraph.ir import load, lod\n"
    assert broken_names(text) == ["lwgraph.ir.lod", "lwgraph.plan.nowhere"]
    assert broken_paths(ROOT / "docs/design.md", text) == ["docs/no.md", "no.md", "run.md#nowhere"]


def test_each_word_is_explained_once_in_alphabetical_order():
    rows = re.findall(r"^\| ([\w ]+) \| .+ \|$", (ROOT / "docs/words.md").read_text("utf-8"), re.MULTILINE)
    words = [row for row in rows if row != "word"]
    assert len(words) > 50 and words == sorted(set(words))
