"""Errors and notes of the Python API speak of arguments; those of the command line, of options."""

import re
from pathlib import Path

import pytest

import lwgraph
from lwgraph.errors import UsageError
from lwgraph.optimizer.request import Request, options, spelled
from lwgraph.optimizer.spoken import as_arguments
from tests.optimizer.tiny import tiny


@pytest.mark.parametrize(
    ("text", "spoken"),
    [
        ("--max-drop is -1.0; allowed: a number", "max_drop is -1.0; allowed: a number"),
        ("needs samples; give --data or --eval-data", "needs samples; give data= or eval_data="),
        ("--preset lossless rules it out", "preset='lossless' rules it out"),
        ("--speedup 1.5 was not reached", "speedup=1.5 was not reached"),
        ("--metric 'm:f' needs samples", "metric='m:f' needs samples"),
        ("e.g. --preprocess scale=1/255", "e.g. preprocess='scale=1/255'"),
        ("or its sizes: --input-shape x:1,3", "or its sizes: input_shapes={'x': (1,3)}"),
        ("--distill needs inputs to learn from", "distill=True needs inputs to learn from"),
        ("give more with --memory, or fewer --data", "give more with memory=, or fewer data="),
        ("without --data, an approximation may", "without data=, an approximation may"),
        ("fill it in, then: lwgraph verify A B --max-drop 1", "fill it in, then: lwgraph verify A B --max-drop 1"),
        ("--explain names each", "--explain names each"),
    ],
)
def test_options_become_arguments_and_command_lines_stay(text, spoken):
    assert as_arguments(text) == spoken


@pytest.mark.parametrize("name", [f.name for f, _, _ in options()])
def test_every_argument_is_known_by_its_option(name):
    assert as_arguments(f"give {spelled(name)}").startswith(f"give {name}=")


@pytest.mark.parametrize(
    "asked",
    [
        {"max_drop": -1.0},
        {"max_drop": 0.01},
        {"budget": "soon"},
        {"preset": "fats"},
        {"metric": "top1"},
        {"recipe": "no.toml"},
        {"target": "nowhere"},
        {"unproven": True, "data": "x"},
        {"workers": 0},
        {"output_kind": "things"},
        {"data": "nowhere/"},
    ],
)
def test_what_the_python_api_raises_names_no_option(asked):
    with pytest.raises(lwgraph.LwgraphError) as raised:
        lwgraph.optimize(tiny(), **asked)
    assert not re.search(r"(?<!measure )--[a-z]", str(raised.value)) and any(
        name in str(raised.value) for name in asked
    )
    with pytest.raises(UsageError, match="--budget"):  # of which the command line speaks
        Request(budget="soon")


def test_notes_speak_of_arguments_too(tmp_path: Path):
    notes = " ".join(lwgraph.optimize(tiny()).report.notes)
    assert "data=" in notes and "--data" not in notes
