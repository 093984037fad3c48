"""The page in a real browser, where one is installed: nothing overflows, nothing is complained of, the script works."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from typing import Any

import pytest

from lwgraph.report import Report, to_html
from tests.report.reports import FRONT, SCORE, example, ran, with_layers

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--virtual-time-budget=3000", "--window-size=1400,1000"),
)
WIDTHS = (390, 1280)
# Before anything else of the page: remembers what the browser complains of.
LISTEN = """<script>const told = [];
console.error = console.warn = (...words) => told.push(words.join(" "));
addEventListener("error", (event) => told.push(event.message));
addEventListener("securitypolicyviolation", (event) => told.push(event.violatedDirective));</script>"""
# After it: uses the page, and sends what is seen to the page around it.
PROBE = """<script>addEventListener("load", () => {
const shown = (each) => each.getClientRects().length > 0;
const wide = [...document.querySelectorAll("h1, h2, p, summary, .tile")].filter(
  (each) => shown(each) && !each.closest(".wrap") && each.getBoundingClientRect().right > innerWidth + 1);
for (const each of document.querySelectorAll("details")) each.open = each.querySelector("table") !== null;
const sideways = [...document.querySelectorAll(".wrap")].filter(
  (each) => shown(each) && each.scrollWidth > each.clientWidth + 1);
const layer = [...document.querySelectorAll("td details")].find((each) => each.querySelector("svg"));
const early = layer.querySelector("svg").checkVisibility();
layer.querySelector("summary").click();
const bars = [...layer.querySelectorAll("svg rect")].filter((each) => each.getBoundingClientRect().height > 0);
const drawn = layer.querySelector("svg").getBoundingClientRect();
const table = document.querySelector("table");
const column = [...table.tHead.rows[0].cells].findIndex((each) => each.textContent === "size");
const values = () => [...table.tBodies[0].rows].map((row) => row.cells[column].textContent);
const orders = [1, 2].map(() => { table.tHead.rows[0].cells[column].firstChild.click(); return values(); });
const picture = document.querySelector(".zoomable svg"), before = picture.getBoundingClientRect().width;
document.querySelector(".zoom button").click();
const block = picture.querySelector("rect"), tip = document.getElementById("tip");
block.dispatchEvent(new MouseEvent("click", { bubbles: true }));
const box = tip.getBoundingClientRect();
parent.postMessage({ width: innerWidth, scroll: document.documentElement.scrollWidth, told, orders,
  sideways: sideways.map((each) => each.textContent.slice(0, 200)),
  histogram: [early, bars.length, drawn.left >= 0 && innerWidth >= drawn.right],
  wide: wide.map((each) => each.textContent), zoomed: picture.getBoundingClientRect().width / before,
  tip: tip.textContent, inside: !tip.hidden && box.left >= 0 && innerWidth >= box.right }, "*");
});</script>"""
COLLECT = """<!doctype html><pre></pre><script>const found = [];
addEventListener("message", (event) => { found.push(event.data);
document.querySelector("pre").textContent = JSON.stringify(found); });</script>"""


def whole() -> Report:
    """A report with most sections, and names that would do harm if they were not escaped."""
    made = example()
    layered = with_layers()
    made.source = '<img src=x onerror="console.error(1)">' + "long" * 30 + ".onnx"
    made.score, made.sites, made.layers, made.skipped = SCORE, layered.sites, layered.layers, layered.skipped
    made.runs, made.failures, made.notes = ran().runs, ran().failures, ["/a/very/long/path" * 12]
    made.details = {**layered.details, **ran().details, "front": FRONT}
    layers = [
        {"name": f"layer<{n}>", "op_type": "Conv", "precision": "integer", "sqnr": 20.0 + n, "output": 30.0 - n}
        for n in range(4)
    ]
    bins = {"low": -1.0, "high": 1.0, "real": [1, 5, 2], "integer": [2, 4, 2]}
    made.details["quantization"] = {"layers": layers, "histograms": {"layer<0>": bins}}
    return made


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What the page reports of itself at each width."""
    if CHROMIUM is None:
        pytest.skip("needs chromium")
    folder = tmp_path_factory.mktemp("page")
    page = to_html(whole()).replace('<meta charset="utf-8">', '<meta charset="utf-8">' + LISTEN)
    (folder / "page.html").write_text(page.replace("</html>", PROBE + "</html>"), encoding="utf8")
    frames = "".join(f'<iframe src="page.html" style="border:0;width:{w}px;height:900px"></iframe>' for w in WIDTHS)
    (folder / "frames.html").write_text(COLLECT + frames, encoding="utf8")
    shot = [f"--screenshot={folder / 'widths.png'}"]  # kept with the folder, to be looked at
    command = [CHROMIUM, *FLAGS, f"--user-data-dir={folder / 'profile'}"]
    address = (folder / "frames.html").as_uri()
    ran = subprocess.run(
        [*command, *shot, "--dump-dom", address], capture_output=True, text=True, timeout=60, check=True
    )
    found = re.search(r"<pre>(.*?)</pre>", ran.stdout, re.DOTALL)
    assert found is not None, ran.stderr
    told: list[dict[str, Any]] = json.loads(html.unescape(found[1]))
    assert sorted(each["width"] for each in told) == list(WIDTHS)
    return told


def test_nothing_is_wider_than_the_page_and_nothing_is_complained_of(seen: list[dict[str, Any]]) -> None:
    for each in seen:
        assert each["scroll"] <= each["width"] and each["wide"] == [] and each["told"] == []


def test_no_table_scrolls_sideways_where_the_page_is_narrow(seen: list[dict[str, Any]]) -> None:
    (narrow,) = (each for each in seen if each["width"] == min(WIDTHS))
    assert narrow["sideways"] == []


def test_a_click_on_a_layer_shows_the_histogram_of_its_values(seen: list[dict[str, Any]]) -> None:
    for each in seen:
        assert each["histogram"] == [False, 6, True]


def test_tables_sort_by_value_pictures_zoom_and_points_tell(seen: list[dict[str, Any]]) -> None:
    for each in seen:
        assert each["orders"] == [["2 kB", "4 kB"], ["4 kB", "2 kB"]]
        assert each["zoomed"] == pytest.approx(1.5, abs=0.05)
        assert each["tip"] == "before: a<1> (Conv 8x8): 4 ms" and each["inside"]
