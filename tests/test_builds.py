"""Whatever way the tree was got, with links or without, it builds the same whole wheel, and that wheel works."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]
TREES = ("checkout", "clone without links", "ZIP", "source archive")
NOT_INSTALLED = {".so", ".pyd", ".c", ".h"}
MINE = ["lwgraph", "optimizer", "layers"]  # a package and its look-alikes in the demo's folder of results

pytestmark = [
    pytest.mark.xdist_group("builds"),  # the trees and wheels are built once
    pytest.mark.skipif(shutil.which("git") is None, reason="needs git"),
]


def call(*command: object, cwd: Path = ROOT, env: Mapping[str, str] | None = None, timeout: float = 300.0) -> str:
    """What the command prints, with nothing of this run's environment that could lend it the checkout."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "PYTEST", "GIT_", "MAKE"))}
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=clean | (env or {}),
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def build(kind: str, tree: Path, out: Path) -> Path:
    """An sdist or wheel of the tree by the build backend that pip calls, without network and without a compiler."""
    code = f"import setuptools.build_meta as b; print('BUILT', b.build_{kind}({str(out)!r}))"
    out.mkdir()
    printed = call(sys.executable, "-c", code, cwd=tree, env={"CC": "false", "CXX": "false"})
    return out / printed.rpartition("BUILT ")[2].strip()


def members(wheel: Path) -> dict[str, int]:
    """Names and checksums of the files, metadata and all."""
    with zipfile.ZipFile(wheel) as file:
        return {info.filename: info.CRC for info in file.infolist()}


def unpack(archive: Path, to: Path) -> Path:
    """The one folder that the source archive holds."""
    with tarfile.open(archive) as tar:
        tar.extractall(to, **({"filter": "data"} if sys.version_info >= (3, 12) else {}))
    (folder,) = to.iterdir()
    return folder


