"""`--unproven` on the command line: every line says so, the exit code is that of the promise on generated inputs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest

from tests.cli.conftest import Ended
from tests.optimizer.redundant import network


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lwgraph.plan.search.plan_search.BARREN", 4)


def test_every_line_says_unproven(lw: Callable[..., Ended], tmp_path: Path) -> None:
    onnx.save(network(rank=24, width=32), tmp_path / "m.onnx")
    ran = lw("optimize", tmp_path / "m.onnx", "--unproven", "--target", "macs")
    assert ran.code == 0
    lines = [line for line in ran.out.splitlines() if line.strip()]
    assert len(lines) > 6 and all("unproven" in line for line in lines)
    assert (tmp_path / "m.lw.onnx").is_file()


def test_json_has_a_field(lw: Callable[..., Ended], tmp_path: Path) -> None:
    onnx.save(network(width=32), tmp_path / "m.onnx")
    told = {}
    for options in ((), ("--unproven",)):
        ran = lw("optimize", tmp_path / "m.onnx", "--json", "--overwrite", "--target", "macs", *options)
        told[bool(options)] = json.loads(ran.out)["unproven"]
    assert told == {False: False, True: True}
