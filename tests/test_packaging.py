"""What is declared is what is used, and what is built holds every file."""

import ast
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
WITH_ONNX = {"protobuf"}  # onnx's messages are protobuf's, so its exceptions are part of onnx's interface
TREES = {"lwgraph": PACKAGE, "lwgraph/passes": PACKAGE / "passes", "lwgraph/runtime": PACKAGE / "runtime"}


def _sources() -> dict[str, Path]:
    """Archive name -> file, of every file that belongs to the installed package."""
    found = {}
    for prefix, folder in TREES.items():
        for path in folder.resolve().rglob("*"):
            inside = path.relative_to(folder.resolve())
            if path.is_file() and "__pycache__" not in inside.parts and path.suffix not in (".so", ".pyd", ".c", ".h"):
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
    known = packages_distributions()
    outside = modules - set(sys.stdlib_module_names) - {"lwgraph"}
    return {_name(known[m][0]) if m in known else _name(m) for m in outside}


def test_every_import_is_declared() -> None:
    lines = requires("lwgraph") or []
    needed = {_name(line) for line in lines if "extra ==" not in line}
    optional = {_name(line) for line in lines if re.search(r"extra == ['\"](torch|test)['\"]", line)}
    assert _imported() - optional - WITH_ONNX <= needed


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
    """An sdist or wheel of the tree, by the build backend that pip calls, without the network."""
    code = f"import setuptools.build_meta as b; print('BUILT', b.build_{kind}({str(out)!r}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=tree, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return out / done.stdout.rpartition("BUILT ")[2].strip()


def _clone(to: Path) -> Path:
    """The checkout as git would give it: links kept, nothing that was built."""
    ignore = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "build", "dist", "*.so")
    return Path(shutil.copytree(ROOT, to, symlinks=True, ignore=ignore))


def test_wheels_of_the_checkout_and_of_the_sdist_hold_every_file(tmp_path: Path) -> None:
    checkout = _clone(tmp_path / "checkout")
    assert (checkout / "lwgraph" / "passes").is_symlink() or not (ROOT / "lwgraph" / "passes").is_symlink()
    archive = _build("sdist", checkout, tmp_path)
    with tarfile.open(archive) as tar:
        assert not [member.name for member in tar if member.issym() or member.islnk()]
        tar.extractall(tmp_path / "sdist", **({"filter": "data"} if sys.version_info >= (3, 12) else {}))
    (unpacked,) = (tmp_path / "sdist").iterdir()

    direct = _build("wheel", checkout, tmp_path)
    with zipfile.ZipFile(direct) as wheel:
        first = {info.filename: info.CRC for info in wheel.infolist() if "dist-info/" not in info.filename}
    again = _build("wheel", unpacked, tmp_path)  # same file name: the first has been read
    with zipfile.ZipFile(again) as wheel:
        second = {info.filename: info.CRC for info in wheel.infolist() if "dist-info/" not in info.filename}

    sources = set(_sources())
    compiled = {name for name in first if name.endswith((".so", ".pyd"))}
    assert set(first) - compiled == sources
    assert set(second) - {name for name in second if name.endswith((".so", ".pyd"))} == sources
    if shutil.which("cc") or shutil.which("gcc"):
        assert len(compiled) == len(list((ROOT / "lwgraph" / "runtime").resolve().glob("*.c")))
    assert "py.typed" in {Path(name).name for name in sources}


def test_the_install_is_the_one_of_this_checkout() -> None:
    """Tests of a stale or foreign install would prove nothing."""
    try:
        version("lwgraph")
    except PackageNotFoundError:
        pytest.fail("lwgraph is not installed; run: pip install -e '.[test]'")
    import lwgraph

    assert lwgraph.__file__ is not None
    assert Path(lwgraph.__file__).resolve().parent == PACKAGE.resolve()
