"""Models with operators that were not run before run in a worker first, which may die in the place of this process."""

from __future__ import annotations

import functools
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from lwgraph import ir
from lwgraph.errors import ModelError
from lwgraph.executor import Array, Feeds, Run
from lwgraph.optimizer.first_run import FirstRuns
from lwgraph.tasks.isolated import Isolated, loaded_runs
from tests.layers.chain import FEEDS, chain


class Noted:
    """An executor that writes down where it runs what, and dies of a square root."""

    name = "noted"

    def __init__(self, path: Path) -> None:
        self.path = path

    def prepare(self, model: ir.Model, outputs: Sequence[str] | None = None) -> Run:
        """See `Executor`."""
        kinds = [node.op_type for node in model.graph]
        if "Sqrt" in kinds:
            os.kill(os.getpid(), signal.SIGKILL)
        return functools.partial(self._run, kinds)

    def _run(self, kinds: list[str], feeds: Feeds) -> dict[str, Array]:
        with self.path.open("a") as file:
            file.write(f"{os.getpid()} {kinds[1]}\n")
        return {}


def changed(op_type: str) -> ir.Model:
    """The chain with another operator in its middle."""
    model = chain()
    model.graph[1].op_type = op_type
    return model


def test_each_operator_runs_there_once_and_one_that_kills_is_an_error(tmp_path: Path) -> None:
    noted = Noted(tmp_path / "runs")
    first = FirstRuns(noted)
    for model in (chain(), chain(shared=True), changed("Abs"), changed("Abs")):
        run = first.prepare(model)
        for _ in range(2):
            run(FEEDS)
    here = str(os.getpid())
    runs = [line.split() for line in noted.path.read_text().splitlines()]
    assert len([kind for place, kind in runs if place == here]) == 8
    assert [kind for place, kind in runs if place != here] == ["Relu", "Abs"]
    for _ in range(2):
        with pytest.raises(ModelError, match="died with signal SIGKILL"):
            first.prepare(changed("Sqrt"))(FEEDS)
    first.prepare(changed("Abs"))(FEEDS)


def test_a_script_needs_no_guard(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import lwgraph\nfrom lwgraph import ir\nfrom tests.layers.chain import chain\n"
        "result = lwgraph.optimize(ir.to_proto(chain()), target='macs')\n"
        "print('once', result.kept, __file__, __spec__)\n"
    )
    root = Path(__file__).resolve().parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    ended = subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout == f"once True {script} None\n"


def held(isolated: Isolated) -> int:
    """How many models the worker holds."""
    found: int = isolated.ask("counting", len_of_loaded)
    return found


def len_of_loaded() -> int:
    return len(loaded_runs)


def test_only_one_process_holds_a_model_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker has let go of one that ran before it is loaded here, and of one that never ran before the next."""
    first, counts = FirstRuns(Noted(tmp_path / "runs")), list[int]()
    isolated = first._isolated
    assert isolated is not None
    prepare = Noted.prepare

    def counted(self: Noted, model: ir.Model, outputs: Sequence[str] | None = None) -> Run:
        counts.append(held(isolated))
        return prepare(self, model, outputs)

    monkeypatch.setattr(Noted, "prepare", counted)
    first.prepare(chain())(FEEDS)
    assert counts == [0]
    first.prepare(changed("Abs"))  # only loaded
    assert held(isolated) == 1
    first.prepare(chain())
    assert counts == [0, 0]
