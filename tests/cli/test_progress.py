"""Progress: one line for each step without a terminal, one line that changes on a terminal."""

from __future__ import annotations

import io
import sys

import pytest
from rich.console import Console

from lwgraph.cli import progress as module
from lwgraph.cli.progress import Progressed, Said
from lwgraph.optimizer.request import Request
from lwgraph.optimizer.steps import Steps, steps_of

STAGES = ["integers", "structure", "forms", "search"]


def work(shown: Progressed) -> None:
    with shown:
        shown("reading", 0, 0)
        for i in range(200):
            shown(f"searching plans ({i} run; 2.0x at error [0.1])", i, 1000)
        shown("judging plans", 1, 3)
        shown("reading", 0, 0)


def run(show: Progressed) -> None:
    """A run's steps, as `optimize` tells them."""
    best = [""]
    steps = Steps(steps_of(Request(data="x"), STAGES), show, lambda: best[0])
    with show:
        for name in ("reading", "judging the input", "cleaning", *STAGES, "last look", "measuring the result"):
            steps.begin(name)
            for i in range(20):
                steps("judging plans", i, 20)
                steps(f"searching plans ({i} run)", i, 20)
            steps("The model puts out classes.", 0, 0)
            best[0] = "best so far 2.9x at 0.4 points"


def test_no_flood_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    work(Progressed())
    captured = capsys.readouterr().err.splitlines()
    assert captured == ["reading ...", "searching plans, 0 run; 2.0x at error [0.1] ...", "judging plans ..."]


def test_each_step_once(capsys: pytest.CaptureFixture[str]) -> None:
    run(Progressed())
    assert capsys.readouterr().err.splitlines() == [
        "1 of 9, reading ...",
        "The model puts out classes.",
        "2 of 9, judging the input, best so far 2.9x at 0.4 points ...",
        "3 of 9, cleaning, best so far 2.9x at 0.4 points ...",
        "4 of 9, integers, best so far 2.9x at 0.4 points ...",
        "5 of 9, structure, best so far 2.9x at 0.4 points ...",
        "6 of 9, forms, best so far 2.9x at 0.4 points ...",
        "7 of 9, search, best so far 2.9x at 0.4 points ...",
        "8 of 9, last look, best so far 2.9x at 0.4 points ...",
        "9 of 9, measuring the result, best so far 2.9x at 0.4 points ...",
    ]


@pytest.mark.parametrize(
    ("asked", "steps"),
    [
        ({}, 4),
        ({"data": "x"}, 9),
        ({"pipeline": "clean"}, 3),
        ({"data": "x", "plan": "p.json"}, 5),
        ({"preset": "lossless"}, 3),
        ({"unproven": True}, 9),
    ],
)
def test_how_many_steps_a_request_has(asked: dict[str, object], steps: int) -> None:
    found = steps_of(Request(**asked), STAGES)  # type: ignore[arg-type]
    assert len(found) == steps and (found[0], found[-1]) == ("reading", "measuring the result")


def test_a_step_that_is_not_listed_is_no_step() -> None:
    told: list[str] = []
    steps = Steps(("a", "b"), lambda what, done, total: told.append(what))
    steps("before", 0, 0)
    steps.begin("b")
    steps.begin("c")
    steps("within", 0, 0)
    assert told == ["before", "2 of 2, b", "2 of 2, b: within"]


@pytest.mark.parametrize(
    ("text", "done", "total", "left", "width", "line"),
    [
        (
            "4 of 9, forms: fitting forms (best so far 2.9x at 0.4 points)",
            *(12, 31, 38.0, 80),
            "4 of 9, forms: 12 of 31 layers, about 40 s left, best so far 2.9x at 0.4 points",
        ),
        (
            "4 of 9, forms: fitting forms (best so far 2.9x at 0.4 points)",
            *(12, 31, 38.0, 120),
            "4 of 9, forms: fitting forms 12 of 31 layers, about 40 s left, best so far 2.9x at 0.4 points",
        ),
        (
            "4 of 9, forms: fitting forms (best 2x)",
            12,
            31,
            200.0,
            50,
            "4 of 9, forms: 12 of 31 layers, about 4 min left",
        ),
        ("openvino:f32: 3 of 9, forms: x (2x)", 0, None, None, 80, "openvino:f32: 3 of 9, forms: x, 2x"),
        ("3 of 9, cleaning", 0, None, None, 80, "3 of 9, cleaning"),
        ("3 of 9, cleaning (best 2x)", 0, None, None, 80, "3 of 9, cleaning: best 2x"),
        ("measuring layers", 3, 8, 4.0, 80, "measuring layers 3 of 8 layers, a few seconds left"),
        (
            "7 of 9, search: searching plans (12 run)",
            370,
            1000,
            None,
            80,
            "7 of 9, search: searching plans 37 %, 12 run",
        ),
    ],
)
def test_the_line_on_a_terminal(
    text: str, done: float, total: float | None, left: float | None, width: int, line: str
) -> None:
    assert Said.parse(text).line(done, total, left, width) == line


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
    assert "searching plans 37 %" in text and "2 run; error [0.1]" in text and "judging plans 1 of 3" in text
