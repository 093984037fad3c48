"""The help of optimize: in groups, each option in one, the three that a beginner needs first."""

from __future__ import annotations

import click

from lwgraph.cli.groups import FIRST, GROUPS
from lwgraph.cli.optimize import command


def test_each_option_is_in_one_group() -> None:
    listed = [name for names in GROUPS.values() for name in names]
    options = {str(param.name) for param in command.params if isinstance(param, click.Option)}
    assert sorted(listed) == sorted(options | {"help"})
    assert len(GROUPS[FIRST]) == 3


def test_the_help_shows_the_groups_in_order() -> None:
    text = command.get_help(click.Context(command, info_name="optimize", max_content_width=110))
    places = [text.index(f"\n{title}:\n") for title in GROUPS]
    assert places == sorted(places) and "\nOther:\n" not in text and "\nOptions:\n" not in text
    assert places[0] < text.index("--data D") < text.index("--max-drop X") < text.index("--budget T") < places[1]
    assert text.count("--eval-data D") == 1
