"""The long search of an older build, whose results today's are compared with.

The build is made from this repository's history, into the cache, with third-party packages as they are here. What it
found is kept: it does not change, and takes minutes.
"""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from benchmarks import run
from benchmarks.zoo import Case, cache

COMMIT = "ed1c98a"  # the last one whose stages judged every plan in full and looked at no clock of their own
REPOSITORY = Path(__file__).resolve().parent.parent


class BuildError(Exception):
    """The older build cannot be made."""


def build() -> Path:
    """A folder with the older build of lwgraph, and these benchmarks, to start a process in."""
    folder = cache.folder("before") / COMMIT
    if folder.exists():
        return folder
    packed = subprocess.run(["git", "archive", COMMIT], cwd=REPOSITORY, capture_output=True)
    if packed.returncode:
        raise BuildError(f"no commit {COMMIT}: {packed.stderr.decode().strip()}")
    with cache.replacing(folder) as new, tempfile.TemporaryDirectory() as source:
        with tarfile.open(fileobj=io.BytesIO(packed.stdout)) as files:
            files.extractall(source, filter="data")
        install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(new), source]
        done = subprocess.run(install, capture_output=True, text=True)
        if done.returncode:
            raise BuildError(f"commit {COMMIT} cannot be installed: {done.stderr.strip()[-200:]}")
        (new / "benchmarks").symlink_to(REPOSITORY / "benchmarks")
    return folder


def result(case: Case, options: list[str]) -> tuple[Path | None, float]:
    """What the older build makes of a case, from an empty cache; None where it fails. And the seconds it took."""
    kept = cache.folder("before") / f"{COMMIT}-{case.name}.onnx"
    seconds = kept.with_suffix(".seconds")
    if not kept.exists():
        with tempfile.TemporaryDirectory() as scratch:
            ran = run.optimize(case.model(), options, kept=Path(scratch), build=build())
            if ran.error:
                return None, ran.seconds
            seconds.write_text(f"{ran.seconds}")
            with cache.replacing(kept) as new:
                os.replace(Path(scratch, "out.onnx"), new)
    return kept, float(seconds.read_text())
