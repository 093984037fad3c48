"""Who may import whom: the framework knows no plugin, and only `lwgraph.ir` knows onnx_ir."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import networkx as nx
import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "lwgraph"
PLUGINS = ("lwgraph.passes", "lwgraph.runtime")
KNOW_ONNX_IR = ("lwgraph.ir", "lwgraph.adapters.onnx_ir")  # of an adapter, it is the subject
RUNTIME_MAY_IMPORT = tuple(
    f"lwgraph.{name}" for name in ("arrays", "errors", "executor", "heap", "ir", "runtime", "temporary")
)


def _within(module: str, package: str) -> bool:
    return module == package or module.startswith(package + ".")


def _imports(module: str, is_package: bool, tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and absolute name of everything imported, wherever it stands: `from a import b` gives a.b."""
    parts = module.split(".")
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = parts[: len(parts) - node.level + is_package] if node.level else []
            prefix = ".".join([*base, *([node.module] if node.module else [])])
            yield from ((node.lineno, f"{prefix}.{alias.name}") for alias in node.names)


def violations(module: str, source: str, is_package: bool = False) -> list[str]:
    """The imports of `module` that its layer may not have."""
    tree = ast.parse(source)
    layer = next((p for p in PLUGINS if _within(module, p)), "lwgraph")
    found = []
    for line, name in _imports(module, is_package, tree):
        if any(_within(name, outside) for outside in ("tests", "benchmarks")):
            found.append(f"{module}:{line} imports {name}, which is not installed")
        if _within(name, "onnx_ir") and not any(_within(module, p) for p in KNOW_ONNX_IR):
            found.append(f"{module}:{line} imports {name}; take it from lwgraph.ir")
        if layer == "lwgraph" and any(_within(name, p) for p in PLUGINS):
            found.append(f"{module}:{line} imports {name}; the framework reaches plugins through lwgraph.registry")
        if layer == "lwgraph.passes" and _within(name, "lwgraph.runtime"):
            found.append(f"{module}:{line} imports {name}; a pass gets its executor from the context")
        if (
            layer == "lwgraph.runtime"
            and _within(name, "lwgraph")
            and not any(_within(name, allowed) for allowed in RUNTIME_MAY_IMPORT)
        ):
            found.append(f"{module}:{line} imports {name}; the runtime may import only {', '.join(RUNTIME_MAY_IMPORT)}")
    if layer == "lwgraph":
        # A module named in a string is an import in disguise.
        found += [
            f"{module}:{node.lineno} names {node.value} in a string"
            for node in ast.walk(tree)
            if isinstance(node, ast.Constant)
            and isinstance(node.value, str)
            and " " not in node.value
            and any(node.value.startswith(p + ".") for p in PLUGINS)
        ]
    return found


# From the ground up: a module imports from its own package and from those that stand before it here.
FLOORS = (
    *(
        "version",
        "alarm",
        "schemas",
        "errors",
        "documentation",
        "contract",
        "toml",
        "objects",
        "arrays",
        "flat",
        "faces",
        "progress",
        "heap",
        "temporary",
        "ir",
        "text",
        "check",
    ),
    *("report", "executor", "cache", "failures", "registry", "tasks", "calibrate", "measure", "rewrite", "layers"),
    *("views", "plan"),
    *("testing", "optimizer", "family", "adapters", "runtime", "passes", "demo", "cli", "__main__"),
)
# Imports that close a circle within one package, and why they may.
CIRCLES = {
    ("lwgraph.layers.form", "lwgraph.layers.form_pass"): "a form is a pass, too, and that pass is made of the form",
}


