"""Tables that the page's script can sort."""

from __future__ import annotations

import re

import pytest

from lwgraph.report.parts import table, value


@pytest.mark.parametrize(
    ("cell", "number"),
    [
        ("2.79 MB", 2.79e6),
        ("739 kB", 739e3),
        ("12 B", 12.0),
        ("80.5 M", 80.5e6),
        ("1,234,567", 1234567.0),
        ("-0.14 points", -0.14),
        ("3.07x", 3.07),
        ("0.4 %", 0.4),
        ("1.5e-05", 1.5e-5),
        ("2 ms", 2.0),
        ("3 Kinds", 3.0),
        ('<span title="7">5</span>', 5.0),
        ("", None),
        ("unknown", None),
        ("not settled (load 8.1)", None),
    ],
)
def test_a_cell_sorts_by_the_number_that_it_begins_with(cell: str, number: float | None) -> None:
    assert value(cell) == (None if number is None else pytest.approx(number))


def test_columns_say_how_they_sort_and_cells_of_numbers_their_value() -> None:
    page = table([("layer", False), ("size", True)], [["10 a", "2 kB"], ["b", ""]])
    assert re.findall(r'<th[^>]*data-sort="(\w+)" aria-sort="none">(\w+)', page) == [
        ("text", "layer"),
        ("number", "size"),
    ]
    assert '<td>10 a</td><td class="n" data-value="2000.0">2 kB</td>' in page
    assert '<td>b</td><td class="n"></td>' in page


def test_a_column_without_any_value_is_left_out() -> None:
    head = [("layer", False), ("ms", True), ("size", True), ("why", False)]
    page = table(head, [["a", "", "1 B", ""], ["b", "", "", ""]])
    assert ">ms<" not in page and ">why<" not in page and page.count("<th ") == 2 and page.count("<td") == 4
    assert table(head, []).count("<th ") == 4


def test_rows_of_many_columns_are_cards_on_a_narrow_page() -> None:
    """Each cell then says which column it is of; what a title holds is escaped."""
    page = table([("layer", False), ('<small>a</small> "b"', True), ("size", True)], [["x", "1", "2 kB"]])
    assert 'class="wrap cards"' in page and '<td data-name="layer">x</td>' in page
    assert '<td class="n" data-name="a &quot;b&quot;" data-value="1.0">1</td>' in page
