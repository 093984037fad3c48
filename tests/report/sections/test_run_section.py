"""The sections of the run and of the plans that can be picked, on the page and on the terminal."""

from __future__ import annotations

import io
import re
from dataclasses import replace
from itertools import pairwise

from rich.console import Console

from lwgraph.cli.show import show_report
from lwgraph.report.sections.front import front
from lwgraph.report.sections.run import run
from tests.report.reports import FRONT, SCORE, ran, report


def test_nothing_to_tell_shows_nothing() -> None:
    assert run(report()) == "" == front(report())


def test_the_best_so_far_is_a_step_for_each_that_was_until_the_end_of_the_run() -> None:
    page = run(ran())
    corners = re.search(r'<polyline points="([^"]+)"', page)
    assert corners is not None
    points = [tuple(map(float, pair.split(","))) for pair in corners[1].split()]
    # Two steps of two corners each, then the stretch to the end of the run, whose two corners share a height.
    assert len(points) == 7
    for (x1, y1), (x2, y2) in pairwise(points):
        assert x1 == x2 or y1 == y2
        assert x2 >= x1 and y2 <= y1  # faster is higher, which in a picture is a smaller y
    assert "search: about 3.00x after 9.0 s, score 0.9" in page and "the run ended after 12.0 s" in page


def test_stages_and_failures_are_told_and_escaped() -> None:
    page = run(ran())
    assert ">integers</td>" in page and "nothing to do: &lt;it&gt;" in page and "&lt;why&gt;" in page
    assert "&lt;quantized&gt;: about 2.00x" in page and "<why>" not in page


def test_without_times_there_is_no_picture() -> None:
    untimed = [{**each, "speed": None} for each in ran().details["progress"]]
    page = run(replace(ran(), details={"progress": untimed}))
    assert "svg" not in page and "integers" in page


def test_plans_are_listed_with_what_they_lose_and_which_was_delivered() -> None:
    page = front(report(details={"front": FRONT}, score=SCORE))
    assert "0.43 points" in page and "3.00x" in page and "2 kB" in page and "plan pick" in page
    assert page.count("</span>, delivered") == 1 and '<span class="open" title="a &lt;reason&gt;">not resolved<' in page
    assert page.count(">broken</span>") == 1 and page.count(">kept</span>") == 1
    assert "0.02 dB" in front(report(details={"front": FRONT}, score=replace(SCORE, unit="dB")))


def test_each_plan_has_the_line_that_gets_it_and_a_point_that_tells_of_it() -> None:
    page = front(replace(report(details={"front": FRONT}, score=SCORE), source="a <b>.onnx"))
    for number in (1, 2, 3):
        assert f"<code>lwgraph plan pick {number} &#x27;a &lt;b&gt;.onnx&#x27;</code>" in page
    assert "<title>plan 3: 2.00x, 0.10 points lost, 2 kB; promise kept</title>" in page
    assert "svg" not in front(report(details={"front": [{**each, "speed": None} for each in FRONT]}))


def test_the_terminal_lists_plans_and_failures() -> None:
    text = io.StringIO()
    show_report(Console(file=text, width=120), replace(ran(), details={"front": FRONT}, score=SCORE))
    lines = [" ".join(line.split()) for line in text.getvalue().splitlines()]
    assert "1 2.00 points 4.00x 2 kB broken" in lines
    assert "2 0.43 points 3.00x 2 kB not resolved, delivered" in lines
    assert "3 0.10 points 2.00x 2 kB kept" in lines
    assert "left out: forms: <why>" in lines


def test_a_single_plan_is_no_choice() -> None:
    text = io.StringIO()
    show_report(Console(file=text, width=120), report(details={"front": FRONT[:1]}))
    assert "plan pick" not in text.getvalue()
