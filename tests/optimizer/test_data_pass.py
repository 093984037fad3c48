"""The unit of time: passes over the data."""

import io
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console

from lwgraph import registry
from lwgraph.cli.show import show_report
from lwgraph.executor import untimed
from lwgraph.optimizer.data_pass import Cost, DataPass, sample_seconds
from lwgraph.report import Report, StageRun
from lwgraph.report.sections.run import run
from tests.optimizer.planting import network

# 100 samples of 10 ms to fit to; 2 s of judging a third of the others: 1 s and 6 s.
UNIT = DataPass(sample=0.01, samples=100, look=2.0, looked=1 / 3)


def test_a_pass_is_the_float_network_on_all_inputs() -> None:
    assert UNIT.seconds == pytest.approx(7.0)
    assert UNIT.runs(100) == pytest.approx(1 / 7) and UNIT.looks(3) == pytest.approx(6 / 7)


def test_costs_add_up_and_seconds_count_in_passes() -> None:
    cost = Cost(1.0, 7.0) + Cost(0.5) * 2
    assert cost == Cost(2.0, 7.0) and UNIT.total(cost) == pytest.approx(3.0)


def test_a_pass_takes_time_even_where_the_clock_stood_still() -> None:
    assert DataPass(0.0, 10, 0.0).seconds > 0


def test_samples_are_timed_without_all_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    executor, rng = registry.executor("ort"), np.random.default_rng(0)
    feeds = [{"x": rng.standard_normal((1, 3, 6, 6)).astype(np.float32)} for _ in range(64)]
    ran, call = [], type(untimed(executor).prepare(network())).__call__
    monkeypatch.setattr(
        type(untimed(executor).prepare(network())), "__call__", lambda self, feed: ran.append(1) or call(self, feed)
    )
    assert 0 < sample_seconds(network(), feeds, executor) < 1
    assert len(ran) == 9  # one to warm up


def told(report: Report) -> list[str]:
    text = io.StringIO()
    show_report(Console(file=text, width=200), report, explain_time=True)
    return [" ".join(line.split()) for line in text.getvalue().splitlines()]


def test_the_time_is_told_by_step_with_what_was_predicted() -> None:
    runs = [StageRun("integers", 14.0, 1, "done", 2.0, 1.5), StageRun("training", 0.0, 0, "nothing to do", 0.0)]
    seconds = {"reading": 3.5, "planning": 14.1, "rewriting": 0.7, "measuring": 7.0}
    report = Report("m.onnx", "ort-cpu", 1, 0, runs=runs, seconds=seconds, pass_seconds=7.0)
    lines = told(report)
    at = [
        lines.index(row)
        for row in ("reading 0.5 3.5", "integers 1.5 2.0 14.0", "training 0.0 0.0", "measuring 1.0 7.0")
    ]
    assert at == sorted(at) and not any(line.startswith("planning") for line in lines)
    assert "One pass over the data, the float network on all inputs, took 7 s at the start." in lines
    assert "7 s at the start" in run(report)


def test_without_data_the_time_is_told_in_seconds() -> None:
    lines = told(Report("m.onnx", "ort-cpu", 1, 0, seconds={"reading": 3.5, "planning": 2.0}))
    assert "reading 3.5" in lines and "planning 2.0" in lines and not any("One pass" in line for line in lines)
    assert "at the start" not in run(replace(Report("m", "t", 1, 0), runs=[StageRun("forms", 1.0, 0)]))
