"""A worker of a script that has no `if __name__ == '__main__'` does not run the script once more."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def test_a_plain_script_may_start_workers(tmp_path: Path) -> None:
    script = tmp_path / "plain.py"
    script.write_text(
        "import os\nfrom lwgraph.tasks.worker import Worker\nprint('ran', Worker().call(os.getpid) > 0)\n"
    )
    ran = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=60, check=False)
    assert (ran.returncode, ran.stdout) == (0, "ran True\n"), ran.stderr
