"""What the command line says of a result."""

import io

from rich.console import Console

from lwgraph.cli.show import show_report
from lwgraph.report import Check, Facts, Layer, PassRun, Report, SiteChoice, Stage


def test_removed_channels_and_blocks_are_not_counted_as_layers():
    gone = [("g", "channels", "32 to 16 channels"), ("b", "block", "removed")]
    rows = [*gone, ("c", "Conv", "ghost{ratio=2}"), ("d", "Conv", None)]
    sites = [SiteChoice(name, operator, "", form, None, None, None) for name, operator, form in rows]
    report = Report("m.onnx", "ort-cpu", 1, 0, sites=sites)
    text = io.StringIO()
    show_report(Console(file=text, width=200), report)
    said = text.getvalue()
    assert "Channels were removed from 1 layer." in said and "1 residual block removed." in said
    assert "1 of 2 layers has a lighter form: ghost 1." in said


def test_what_layers_compute_in_is_counted() -> None:
    kinds = ["int8"] * 3 + ["float32", "int4 weights"]
    report = Report("m.onnx", "ort-cpu", 1, 0, layers=[Layer(str(i), "Conv", "1x1", k) for i, k in enumerate(kinds)])
    text = io.StringIO()
    show_report(Console(file=text, width=200), report)
    assert "3 of 5 layers compute in int8, 1 in float32, 1 in floats from int4 weights." in text.getvalue()


def test_passes_that_changed_nothing_are_counted_and_checks_are_sentences():
    passes = [PassRun("dead-code", "exact", 3, 0.1), PassRun("fuse-pad", "rounding", 0, 0.1)]
    checks = [
        Check("the graph is valid", "structural verifier", "exact", True, ""),
        Check("equal", "ort", "rounding", False, ""),
    ]
    report = Report("m.onnx", "ort-cpu", 1, 0, passes=passes, checks=checks)
    text = io.StringIO()
    show_report(Console(file=text, width=200), report, explain=True)
    said = text.getvalue()
    assert "verified: the graph is valid (structural verifier)" in said and "failed: equal, to rounding (ort)" in said
    assert "dead-code" in said and "fuse-pad" not in said and "1 of 2 passes changed nothing." in said


def test_a_speed_that_is_not_settled_is_no_headline_and_its_reason_stands_below() -> None:
    facts = Facts(1, 1, 1000, 1)
    why = "not settled (other work on this machine: load 8.1)"
    stages = [Stage("input", facts, 2.0, 1.0), Stage("result", facts, 1.0, 0.5, (0.3, 0.7), speed=why)]
    told = io.StringIO()
    report = Report(source="m", target="ort-cpu", threads=1, seed=0, stages=stages)
    show_report(Console(file=told, width=200), report)
    assert "2.00x" not in told.getvalue() and f"The speed of the result is {why}." in told.getvalue()
