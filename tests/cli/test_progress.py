"""Progress: one line per kind of work without a terminal, a bar that goes on within one kind on a terminal."""

from __future__ import annotations

import io
import sys

import pytest
from rich.console import Console

from lwgraph.cli import progress as module
from lwgraph.cli.progress import Progressed


def work(shown: Progressed) -> None:
    with shown:
        shown("reading", 0, 0)
        for i in range(200):
            shown(f"searching plans ({i} run; 2.0x at error [0.1])", i, 1000)
        shown("judging plans", 1, 3)
        shown("reading", 0, 0)


def test_no_flood_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    work(Progressed())
    assert capsys.readouterr().err.splitlines() == ["reading ...", "searching plans ...", "judging plans ..."]


def test_quiet(capsys: pytest.CaptureFixture[str]) -> None:
    work(Progressed(quiet=True))
    captured = capsys.readouterr()
    assert captured.out == captured.err == ""


def test_one_bar_for_one_kind_of_work(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setattr(module, "Console", lambda **_: Console(file=screen, force_terminal=True, width=140))
    shown = Progressed()
    with shown:
        shown("searching plans (1 run)", 100, 1000)
        (first,) = shown._bar.tasks
        shown("searching plans (2 run; error [0.1])", 370, 1000)
        (second,) = shown._bar.tasks
        shown._bar.refresh()
        assert second is first and second.completed == 370  # so the remaining time is of all the search
        shown("judging plans", 1, 3)
        (third,) = shown._bar.tasks
        shown._bar.refresh()
        assert third is not first
    text = screen.getvalue()
    assert "searching plans (2 run; error [0.1])" in text and "37 %" in text and "1/3" in text
