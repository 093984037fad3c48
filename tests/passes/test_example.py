"""The example package: its entry point is found, and its pass holds what the kit asks."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

EXAMPLE = Path(__file__).parents[2] / "examples" / "merge-muls"
SCRIPT = """
from lwgraph import registry
from lwgraph.rewrite import Pipeline
from lwgraph.testing import check_pass, random_model
assert "merge-muls" in registry.names("passes")
(p,) = Pipeline.parse("merge-muls{max_size=64}")
assert str(p) == "merge-muls{max_size=64}", p
assert check_pass(p, [random_model(seed, nodes=14) for seed in range(4)]) > 0
"""


def test_the_example_package(tmp_path: Path) -> None:
    text = (EXAMPLE / "pyproject.toml").read_text()
    points = re.search(r'entry-points."lwgraph.passes"\]\n(.*?)\n\n', text, re.DOTALL)
    assert points is not None
    installed = tmp_path / "lwgraph_merge_muls-0.1.0.dist-info"  # what pip would write, without running pip
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: lwgraph-merge-muls\nVersion: 0.1.0\n")
    (installed / "entry_points.txt").write_text("[lwgraph.passes]\n" + points[1].replace('"', "") + "\n")
    path = os.pathsep.join([str(tmp_path), str(EXAMPLE)])
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", SCRIPT],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
