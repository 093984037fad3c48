"""What a result offers: the model as others take it, the verdict, and itself in three lines and in notebooks."""

import json
from dataclasses import replace
from html.parser import HTMLParser
from importlib.metadata import version

import numpy as np
import pytest

import lwgraph
from lwgraph.report import ScoreRecord
from tests.optimizer.tiny import tiny


@pytest.fixture(scope="module")
def result():
    return lwgraph.optimize(tiny())


class Tags(HTMLParser):
    """Tags that are open, and the text."""

    def __init__(self):
        super().__init__()
        self.open, self.text, self.rows = [], [], 0

    def handle_starttag(self, tag, attrs):
        self.open.append(tag)
        self.rows += tag == "tr"

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def test_the_version_is_the_installed_one():
    assert lwgraph.__version__ == version("lwgraph")


def test_the_model_as_a_proto_and_as_a_session(result):
    assert [node.op_type for node in result.to_proto().graph.node] == ["Mul"]
    session = result.session()
    assert session.get_session_options().intra_op_num_threads == result.report.threads == 1
    (y,) = session.run(None, {"x": np.ones((2, 4), np.float32)})
    assert np.array_equal(y, np.full((2, 4), 6, np.float32))
    assert result.session(threads=2).get_session_options().intra_op_num_threads == 2


@pytest.mark.parametrize("verdict", ["kept", "broken", "not resolved"])
def test_the_verdict_is_the_one_that_the_report_tells(result, verdict):
    """Of a default promise that is not resolved the exit code is 0, and the verdict is that all the same."""
    shown = replace(result, report=replace(result.report, verdict=verdict))
    assert shown.verdict == verdict and f"promise {verdict}\n" in repr(shown)
    assert json.loads(shown.report.to_json())["verdict"] == verdict


@pytest.mark.parametrize(
    ("speed", "told"),
    [("2.00x", "2.00x as fast"), ("not settled (load 8)", "is not settled (load 8)"), ("", "is not measured")],
)
def test_a_speed_is_told_only_when_it_is_settled(result, speed, told):
    stages = [*result.report.stages[:-1], replace(result.report.stages[-1], speed=speed, ratio=0.5)]
    assert told in repr(replace(result, report=replace(result.report, stages=stages)))


def test_three_lines(result):
    first, second, third = repr(result).split("\n")
    assert first.startswith("model -> ") and "promise kept" in first and "B of" in first
    assert "accuracy was not measured" in second and third == "  1 node, no layer with weights."


def test_what_notebooks_show_is_well_formed_and_escaped(result):
    score = ScoreRecord("top1", "of 1", 10, 0.9, 0.8, 0.1, None, text="<b>&")
    report = replace(result.report, source="<script>", score=score, notes=["a < b"])
    shown = replace(result, report=report)._repr_html_()
    tags = Tags()
    tags.feed(shown)
    assert not tags.open and tags.rows == 1 + len(report.stages)
    assert "<script>" not in shown and "<b>" not in shown and any("a < b" in text for text in tags.text)
