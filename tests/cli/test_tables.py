"""Tables fit a terminal of 80 columns, with short numbers."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from lwgraph.cli.show import show_report
from lwgraph.report import Report, ScoreRecord, Stage
from lwgraph.report.record import Facts
from lwgraph.report.words import short


@pytest.mark.parametrize(
    ("number", "text"),
    [(None, "unknown"), (0, "0"), (999, "999"), (1000, "1 k"), (10570, "10.6 k"), (80_512_345, "80.5 M")],
)
def test_short_numbers(number: int | None, text: str) -> None:
    assert short(number) == text


@pytest.mark.parametrize(
    ("number", "text"), [(999_600, "1 M"), (4.1e9, "4.1 G"), (2.5e12, "2.5 T"), (9.9e15, "9.9e+03 T")]
)
def test_short_numbers_that_are_large(number: float, text: str) -> None:
    assert short(number) == text


def test_the_table_before_and_after_fits_80_columns() -> None:
    report = Report("resnet.onnx", "ort-cpu", 1, 0)
    facts = Facts(12345, 125_557_032, 102_441_120, 14_089_184_000)
    report.stages = [
        Stage("input", facts, 1234.567, 1.0, (1.0, 1.0), 0.9123, "1.00x"),
        Stage("cleaned", facts, 123.4567, 0.9, (0.85, 0.95), 0.9123, "1.11x"),
        Stage("result", facts, 56.78, 0.08, (0.079, 0.081), 0.9056, "not settled (the machine was busy)"),
    ]
    report.score = ScoreRecord("agreement", "share", 2000, 0.9123, 0.9056, 0.0067, None)
    screen = io.StringIO()
    show_report(Console(file=screen, width=80, highlight=False), report)
    lines = screen.getvalue().splitlines()
    assert lines[0].split() == ["model", "weights", "size", "MACs", "ms", "speed", "95", "%", "agreement"]
    assert [line.split()[0] for line in lines[1:4]] == ["input", "cleaned", "result"]  # one line each, none folded
    assert "126 M" in lines[1] and "14.1 G" in lines[1] and "12.35..12.66" in lines[3]
    assert all(len(line) <= 80 for line in lines[:4])
