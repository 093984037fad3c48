"""The picture of README.md is what the report's code draws of the run that is kept."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

from benchmarks import picture
from lwgraph.report.chart import ChartAxis, scatter, standalone

ROOT = Path(__file__).resolve().parents[2]


def test_it_is_drawn_by_the_reports_code_of_a_run_that_is_kept() -> None:
    kept = json.loads(picture.PLANS.read_text("utf8"))
    assert picture.drawn(kept) == picture.PICTURE.read_text("utf8")
    assert "docs/front.svg" in (ROOT / "README.md").read_text("utf8") and kept["build"] in (
        ROOT / "README.md"
    ).read_text("utf8")


def test_it_stands_alone() -> None:
    """Well-formed, with its colours, and nothing from elsewhere."""
    text = picture.PICTURE.read_text("utf8")
    drawing = ElementTree.fromstring(text)
    assert drawing.tag == "{http://www.w3.org/2000/svg}svg" and "--ink:" in text and "prefers-color-scheme" in text
    assert not {"href", "src"} & {key.rpartition("}")[2] for each in drawing.iter() for key in each.attrib}
    circles = [each for each in drawing.iter() if each.tag.endswith("circle")]
    assert len(circles) == len(json.loads(picture.PLANS.read_text("utf8"))["front"]) + 1
    assert standalone(scatter([], ChartAxis("x"), ChartAxis("y"))) == ""


def test_a_report_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = json.loads(picture.PLANS.read_text("utf8"))
    plans = [plan | {"why": "because"} for plan in kept["front"]]
    report = {"source": "m.onnx", "score": {"unit": "of 1"}, "details": {"front": plans}}
    (tmp_path / "report.json").write_text(json.dumps(report), "utf8")
    monkeypatch.setattr(picture, "PLANS", tmp_path / "front.json")
    monkeypatch.setattr(picture, "PICTURE", tmp_path / "front.svg")
    picture.main(tmp_path / "report.json")
    assert json.loads((tmp_path / "front.json").read_text("utf8"))["front"] == kept["front"]
    assert (tmp_path / "front.svg").read_text("utf8") == picture.drawn(kept)