def sources() -> dict[str, tuple[str, bool]]:
    """Text of every module, and whether it is a package, by name."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = ["lwgraph", *path.relative_to(PACKAGE).with_suffix("").parts]
        is_package = parts[-1] == "__init__"
        found[".".join(parts[:-1] if is_package else parts)] = path.read_text("utf8"), is_package
    return found


def arrows(modules: dict[str, tuple[str, bool]]) -> Iterator[tuple[str, str, int]]:
    """Who imports whom and in which line: at the top, in functions and for types alike.

    The package `lwgraph` itself is left out: its face names what users import, and loads it when it is asked for.
    """
    for module, (text, is_package) in modules.items():
        for line, name in _imports(module, is_package, ast.parse(text)):
            while name and name not in modules:
                name = name.rpartition(".")[0]
            if "lwgraph" not in (name, module) and name not in ("", module):
                yield module, name, line


def circles(modules: dict[str, tuple[str, bool]]) -> list[list[str]]:
    """Modules that import each other, but for CIRCLES."""
    graph = nx.DiGraph((a, b) for a, b, _ in arrows(modules) if (a, b) not in CIRCLES)
    return [sorted(some) for some in nx.strongly_connected_components(graph) if len(some) > 1]


def upward(modules: dict[str, tuple[str, bool]]) -> list[str]:
    """Imports from a floor above."""

    def floor(module: str) -> int:
        return FLOORS.index(module.split(".")[1])

    return [f"{a}:{line} imports {b} from above" for a, b, line in arrows(modules) if floor(b) > floor(a)]


def test_no_module_imports_itself_through_others_and_none_imports_upward() -> None:
    modules = sources()
    assert circles(modules) == []
    assert upward(modules) == []


def test_the_circles_that_are_allowed_are_there_and_within_one_package() -> None:
    found = {(a, b) for a, b, _ in arrows(sources())}
    for a, b in CIRCLES:
        assert (a, b) in found and a.split(".")[1] == b.split(".")[1]


@pytest.mark.parametrize(
    "lower",
    [
        "from lwgraph.plan import high",
        "import lwgraph.plan.high",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from lwgraph.plan.high import x",
        "def f():\n    from ..plan.high import x",
    ],
)
def test_circles_and_imports_upward_are_seen(lower: str) -> None:
    modules = {
        "lwgraph": ("", True),
        "lwgraph.ir": ("", True),
        "lwgraph.ir.low": (lower, False),
        "lwgraph.plan": ("", True),
        "lwgraph.plan.high": ("from lwgraph.ir import low", False),
    }
    assert circles(modules) == [["lwgraph.ir.low", "lwgraph.plan.high"]]
    (found,) = upward(modules)
    assert found.startswith("lwgraph.ir.low:") and found.endswith("imports lwgraph.plan.high from above")


def test_every_module_keeps_to_its_layer() -> None:
    # rglob does not follow links before Python 3.13.
    files = [
        path
        for folder in (PACKAGE, *(PACKAGE / p.split(".")[1] for p in PLUGINS))
        for path in folder.resolve().rglob("*.py")
    ]
    roots = {(PACKAGE / p.split(".")[1]).resolve(): p for p in PLUGINS} | {PACKAGE.resolve(): "lwgraph"}
    found, seen = [], 0
    for path in sorted(set(files)):
        root, name = next((r, n) for r, n in roots.items() if path.is_relative_to(r))
        parts = [name, *path.relative_to(root).with_suffix("").parts]
        is_package = parts[-1] == "__init__"
        found += violations(".".join(parts[:-1] if is_package else parts), path.read_text("utf8"), is_package)
        seen += 1
    assert seen > 15
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("lwgraph.layers.site", "import lwgraph.passes.forms.low_rank"),
        ("lwgraph.layers.site", "from lwgraph import runtime"),
        ("lwgraph.layers.site", "def f():\n    from ..runtime.ort import OrtExecutor"),
        ("lwgraph.layers.site", "import importlib\nimportlib.import_module('lwgraph.runtime.ort')"),
        ("lwgraph.layers.site", "import onnx_ir as ir"),
        ("lwgraph.layers.site", "from benchmarks.zoo import cases"),
        ("lwgraph.passes.clean.dead", "from onnx_ir import Model"),
        ("lwgraph.passes.clean.dead", "from lwgraph.runtime.ort import OrtExecutor"),
        ("lwgraph.runtime.ort", "from lwgraph.measure import tolerances"),
        ("lwgraph.runtime.ort", "from ..passes import clean"),
    ],
)
def test_a_forbidden_import_is_seen(module: str, source: str) -> None:
    assert len(violations(module, source)) == 1


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("lwgraph.ir", "import onnx_ir"),
        ("lwgraph.registry", "from importlib.metadata import entry_points\nentry_points(group='lwgraph.passes')"),
        ("lwgraph.passes.forms.low_rank", "from lwgraph.plan import Site\nfrom . import solve"),
        ("lwgraph.runtime.ops.conv", "from lwgraph import ir\nfrom ..kernels import im2col\nimport numpy"),
    ],
)
def test_an_allowed_import_is_not(module: str, source: str) -> None:
    assert violations(module, source) == []


def _loaded_by(code: str) -> set[str]:
    """Top-level modules in sys.modules of a fresh interpreter after `code`."""
    report = "import sys; print('LOADED', *sorted({name.split('.')[0] for name in sys.modules}))"
    done = subprocess.run([sys.executable, "-c", f"{code}\n{report}"], capture_output=True, text=True, check=True)
    return set(done.stdout.rpartition("LOADED")[2].split())


HELP = """
import sys
from lwgraph.cli import main
sys.argv = ["lwgraph", "--help"]
try:
    main()
except SystemExit as end:
    assert not end.code
"""


@pytest.mark.parametrize("code", ["import lwgraph", HELP])
def test_the_first_second_belongs_to_the_user(code: str) -> None:
    """`import lwgraph` and `lwgraph --help` answer at once: they load no heavy library."""
    assert not _loaded_by(code) & {"onnx", "onnx_ir", "onnxruntime", "onnxsim", "numpy", "networkx", "PIL", "torch"}


def test_the_heavy_libraries_would_be_seen() -> None:
    assert {"onnx", "onnx_ir", "numpy"} <= _loaded_by("import lwgraph.ir")
