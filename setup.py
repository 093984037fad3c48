"""Declares the C kernels; everything else is in pyproject.toml."""

import sys

from setuptools import Extension, setup

# The buffer protocol joined the stable ABI in Python 3.11: from there on one wheel serves every version.
stable = sys.version_info >= (3, 11) and sys.implementation.name == "cpython"

setup(
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
