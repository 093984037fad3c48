"""The GitHub Action: what it runs, what it tells GitHub, when it fails."""

from __future__ import annotations

import re
from pathlib import Path

import onnx
import pytest

from lwgraph.adapters import github_action
from tests.cli.conftest import small_model

ACTION = (Path(__file__).parents[2] / "action.yml").read_text("utf8")


@pytest.fixture
def asked(tmp_path, monkeypatch):
    """The environment that the action's step has, in a folder with a model."""
    monkeypatch.chdir(tmp_path)
    onnx.save(small_model(), tmp_path / "model.onnx")
    inputs = {"MODEL": "model.onnx", "OPTIONS": "", "MAX_RATIO": "", "MAX_BYTES": "", "NOT_RESOLVED": "fail"}
    inputs |= {"OUTPUT": "lwgraph.onnx", "REPORT": "report"}
    found = {f"LWGRAPH_{name}": value for name, value in inputs.items()}
    found |= {"GITHUB_OUTPUT": str(tmp_path / "output"), "GITHUB_STEP_SUMMARY": str(tmp_path / "summary")}
    for name, value in found.items():
        monkeypatch.setenv(name, value)
    return found


def test_the_action_gives_what_the_module_reads():
    given = set(re.findall(r"^        (LWGRAPH_\w+):", ACTION, re.MULTILINE))
    source = Path(github_action.__file__).read_text("utf8")
    assert given == set(re.findall(r'"(LWGRAPH_\w+)"', source) + re.findall(r"'(LWGRAPH_\w+)'", source))
    assert "${{" not in "".join(re.findall(r"^      run: .*$", ACTION, re.MULTILINE))  # no input is read by a shell


def test_limits_and_options_are_passed_on(asked):
    line = github_action.command(asked | {"LWGRAPH_MAX_RATIO": "0.5", "LWGRAPH_OPTIONS": "--data 'my images' --seed 3"})
    assert line[line.index("--speedup") + 1] == "2" and line[line.index("--data") + 1] == "my images"
    assert {"--strict", "--json", "--overwrite"} <= set(line)


def test_a_model_that_keeps_everything(asked, tmp_path, capfd, monkeypatch):
    assert github_action.main() == 0
    outputs = dict(line.split("=", 1) for line in (tmp_path / "output").read_text().splitlines())
    assert outputs["verdict"] == "kept" and int(outputs["bytes"]) > 0 and outputs["model"] == "lwgraph.onnx"
    assert "| cleaned |" in (tmp_path / "summary").read_text() and (tmp_path / "report" / "report.html").exists()
    monkeypatch.setenv("LWGRAPH_MAX_BYTES", "1kB")
    capfd.readouterr()
    assert github_action.main() == 1
    assert "::error::" in capfd.readouterr().out


@pytest.mark.parametrize(
    ("document", "choice", "why"),
    [
        ({"error": "no such file", "exit": 1}, "fail", "no such file"),
        ({"verdict": "broken", "outcome": "too slow"}, "pass", "too slow"),
        ({"verdict": "not resolved", "outcome": "too few"}, "fail", "too few"),
        ({"verdict": "not resolved", "outcome": "too few"}, "pass", ""),
        ({"verdict": "kept", "outcome": "done"}, "fail", ""),
    ],
)
def test_when_it_fails(document, choice, why):
    assert github_action.failure(document, {"LWGRAPH_NOT_RESOLVED": choice}) == why
