"""What failed costs one line, with what reproduces it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lwgraph import ir
from lwgraph.errors import DataError
from lwgraph.failures import FOLDER, Failures, say
from tests.layers.chain import chain


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of the failures."""
    monkeypatch.setenv("LWGRAPH_CACHE", str(tmp_path))
    return tmp_path / FOLDER


def fail(failures: Failures, error: BaseException, step: str = "forms") -> None:
    """Let a step end with an error."""
    with failures.guard(step):
        raise error


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (DataError("no\n samples"), "no samples"),
        (ZeroDivisionError("by\nzero"), "ZeroDivisionError: by zero"),
        (ZeroDivisionError(), "ZeroDivisionError"),
        (MemoryError(), "out of memory; give more with --memory, or fewer --data"),
        (MemoryError("32 GiB"), "out of memory: 32 GiB; give more with --memory, or fewer --data"),
        (UserWarning("odd"), "UserWarning: odd"),
        (SystemExit(3), "SystemExit: 3"),
    ],
)
def test_an_error_of_any_kind_is_one_line(folder: Path, error: BaseException, reason: str) -> None:
    failures = Failures()
    fail(failures, error)
    (row,) = failures.rows
    assert row.step == "forms" and row.reason == say(error) == reason
    assert str(row) == f"forms: {reason}; to reproduce: {row.reproducer}"
    assert Path(row.reproducer).parent == folder


@pytest.mark.parametrize("error", [KeyboardInterrupt()])
def test_what_is_no_error_goes_on(folder: Path, error: BaseException) -> None:
    failures = Failures()
    with pytest.raises(type(error)):
        fail(failures, error)
    assert not failures.rows and not folder.exists()


def test_the_same_failure_is_told_once(folder: Path) -> None:
    failures = Failures()
    for step, words in (("a", "x"), ("a", "x"), ("b", "x"), ("a", "y")):
        fail(failures, ValueError(words), step)
    assert [(row.step, row.reason) for row in failures.rows] == [
        ("a", "ValueError: x"),
        ("b", "ValueError: x"),
        ("a", "ValueError: y"),
    ]
    assert len(list(folder.iterdir())) == 3


def test_a_strict_run_ends_with_the_error_that_it_is(folder: Path) -> None:
    failures, error = Failures(strict=True), ZeroDivisionError("no")
    with pytest.raises(ZeroDivisionError) as raised:
        fail(failures, error)
    assert raised.value is error and not failures.rows and not folder.exists()


def test_the_reproducer_has_the_model_the_options_and_the_traceback(folder: Path) -> None:
    model = chain()
    failures = Failures({"data": Path("d.npz"), "seed": 3}, model)
    fail(failures, ValueError("odd"))
    (made,) = folder.iterdir()
    assert str(made) == failures.rows[0].reproducer
    assert {path.name for path in made.iterdir()} == {"model.onnx", "options.json", "traceback.txt"}
    assert json.loads((made / "options.json").read_text()) == {"data": "d.npz", "seed": 3}
    told = (made / "traceback.txt").read_text()
    assert told.startswith("forms\n") and "ValueError: odd" in told and "in fail" in told
    assert ir.fingerprint(ir.load(made / "model.onnx")) == ir.fingerprint(model)


def test_a_large_model_is_not_written(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lwgraph.failures.MOST_BYTES", 100)
    fail(Failures(model=chain()), ValueError("odd"))
    (made,) = folder.iterdir()
    assert {path.name for path in made.iterdir()} == {"options.json", "traceback.txt"}


def test_where_nothing_can_be_written_the_failure_is_told_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LWGRAPH_CACHE", str(tmp_path / "file"))
    failures = Failures(model=chain())
    fail(failures, ValueError("odd"))
    assert str(failures.rows[0]) == "forms: ValueError: odd"
