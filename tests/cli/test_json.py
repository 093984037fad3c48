"""--json: one document in every case, as its schema says, errors too; --quiet: nothing at all."""

from __future__ import annotations

import dataclasses
import json
import typing
from collections.abc import Callable
from pathlib import Path

import jsonschema
import onnx
import pytest

from lwgraph.cli import COMMANDS
from lwgraph.optimizer.front import FrontRow
from lwgraph.report import record
from lwgraph.schemas import NAMES, schema

from .conftest import Ended, small_model
from .documents import check

Call = Callable[..., Ended]
PLAN = '{"lwgraph_plan": 2, "sites": {"conv2": {"form": "low-rank{rank=%d}"}}}'

# What is called, with files of `folder`, and the schema of what is printed.
CALLS = {
    "optimize": ("optimize", "a.onnx", "-o", "out.onnx"),
    "inspect": ("inspect", "a.onnx"),
    "inspect, all": ("inspect", "a.onnx", "--groups", "--sensitivity", "--data", "samples.npz", "--samples", "4"),
    "verify": ("verify", "a.onnx", "b.onnx"),
    "bench": ("bench", "a.onnx", "b.onnx", "--runs", "2"),
    "diff": ("diff", "a.onnx", "b.onnx"),
    "passes": ("passes",),
    "passes, one": ("passes", "low-rank"),
    "measure, list": ("measure",),
    "measure, export": ("measure", "a.onnx", "--export", "kit"),
    "plan-show": ("plan", "show", "p.json"),
    "plan-diff": ("plan", "diff", "p.json", "q.json"),
    "bisect": ("bisect", "a.onnx", "-p", "dead-code"),
    "docs": ("docs",),
    "docs, one": ("docs", "docs/promises.md"),
    "error, docs": ("docs", "promise"),
    "error, no model": ("optimize", "nothing.onnx"),
    "error, option": ("optimize", "a.onnx", "--max-drop", "-1"),
    "error, no such option": ("verify", "a.onnx", "--bath"),
    "error, no argument": ("bench",),
    "error, no command": ("optimise", "a.onnx"),
    "error, plan": ("plan", "show", "nothing.json"),
    "error, no front": ("plan", "pick", "1", "b.onnx"),
    "error, measure": ("measure", "--export", "kit"),
    "error, passes": ("passes", "low-rang"),
    "error, bisect": ("bisect", "a.onnx", "-p", "no-such-pass"),
    "error, inspect": ("inspect", "samples.npz"),
    "error, diff": ("diff", "a.onnx", "nothing.onnx"),
    "error, demo": ("demo", "--preset", "fats"),
}


@pytest.fixture
def folder(tmp_path: Path, samples: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in "ab":
        onnx.save(small_model(seed=ord(name)), tmp_path / f"{name}.onnx")
    for name, rank in (("p", 8), ("q", 16)):
        (tmp_path / f"{name}.json").write_text(PLAN % rank)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_schemas_are_schemas() -> None:
    for name in NAMES:
        jsonschema.Draft202012Validator.check_schema(schema(name))
    with pytest.raises(KeyError):
        schema("report")


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("case", CALLS)
def test_one_document_and_nothing_else(lw: Call, case: str) -> None:
    ended = lw(*CALLS[case], "--json")
    document = json.loads(ended.out)
    check(document, case.partition(",")[0])
    if "error" in case:
        assert ended.code == document["exit"] > 0
        assert " ".join(document["error"].split()) in " ".join(ended.err.split())
    else:
        assert ended.err == ""


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("case", [case for case in CALLS if "error" not in case])
def test_quiet_prints_nothing(lw: Call, case: str) -> None:
    ended = lw(*CALLS[case], "--quiet")
    assert ended.out == ended.err == ""
    assert ended.code == (1 if case in ("verify", "diff", "plan-diff") else 0)


def test_every_command_is_tried() -> None:
    assert {call[0] for call in CALLS.values()} - {"optimise"} == set(COMMANDS)


def test_a_promise_that_is_broken_has_its_verdict_in_the_document(lw: Call, folder: Path) -> None:
    ended = lw("optimize", "a.onnx", "--max-bytes", "10", "--json")
    document = json.loads(ended.out)
    check(document, "optimize")
    assert (document["verdict"], document["exit"], ended.code) == ("broken", 1, 1)
    assert document["output"] == "a.lw.onnx" and (folder / "a.lw.onnx").exists()
    assert "max-bytes" in document["outcome"]


def test_a_plan_that_is_picked(lw: Call, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    row = FrontRow(1, 0.01, None, 1000, True)
    monkeypatch.setattr("lwgraph.optimizer.front.pick", lambda source, *_: (row, source))
    ended = lw("plan", "pick", 1, "a.onnx", "-o", "picked.onnx", "--json")
    check(json.loads(ended.out), "plan-pick")
    assert (folder / "picked.onnx").exists()
    assert lw("plan", "pick", 1, "a.onnx", "-o", "again.onnx", "--quiet").out == ""


def test_the_schema_has_every_field_of_the_report() -> None:
    definitions = schema("output")["$defs"]
    for kind in vars(record).values():
        if isinstance(kind, type) and dataclasses.is_dataclass(kind):
            stated = definitions["optimize" if kind is record.Report else kind.__name__]
            fields = {f.name for f in dataclasses.fields(kind)}
            more = {"output", "verdict", "exit", "schema"} if kind is record.Report else set()
            assert set(stated["properties"]) - {"family"} == set(stated["required"]) == fields | more, (
                f"write the fields of {kind.__name__} into lwgraph/schemas/output.schema.json"
            )
            assert typing.get_type_hints(kind)


def test_numbers_that_are_not_finite_are_null(capsys: pytest.CaptureFixture[str]) -> None:
    from lwgraph.cli.common import print_json

    print_json({"a": [float("inf"), float("nan"), 1.0]})
    assert json.loads(capsys.readouterr().out, parse_constant=pytest.fail) == {"a": [None, None, 1.0]}
