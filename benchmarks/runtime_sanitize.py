"""Builds the C kernels with AddressSanitizer and UndefinedBehaviorSanitizer and runs their tests and random calls.

    python -m benchmarks.runtime_sanitize [RANDOM CALLS]     (make sanitize)

Needs gcc or clang with the sanitizers' libraries. Exits 1 on any finding.
"""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FLAGS = ["-O1", "-g", "-fno-omit-frame-pointer", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]

RUN = """
import importlib.util, sys
spec = importlib.util.spec_from_file_location("lwgraph.runtime._kernels", sys.argv[1])
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
sys.modules["lwgraph.runtime._kernels"] = module
sys.path.insert(0, sys.argv[2])
import pytest
from benchmarks import runtime_fuzz
from lwgraph.runtime import kernels
assert kernels.compiled is module, "the sanitized build is not the one in use"
for level in module.levels():
    module.level(level)
    for seed in range(int(sys.argv[3])):
        runtime_fuzz.check(seed)
    print(f"{level}: {sys.argv[3]} random calls are clean", flush=True)
tests = sys.argv[2] + "/tests/runtime/test_kernels.py"
raise SystemExit(pytest.main(["-q", "-p", "no:cacheprovider", "-p", "no:xdist", tests]))
"""


def _library(compiler: str, name: str) -> str:
    return subprocess.run(
        [compiler, f"-print-file-name={name}"], capture_output=True, text=True, check=True
    ).stdout.strip()


def main(calls: int) -> int:
    """Build, run, and return the exit code."""
    compiler = os.environ.get("CC", "gcc")
    with tempfile.TemporaryDirectory() as folder:
        library = str(Path(folder) / "_kernels.so")
        include = sysconfig.get_paths()["include"]
        source = str(ROOT / "runtime" / "_kernels.c")
        command = [compiler, *FLAGS, "-fPIC", "-shared", f"-I{include}", source, "-o", library]
        subprocess.run(command, check=True)
        preload = ":".join(_library(compiler, name) for name in ("libasan.so", "libubsan.so"))
        options = {
            "LD_PRELOAD": preload,
            "ASAN_OPTIONS": "detect_leaks=0:allocator_may_return_null=1",  # Python itself leaks at exit
            "UBSAN_OPTIONS": "print_stacktrace=1:halt_on_error=1",
        }
        arguments = [sys.executable, "-W", "ignore", "-c", RUN, library, str(ROOT), str(calls)]
        return subprocess.run(arguments, env={**os.environ, **options}, cwd=ROOT).returncode


if __name__ == "__main__":
    raise SystemExit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 1000))
