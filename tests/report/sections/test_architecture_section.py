"""Layers before and after, and what the time of the result goes to."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np

from lwgraph.optimizer.layer_times import edges, layer_times
from lwgraph.registry import executor
from lwgraph.report.sections.architecture import architecture
from lwgraph.report.sections.remaining import remaining
from tests.optimizer.planting import network
from tests.report.reports import with_layers as report

FEED = {"x": np.ones((1, 3, 6, 6), np.float32)}


def blocks(page: str) -> dict[str, tuple[float, str]]:
    """What a block tells -> its width and colour."""
    found = re.findall(r'<rect [^>]*?width="([\d.]+)"[^>]*? fill="([^"]+)"[^>]*><title>([^<]*)', page)
    return {title: (float(width), fill) for width, fill, title in found}


def test_a_block_is_as_wide_as_its_time_and_coloured_by_what_it_computes_in() -> None:
    shown = blocks(architecture(report()))
    before = next(shown[each] for each in shown if each.startswith("before: a"))
    after = next(shown[each] for each in shown if each.startswith("after: a"))
    low = [shown[each] for each in shown if each.startswith("after: b_low-rank")]
    assert len(low) == 2 and len(shown) == 6  # three before, three after; c is gone
    assert abs((after[0] + 1) / before[0] - 0.25) < 0.01 and abs((low[0][0] + 1) / before[0] - 0.125) < 0.01
    assert after[1] != low[0][1] == low[1][1] != before[1]


def test_edges_removed_layers_and_channels_are_shown_and_names_escaped() -> None:
    page = architecture(report())
    assert page.count('<line class="edge"') == 2 and page.count('<path class="edge"') == 1
    assert ">removed</text>" in page and "8 to 4 channels" in page and 'class="chart zoomable"' in page
    assert "a&lt;1&gt;" in page and "<1>" not in page and "<kernel>" not in page


def test_without_times_blocks_are_equal_and_the_page_says_so() -> None:
    page = architecture(report(None))
    assert "The times of the layers are not known" in page and len({w for w, _ in blocks(page).values()}) == 3
    assert architecture(replace(report(), sites=[])) == "" == remaining(replace(report(), sites=[]))


def test_what_remains_is_told_longest_first_with_what_stood_against_it() -> None:
    page = remaining(report())
    order = re.findall(r"<tr><td[^>]*><code>([^<]*)</code>", page)
    assert order == ["soft&lt;m&gt;", "a&lt;1&gt;", "b_low-rank", "b_low-rank_1"]
    assert (
        'data-value="53.0">53 %' in page
        and page.count("<summary>ghost: too &lt;small&gt; (and 1 more)<") == 2
        and page.count("</summary>no &lt;kernel&gt;<") == 2
    )
    assert "far" not in page and "<small>" not in page and page.count("nothing was refused") == 1
    assert "are not known" in remaining(report(None))


def test_times_and_edges_are_those_of_the_models() -> None:
    model = network()
    assert edges(model) == [("conv0", "conv1"), ("conv1", "conv2"), ("conv2", "head"), ("conv1", "head")]
    found = layer_times(model, model, FEED, executor("ort"), (1e2, 1e2))
    assert found["after"]["conv2"][0] == "Conv" and found["before"]["conv2"][1] > 0
    for untimed in ((1e9, 1e9), (0.0, 0.0)):
        assert layer_times(model, model, FEED, executor("ort"), untimed)["after"] == {}


def test_times_that_other_work_disturbed_are_not_told() -> None:
    """They are longer than the whole run was when it was timed."""
    found = layer_times(network(), network(), FEED, executor("ort"), (1e2, 1e-6))
    assert found["before"] == {} == found["after"] and found["edges"]
