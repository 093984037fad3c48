"""What is declared is what is used; `test_builds.py` runs this file in every kind of tree."""

import ast
import os
import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, entry_points, packages_distributions, requires, version
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "lwgraph"
# onnx's messages are protobuf's and its small dtypes are ml_dtypes', so both are part of its interface.
WITH_ONNX = {"ml-dtypes", "protobuf"}


def _name(requirement: str) -> str:
    match = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert match
    return re.sub(r"[-_.]+", "-", match[0]).lower()


def _imported() -> set[str]:
    """Distributions that the package imports anywhere."""
    modules = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf8"))):
            if isinstance(node, ast.Import):
                modules |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
                modules.add(node.module.split(".")[0])
    named = {"google": ["protobuf"], "olive": ["olive-ai"]}  # Python 3.10 does not list namespace packages
    known = {**named, **packages_distributions()}
    outside = modules - set(sys.stdlib_module_names) - {"lwgraph"}
    return {_name(known[m][0]) if m in known else _name(m) for m in outside}


def test_every_import_is_declared() -> None:
    lines = requires("lwgraph") or []
    needed = {_name(line) for line in lines if "extra ==" not in line}
    optional = {
        _name(line)
        for line in lines
        if re.search(r"extra == ['\"](dask|olive|openvino|optimum|text|torch|test)['\"]", line)
    }
    assert _imported() - optional - WITH_ONNX <= needed


def test_every_plugin_loads_without_the_extras() -> None:
    """What is listed, and described with its options, must not need torch, dask or OpenVINO: most users have none."""
    script = (
        "import sys; sys.modules.update(torch=None, dask=None, distributed=None, openvino=None)\n"
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


def test_the_install_is_the_one_of_this_checkout() -> None:
    """Tests of a stale or foreign install would prove nothing."""
    try:
        version("lwgraph")
    except PackageNotFoundError:
        pytest.fail("lwgraph is not installed; run: pip install -e '.[test]'")
    import lwgraph

    assert lwgraph.__file__ is not None
    assert Path(lwgraph.__file__).resolve().parent == PACKAGE.resolve()


@pytest.mark.parametrize("name", ["passes", "runtime"])
def test_a_name_at_the_top_is_a_link_into_the_package(name: str) -> None:
    """For people only. A tree without links has a text file in its place, a source archive has neither."""
    link = ROOT / name
    if (ROOT / "PKG-INFO").exists():
        assert not os.path.lexists(link)
    else:
        assert (os.readlink(link) if link.is_symlink() else link.read_text("utf8")) == f"lwgraph/{name}"
    assert (PACKAGE / name / "__init__.py").is_file()
