"""The report: complete, valid JSON, safe HTML."""

from __future__ import annotations

import html.parser
import json
import re
from pathlib import Path

import pytest

from lwgraph.errors import UsageError
from lwgraph.report import to_html, write
from lwgraph.report.words import count, percent, size, speed
from tests.report.reports import example


class Page(html.parser.HTMLParser):
    """Checks that every opened element is closed, in order."""

    VOID = frozenset({"meta", "rect", "br", "line", "polyline"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_page_is_balanced_and_escapes_what_comes_from_the_model() -> None:
    report = example()
    plan = {"predicted_ms": 1.0, "predicted_loss": 0.1, "loss": 0.1, "measured_ms": 1.0, "chosen": True}
    report.details["search"] = {"objective": "latency", "seconds": 1.0, "candidates": [plan, {**plan, "loss": 0.2}]}
    page = Page()
    page.feed(to_html(report))
    assert not page.open
    assert "<b>model</b>.onnx" in page.text  # shown as text, so it was escaped in the source
    assert "2.00x" in page.text and "conv<1>" in page.text and "a & b" in page.text


def test_a_part_that_fails_is_one_line_of_the_page() -> None:
    report = example()
    report.details["front"] = [{"number": "<1>"}]
    page = Page()
    page.feed(to_html(report))
    assert not page.open and "The part \"front\" could not be made: KeyError: 'drop'" in page.text
    assert "What was left alone" in page.text and "conv<1>" in page.text  # the parts before and after it


def test_the_page_loads_nothing_and_holds_its_script_and_style() -> None:
    page = to_html(example())
    assert "default-src 'none'" in page and not re.search(r"(src|href|action)=|@import|url\(|https?:", page)
    assert page.count("<script>") == page.count("</script>") == 1 and page.count("<style>") == 1
    script = page.partition("<script>")[2].partition("</script>")[0]
    assert "innerHTML" not in script and "eval(" not in script  # text of a model stays text


def test_json_has_no_infinities_and_names_its_schema() -> None:
    report = example()
    report.stages[0].ratio = float("inf")
    data = json.loads(report.to_json())
    assert data["schema"] == 1
    assert data["stages"][0]["ratio"] is None
    assert data["stages"][1]["facts"] == {"nodes": 8, "parameters": 500, "bytes": 2000, "macs": None}


def test_write_makes_the_folder(tmp_path: Path) -> None:
    page = write(example(), tmp_path / "a" / "b")
    assert page.name == "report.html" and page.exists()
    assert (page.parent / "report.json").exists()


def test_write_into_a_file_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"report folder .*cannot be written.*--report"):
        write(example(), tmp_path / "file")


def test_words() -> None:
    assert (count(1234567), count(None)) == ("1,234,567", "unknown")
    assert [size(n) for n in (12, 2_785_168, 3_000_000_000)] == ["12 B", "2.79 MB", "3 GB"]
    assert speed(0.5) == "2.00x"
    assert percent(0.432) == "43 %"
