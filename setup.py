"""Declares the C kernels, and puts the documentation into the package; everything else is in pyproject.toml."""

import shutil
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_py import build_py

# The buffer protocol joined the stable ABI in Python 3.11: from there on one wheel serves every version.
stable = sys.version_info >= (3, 11) and sys.implementation.name == "cpython"


class BuildWithDocs(build_py):
    """A wheel has the pages of docs/ as lwgraph/docs, where `lwgraph docs` finds them; an editable install need not."""

    def run(self) -> None:
        """Build the package, then copy the pages."""
        super().run()
        if not self.editable_mode:
            for page in Path("docs").rglob("*.md"):
                copy = Path(self.build_lib, "lwgraph", page)
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(page, copy)


setup(
    cmdclass={"build_py": BuildWithDocs},
    ext_modules=[
        Extension(
            "lwgraph.runtime._kernels",
            ["lwgraph/runtime/_kernels.c"],
            depends=[
                f"lwgraph/runtime/_{part}.h"
                for part in ("common", "elements", "gemm", "integer", "isa", "lines", "pack")
            ],
            extra_compile_args=[] if sys.platform == "win32" else ["-O3", "-fno-math-errno", "-fno-trapping-math"],
            define_macros=[("Py_LIMITED_API", "0x030b0000")] if stable else [],
            py_limited_api=stable,
            optional=True,  # without a compiler the NumPy kernels do the work
        )
    ],
    options={"bdist_wheel": {"py_limited_api": "cp311"}} if stable else {},
)
