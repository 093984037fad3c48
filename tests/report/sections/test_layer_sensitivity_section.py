"""The chart of what each layer alone costs."""

from __future__ import annotations

import re

from lwgraph.report import Report, SiteChoice
from lwgraph.report.sections.layer_sensitivity import ROWS, layer_sensitivity


def layer(name: str, output: float | None, sqnr: float | None = 30.0) -> dict[str, object]:
    return {"name": name, "op_type": "Conv", "precision": "integer", "output": output, "sqnr": sqnr}


def page(*layers: dict[str, object], sites: list[SiteChoice] | None = None) -> str:
    details = {"quantization": {"layers": list(layers)}}
    return layer_sensitivity(Report("m", "ort-cpu", 1, 0, details=details, sites=sites or []))


def test_the_worst_layer_stands_first_with_the_longest_bar() -> None:
    shown = page(layer("good<1>", 50.0), layer("bad", 20.0), layer("unknown", None))
    titles = re.findall(r"<title>([^<]*)</title>", shown)
    assert titles == ["bad: 0.01 (20.0 dB)", "good&lt;1&gt;: 1e-05 (50.0 dB)"]
    widths = [float(w) for w in re.findall(r'<rect [^>]*width="([\d.]+)"', shown)]
    assert widths[0] > widths[1] > 0 and "<1>" not in shown


def test_without_figures_of_layers_alone_those_at_the_layer_are_shown() -> None:
    shown = page(layer("a", None, 10.0), layer("b", None, 20.0))
    assert "error at the layer, with all" in shown and "a: 0.1 (10.0 dB)" in shown
    assert page(layer("a", None, None)) == "" == layer_sensitivity(Report("m", "ort-cpu", 1, 0))


def test_forms_have_their_predicted_errors_and_of_many_the_worst_are_shown() -> None:
    sites = [SiteChoice(f"s{n}", "Conv", "", "low<rank>", 0.001 * (n + 1), 1.0, 0.5) for n in range(ROWS + 5)]
    shown = page(sites=sites)
    assert f"the {ROWS} worst of {ROWS + 5}" in shown and shown.count("<rect") == ROWS
    assert "s44: 0.045 (low&lt;rank&gt;)" in shown and ">s0<" not in shown
