"""Where tests stand: a folder of tests is named after the folder that it tests, and what tests share is no test."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent
ROOT = TESTS.parent
OUTSIDE = {"benchmarks", "faults", "newcomer"}  # folders that test something beside one folder of the package


def strays(folders: list[str]) -> list[str]:
    """The folders of tests, by their paths below tests/, that are named after no folder of the package."""
    return [f for f in folders if f not in OUTSIDE and not (ROOT / "lwgraph" / f).is_dir()]


def borrowed(source: str) -> list[str]:
    """What a test file may not take from elsewhere: from another test file, by a changed path, a private name."""
    found = []
    for node in ast.walk(ast.parse(source)):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module or ''}.{alias.name}" for alias in node.names]
            found += [name for name in names if name.rpartition(".")[2].startswith("_")]
        elif isinstance(node, ast.Attribute) and ast.unparse(node) in ("sys.path.insert", "sys.path.append"):
            found.append(ast.unparse(node))
        found += [name for name in names if any(part.startswith("test_") for part in name.split("."))]
    return found


def test_folders_mirror_the_package() -> None:
    folders = {path.parent.relative_to(TESTS).as_posix() for path in TESTS.rglob("*.py")} - {"."}
    assert len(folders) > 20
    assert not strays(sorted(folders))


def test_a_folder_of_its_own_is_seen() -> None:
    assert strays(["plan/search", "benchmarks", "golden", "plan/forms"]) == ["golden", "plan/forms"]


def test_tests_borrow_nothing_from_each_other() -> None:
    found = {str(path.relative_to(ROOT)): borrowed(path.read_text("utf8")) for path in TESTS.rglob("*.py")}
    assert not {path: names for path, names in found.items() if names}


@pytest.mark.parametrize(
    "source",
    [
        "from test_planner import ByWork",
        "import tests.plan.test_plan",
        "def f():\n    from tests.plan import test_plan",
        "from . import test_plan",
        "from lwgraph.calibrate.thresholds import _divergences",
        "import sys\nsys.path.insert(0, 'tests')",
    ],
)
def test_what_is_borrowed_is_seen(source: str) -> None:
    assert len(borrowed(source)) == 1


@pytest.mark.parametrize("source", ["from tests.plan.search.by_work import ByWork", "import sys\nprint(sys.path)"])
def test_a_helper_is_not_borrowed(source: str) -> None:
    assert not borrowed(source)


def test_test_files_have_different_names() -> None:
    """Pytest imports them by their bare names: two of one name cannot be collected together."""
    names = [path.name for path in TESTS.rglob("test_*.py")]
    assert sorted(names) == sorted(set(names))
