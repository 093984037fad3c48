"""What the command line says of a result."""

import io

from rich.console import Console

from lwgraph.cli.show import show_report
from lwgraph.report import Report, SiteChoice


def test_removed_channels_and_blocks_are_not_counted_as_layers():
    gone = [("g", "channels", "32 to 16 channels"), ("b", "block", "removed")]
    rows = [*gone, ("c", "Conv", "int8"), ("d", "Conv", None)]
    sites = [SiteChoice(name, operator, "", form, None, None, None) for name, operator, form in rows]
    report = Report("m.onnx", "ort-cpu", 1, 0, sites=sites)
    text = io.StringIO()
    show_report(Console(file=text, width=200), report)
    said = text.getvalue()
    assert "channels were removed from 1 groups." in said and "1 residual blocks were removed." in said
    assert "1 of 2 dense layers have a lighter form." in said
