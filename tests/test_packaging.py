"""What is declared is what is used, and what is built holds every file."""

import ast
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from importlib.metadata import PackageNotFoundError, entry_points, packages_distributions, requires, version
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "lwgraph"
# onnx's messages are protobuf's and its small dtypes are ml_dtypes', so both are part of its interface.
WITH_ONNX = {"ml-dtypes", "protobuf"}
NOT_INSTALLED = {".so", ".pyd", ".c", ".h"}
TREES = {"lwgraph": PACKAGE, "lwgraph/passes": PACKAGE / "passes", "lwgraph/runtime": PACKAGE / "runtime"}


def _sources() -> dict[str, Path]:
    """Archive name -> file, of every file that belongs to the installed package."""
    found = {}
    for prefix, folder in TREES.items():
        for path in folder.resolve().rglob("*"):
            inside = path.relative_to(folder.resolve())
            if path.is_file() and "__pycache__" not in inside.parts and path.suffix not in NOT_INSTALLED:
                found[f"{prefix}/{inside.as_posix()}"] = path
    return found


def _name(requirement: str) -> str:
    match = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert match
    return re.sub(r"[-_.]+", "-", match[0]).lower()


def _imported() -> set[str]:
    """Distributions that the package imports anywhere."""
    modules = set()
    for name, path in _sources().items():
        if name.endswith(".py"):
            for node in ast.walk(ast.parse(path.read_text("utf8"))):
                if isinstance(node, ast.Import):
                    modules |= {alias.name.split(".")[0] for alias in node.names}
                elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
                    modules.add(node.module.split(".")[0])
    known = {"google": ["protobuf"], **packages_distributions()}  # Python 3.10 does not list namespace packages
    outside = modules - set(sys.stdlib_module_names) - {"lwgraph"}
    return {_name(known[m][0]) if m in known else _name(m) for m in outside}


def test_every_import_is_declared() -> None:
    lines = requires("lwgraph") or []
    needed = {_name(line) for line in lines if "extra ==" not in line}
    optional = {_name(line) for line in lines if re.search(r"extra == ['\"](dask|torch|test)['\"]", line)}
    assert _imported() - optional - WITH_ONNX <= needed


def test_every_plugin_loads_without_the_extras() -> None:
    """What is listed, and described with its options, must not need torch or dask: most users have neither."""
    script = (
        "import sys; sys.modules.update(torch=None, dask=None, distributed=None)\n"
        "from importlib.metadata import entry_points\n"
        "for group in ('lwgraph.passes', 'lwgraph.forms', 'lwgraph.executors', 'lwgraph.roles'):\n"
        "    for point in entry_points(group=group):\n"
        "        if point.dist is not None and point.dist.name == 'lwgraph': point.load()\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_every_entry_point_loads_under_its_own_name() -> None:
    for group in ("lwgraph.passes", "lwgraph.forms", "lwgraph.executors"):
        for point in entry_points(group=group):
            if point.dist is not None and point.dist.name == "lwgraph":
                assert point.load().name == point.name, point


def test_every_dependency_has_a_lower_bound() -> None:
    for line in requires("lwgraph") or []:
        if "extra ==" not in line:
            assert ">=" in line, line


def _build(kind: str, tree: Path, out: Path) -> Path:
    """An sdist or wheel of the tree by the build backend that pip calls, without network and without a compiler."""
    code = f"import setuptools.build_meta as b; print('BUILT', b.build_{kind}({str(out)!r}))"
    no_compiler = {**os.environ, "CC": "false", "CXX": "false"}
    done = subprocess.run([sys.executable, "-c", code], cwd=tree, env=no_compiler, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return out / done.stdout.rpartition("BUILT ")[2].strip()


def _clone(to: Path) -> Path:
    """The checkout as git would give it: links kept, nothing that was built."""
    ignore = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "build", "dist", "*.so")
    return Path(shutil.copytree(ROOT, to, symlinks=True, ignore=ignore))


def _members(wheel: Path) -> dict[str, int]:
    """File names and checksums, without the metadata."""
    with zipfile.ZipFile(wheel) as file:
        return {info.filename: info.CRC for info in file.infolist() if "dist-info/" not in info.filename}


def test_wheels_of_the_checkout_and_of_the_sdist_hold_every_file(tmp_path: Path) -> None:
    checkout = _clone(tmp_path / "checkout")
    archive = _build("sdist", checkout, tmp_path)
    with tarfile.open(archive) as tar:
        assert not [member.name for member in tar if member.issym() or member.islnk()]
        if sys.version_info >= (3, 12):
            tar.extractall(tmp_path / "sdist", filter="data")
        else:
            tar.extractall(tmp_path / "sdist")
    (unpacked,) = (tmp_path / "sdist").iterdir()
    kernels = {path.name for path in (PACKAGE / "runtime").resolve().glob("*.[ch]")}
    assert kernels == {path.name for path in (unpacked / "lwgraph" / "runtime").glob("*.[ch]")}

    first = _members(_build("wheel", checkout, tmp_path))
    second = _members(_build("wheel", unpacked, tmp_path))  # the same file name, so the first is read before
    assert set(first) == set(_sources())
    assert second == first


@pytest.mark.skipif(not (shutil.which("cc") or shutil.which("gcc")), reason="needs a C compiler")
def test_the_kernels_are_compiled_where_there_is_a_compiler() -> None:
    assert importlib.util.find_spec("lwgraph.runtime._kernels")


def test_the_install_is_the_one_of_this_checkout() -> None:
    """Tests of a stale or foreign install would prove nothing."""
    try:
        version("lwgraph")
    except PackageNotFoundError:
        pytest.fail("lwgraph is not installed; run: pip install -e '.[test]'")
    import lwgraph

    assert lwgraph.__file__ is not None
    assert Path(lwgraph.__file__).resolve().parent == PACKAGE.resolve()


def test_test_files_have_different_names() -> None:
    """Pytest imports them by their bare names: two of one name cannot be collected together."""
    names = [path.name for path in Path(__file__).parent.rglob("test_*.py")]
    assert sorted(names) == sorted(set(names))
