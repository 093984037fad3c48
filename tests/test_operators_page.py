"""What an operator must be taught: the page names places that exist, and the lists agree."""

import re
from pathlib import Path

import pytest

from lwgraph import ir
from lwgraph.layers.site import KINDS

ROOT = Path(__file__).resolve().parents[1]
ROWS = [
    re.findall(r"`([^`]+)`", line.split("|")[2])
    for line in (ROOT / "docs" / "operators.md").read_text("utf8").splitlines()
    if line.startswith("|") and "`" in line
]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[-1])
def test_the_page_names_places_that_exist(row):
    *names, place = row
    path = ROOT / place
    assert path.is_dir() if place.endswith("/") else path.is_file()
    text = "\n".join(p.read_text("utf8") for p in (path.glob("*.py") if path.is_dir() else [path]))
    for name in names:
        wanted = rf"^{re.escape(name)}\(" if name.startswith("@") else rf"^(?:(?:def|class) )?{re.escape(name)}\b"
        assert re.search(wanted, text, re.MULTILINE), name


def test_every_operator_that_multiplies_by_a_matrix_is_a_kind_of_layer():
    assert set(KINDS) == ir.LINEAR