@pytest.fixture(scope="module")
def trees_of_git(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The files as they lie here, committed to a repository of their own, as git hands them out."""
    folder = tmp_path_factory.mktemp("git")
    git = ["git", "--git-dir", folder / "repository", "--work-tree", ROOT, "-c", "user.name=x", "-c", "user.email=x@y"]
    call("git", "init", "-q", "--bare", folder / "repository")
    call(*git, "add", "--all")
    call(*git, "-c", "commit.gpgsign=false", "commit", "-q", "-m", "all")
    call("git", "clone", "-q", folder / "repository", folder / "checkout")
    call("git", "-c", "core.symlinks=false", "clone", "-q", folder / "repository", folder / "clone")
    call(*git, "archive", "--format=zip", "-o", folder / "tree.zip", "HEAD")
    with zipfile.ZipFile(folder / "tree.zip") as file:
        file.extractall(folder / "zip")  # which makes a text file of a link
    return {"checkout": folder / "checkout", "clone without links": folder / "clone", "ZIP": folder / "zip"}


@pytest.fixture(scope="module")
def archive(trees_of_git: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("sdist", trees_of_git["checkout"], tmp_path_factory.mktemp("archive") / "dist")


@pytest.fixture(scope="module")
def trees(trees_of_git: dict[str, Path], archive: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Each tree with results of the demo in it, which look like packages."""
    found = trees_of_git | {"source archive": unpack(archive, tmp_path_factory.mktemp("unpacked"))}
    for tree in found.values():
        for name in MINE:
            (tree / "lwgraph-demo" / name).mkdir(parents=True)
            (tree / "lwgraph-demo" / name / "__init__.py").touch()
        (tree / "lwgraph-demo" / "__init__.py").touch()
    return found


@pytest.fixture(scope="module")
def wheels(trees: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("wheels")
    return {name: build("wheel", trees[name], folder / str(number)) for number, name in enumerate(TREES)}


@pytest.fixture(scope="module")
def clean(wheels: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment with the wheel, and with the other packages of this one, but not the checkout."""
    folder = tmp_path_factory.mktemp("clean") / "venv"
    call(sys.executable, "-m", "venv", "--without-pip", folder)
    python = folder / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    pip = [sys.executable, "-m", "pip", "--python", python, "--disable-pip-version-check", "install"]
    call(*pip, "--quiet", "--no-deps", "--no-index", wheels["clone without links"])
    site = Path(call(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
    shared = {Path(module.__file__ or "").resolve().parents[1] for module in (np, pytest)}
    (site / "shared.pth").write_text("\n".join(map(str, shared)), "utf8")
    return python


def test_the_trees_are_what_they_are_called(trees: dict[str, Path]) -> None:
    for name in ("passes", "runtime"):
        assert not (trees["clone without links"] / name).is_symlink()
        assert not (trees["ZIP"] / name).is_symlink()
        assert not (trees["source archive"] / name).exists()


def test_the_source_archive_has_no_links_and_all_kernels(archive: Path) -> None:
    with tarfile.open(archive) as tar:
        assert not [member.name for member in tar if member.issym() or member.islnk()]
        names = {name.partition("/")[2] for name in tar.getnames()}
    kernels = {path.relative_to(ROOT).as_posix() for path in (ROOT / "lwgraph").rglob("*.[ch]")}
    assert kernels and kernels <= names


@pytest.mark.parametrize("tree", TREES)
def test_a_tree_builds_the_whole_wheel_and_nothing_else(tree: str, wheels: dict[str, Path]) -> None:
    found = members(wheels[tree])
    assert found == members(wheels["checkout"])
    package = ROOT / "lwgraph"
    files = {
        path.relative_to(ROOT).as_posix(): zlib.crc32(path.read_bytes())
        for path in package.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and path.suffix not in NOT_INSTALLED
    }
    pages = ((path, path.relative_to(ROOT).as_posix()) for path in (ROOT / "docs").rglob("*.md"))
    files |= {f"lwgraph/{name}": zlib.crc32(path.read_bytes()) for path, name in pages}
    assert {name: crc for name, crc in found.items() if "dist-info/" not in name} == files


@pytest.mark.parametrize("tree", TREES[1:])  # in the checkout they are run anyway
def test_the_packaging_tests_pass_in_the_tree(tree: str, trees: dict[str, Path], clean: Path) -> None:
    """They and the tree's own modules are run where the tree lies; what is installed is the wheel."""
    call(clean, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/test_packaging.py", cwd=trees[tree])


def test_the_installed_wheel_runs_the_demo(clean: Path, tmp_path: Path) -> None:
    """By the preset that takes seconds; what it does not run is loaded at least, which `lwgraph passes` does."""
    home = call(clean, "-c", "import lwgraph; print(lwgraph.__file__)", cwd=tmp_path)
    assert Path(home).is_relative_to(clean.parents[1])
    command = clean.with_name("lwgraph")
    assert "cannot be loaded" not in call(command, "passes", cwd=tmp_path)
    assert call(command, "docs", "promises", cwd=tmp_path) == (ROOT / "docs/promises.md").read_text("utf8") + "\n"
    told = call(command, "demo", "--preset", "lossless", cwd=tmp_path)
    assert "promise kept: top1: nothing is lost: every rewrite preserves the outputs" in told
    made = {path.name for path in (tmp_path / "lwgraph-demo").iterdir()}
    assert made == {"fmnist_resnet14.lw.onnx", "plan.json", "report.html", "report.json"}


def test_the_source_archive_runs_its_tests_and_cleans_itself(trees: dict[str, Path], clean: Path) -> None:
    tree = trees["source archive"]
    some = ["tests/test_layering.py", "tests/test_layout.py", "tests/passes/test_example.py", "tests/plan/test_plan.py"]
    for kernels in (ROOT / "lwgraph" / "runtime").glob("_kernels*.so"):  # of the same sources; to compile takes longer
        shutil.copy(kernels, tree / "lwgraph" / "runtime")
    call(clean, "-m", "pytest", "-q", "-p", "no:cacheprovider", *some, cwd=tree)
    (tree / "build").mkdir(exist_ok=True)
    (tree / "lwgraph" / "left.so").touch()
    call("make", "clean", cwd=tree)
    assert not (tree / "build").exists() and not list(tree.rglob("*.so")) and not list(tree.glob("*.egg-info"))


@pytest.mark.skipif(not (shutil.which("cc") or shutil.which("gcc")), reason="needs a C compiler")
def test_the_kernels_are_compiled_where_there_is_a_compiler() -> None:
    assert importlib.util.find_spec("lwgraph.runtime._kernels")
