"""The commands and listings of the documentation: each parses, cheap ones run and say what is printed below."""

from __future__ import annotations

import ast
import importlib.util
import inspect
import json
import re
import shlex
import sys
import textwrap
from collections.abc import Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnx
import pytest

import lwgraph
from lwgraph.calibrate import Preprocess
from lwgraph.cli import COMMANDS, cli
from lwgraph.errors import UsageError
from lwgraph.optimizer import Request, setting
from lwgraph.plan.plan import Plan
from lwgraph.rewrite import Pipeline
from tests.cli.conftest import lw, small_model  # noqa: F401

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
STATED = ("preset", "objective", "output_kind", "budget", "memory", "max_bytes", "max_macs")
ENDS = {"&&", "||", "|", ";", ">", "2>"}
FENCE = re.compile(r"^( *)```([\w-]*)[^\n]*\n(.*?)^\1```", re.MULTILINE | re.DOTALL)


def listings(text: str, *languages: str) -> list[str]:
    """What stands in fences of one of these languages."""
    return [textwrap.dedent(body) for _, language, body in FENCE.findall(text) if language in languages]


def commands(text: str) -> Iterator[list[str]]:
    """The words of each command line of a page: in listings of a shell, indented, and in code within a line."""
    lines = []
    for body in listings(text, "sh", "bash", "console"):
        if "\nlwgraph: error" in body:  # wrong on purpose, and run below
            continue
        lines += [line.removeprefix("$ ") for line in body.replace("\\\n", " ").splitlines()]
    prose = FENCE.sub("", text)
    lines += [line.strip() for line in re.findall(r"^    (?:lwgraph|python -m) .+$", prose, re.MULTILINE)]
    lines += [" ".join(code.split()) for code in re.findall(r"`((?:lwgraph|make|python -m) [^`]+)`", prose)]
    for line in lines:
        if " #" not in line and line.count("'") % 2:  # prose with an apostrophe, printed below a command
            continue
        # Columns apart by three spaces are a command and what it does.
        words = shlex.split(re.split(r"\s{3,}", line.strip())[0], comments=True)
        words = [word.removeprefix("[").removesuffix("]") if word.strip("[]") else word for word in words]
        while words:
            end = next((k for k, word in enumerate(words) if word in ENDS), len(words))
            if words[:end]:
                yield words[:end]
            words = words[end + 1 :]


def wrong(words: list[str]) -> str:
    """What is wrong with one command line, "" where nothing is or where it is none of ours."""
    while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):
        words = words[1:]
    if not words:
        return ""
    name, *rest = words
    if name == "make":
        targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text("utf8"), re.MULTILINE))
        named = [word for word in rest if "=" not in word]
        return "" if set(named) <= targets else f"no target {named}"
    if Path(name).name.startswith("python") and rest[:1] == ["-m"] and rest[1].startswith("benchmarks"):
        return wrong_benchmark(rest[1], rest[2:])
    if Path(name).name != "lwgraph" or not rest:
        return ""
    return wrong_call(rest)


def wrong_benchmark(module: str, rest: list[str]) -> str:
    if importlib.util.find_spec(module) is None:
        return f"no module {module}"
    if module != "benchmarks" or not rest or rest[0].isupper():
        return ""
    known = re.findall(r'@main\.command\(\s*"([\w-]+)"', (ROOT / "benchmarks/__main__.py").read_text("utf8"))
    known += re.findall(r"@main\.command\(\)(?:\n@.*)*\ndef (\w+)", (ROOT / "benchmarks/__main__.py").read_text("utf8"))
    return "" if rest[0] in known else f"python -m benchmarks has no command '{rest[0]}' of {known}"


def wrong_call(words: list[str]) -> str:
    """Options, their kinds of value and the number of arguments; files and folders need not exist."""
    if words[0].isupper() or words[0].startswith("-"):
        return ""
    if words[0] not in COMMANDS:
        return f"no command '{words[0]}'"
    command: Any = cli.get_command(click.Context(cli), words[0])
    words = words[1:]
    context = click.Context(command, info_name="lwgraph")
    while isinstance(command, click.Group) and words:
        if "|" in words[0]:
            return ""
        command = command.get_command(context, words[0])
        if command is None:
            return f"no command '{words[0]}'"
        context, words = click.Context(command, info_name="lwgraph"), words[1:]
    try:
        values, extra, _ = command.make_parser(context).parse_args([word for word in words if word != "..."])
        for parameter in command.params:
            value = values.get(parameter.name)
            if isinstance(parameter.type, click.Choice) and isinstance(value, str) and not value.isupper():
                parameter.type.convert(value, parameter, context)
        if "objective" in {p.name for p in command.params}:
            stated = {name: values[name] for name in STATED if name in values}
            Request(**{name: value for name, value in stated.items() if not value.isupper()})
        preprocess, pipeline = values.get("preprocess"), values.get("pipeline")
        if isinstance(preprocess, str) and "=" in preprocess:
            Preprocess.parse(preprocess)
        if isinstance(pipeline, str) and not pipeline.isupper() and not re.search(r"[\w.]:\w|merge-muls", pipeline):
            Pipeline.parse(pipeline)
    except (click.UsageError, UsageError) as error:
        return str(error)
    return f"too many arguments: {extra}" if extra else ""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_command_lines_parse(page):
    told = [(shlex.join(words), wrong(words)) for words in commands(page.read_text("utf8"))]
    assert [each for each in told if each[1]] == []


def test_wrong_command_lines_are_found():
    text = (
        "```sh\nlwgraph optimise a\nlwgraph bench a --sekonds 3   # x\nlwgraph verify a b c\nmake nothing\n"
        "lwgraph optimize a --preprocess 'mean=1;2' && lwgraph optimize a -p 'fuse-pda'\n"
        "python -m benchmarks nothing\n```\n`lwgraph optimize a --objective time`\n\n    python -m benchmarks.nowhere\n"
    )
    assert [words for words in commands(text) if not wrong(words)] == [] and len(list(commands(text))) == 9


@cache
def known_callable(name: str) -> Any:
    found: Any = lwgraph
    for part in name.split(".")[1:]:
        found = getattr(found, part, None)
    return found if callable(found) else None


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_python_parses_and_calls_with_arguments_that_exist(page):
    """That imported names exist is in test_docs.py."""
    for body in listings(page.read_text("utf8"), "python"):
        for node in ast.walk(ast.parse(body)):
            found = known_callable(ast.unparse(node.func)) if isinstance(node, ast.Call) else None
            if found is not None and ast.unparse(node.func).startswith("lwgraph."):
                accepted = inspect.signature(found).parameters
                assert {key.arg for key in node.keywords} <= set(accepted), ast.unparse(node)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_files_that_are_shown_can_be_read(page):
    text = page.read_text("utf8")
    for body in listings(text, "json"):
        shown = json.loads(body)
        if "lwgraph_plan" in shown:
            assert Plan.from_json(body).sites or Plan.from_json(body).groups
    for body in listings(text, "toml"):
        if "[[passes]]" in body:
            with_form = body.replace("my_forms.py:Thin", "fire").replace("keep = 16\n", "")
            assert Pipeline.from_recipe(with_form).to_recipe()
        else:
            assert tomllib.loads(body)
    inputs = re.findall(r"^  ([\w-]+):$", (ROOT / "action.yml").read_text("utf8").split("\noutputs:")[0], re.MULTILINE)
    for body in listings(text, "yaml"):
        assert set(re.findall(r"^    ([\w-]+):", body, re.MULTILINE)) <= set(inputs)


@pytest.fixture
def folder(tmp_path, monkeypatch, no_trials, cache):
    """What the pages take for granted: a model, data, and a file that is no model."""
    monkeypatch.chdir(tmp_path)
    # Nothing here kills a runtime: no worker process has to start for that, which takes most of the time.
    monkeypatch.setattr(setting, "FirstRuns", lambda executor, *_, **__: executor)
    rng = np.random.default_rng(0)
    onnx.save(small_model(), "model.onnx")
    bright = rng.standard_normal((48, 3, 1, 1)) * 3  # so that there are several classes
    np.savez("calib.npz", x=(bright + rng.standard_normal((48, 3, 16, 16))).astype(np.float32))
    Path("notes.txt").write_text("no model")


SHOWN = [
    (page.name, *shown)
    for page in PAGES
    for body in listings(page.read_text("utf8"), "console")
    for shown in re.findall(r"^\$ lwgraph (.+)\n((?:[^$].*\n)+)", body, re.MULTILINE)
]


def test_commands_say_what_is_printed_below_them(folder, lw):  # noqa: F811
    assert len(SHOWN) >= 14

    for page, line, printed in SHOWN:
        ended = lw(*shlex.split(line))
        told = ended.err if printed.startswith("lwgraph: error") else ended.out
        lines = [line.rstrip() for line in told.splitlines() if not re.match(r"\d+ of \d+, ", line)]
        assert "\n".join(lines).rstrip() == printed.rstrip(), f"{page}: lwgraph {line}"


RUN = ["README.md", "docs/start.md", "docs/howto/classifier.md", "docs/howto/detector.md"]


@pytest.mark.parametrize("page", RUN)
def test_python_of_the_first_pages_runs(page, folder, monkeypatch):
    # Everything but the search, which takes seconds and which other tests run.
    monkeypatch.setattr(lwgraph, "optimize", partial(lwgraph.optimize, preset="lossless"))
    for body in listings((ROOT / page).read_text("utf8"), "python"):
        name = "snippet_of_a_page"
        module = sys.modules[name] = importlib.util.module_from_spec(importlib.util.spec_from_loader(name, None))
        try:
            exec(compile(body, page, "exec"), module.__dict__)
        finally:
            del sys.modules[name]


@pytest.mark.filterwarnings("ignore")  # of the exporter
def test_python_of_the_page_for_pytorch_runs(tmp_path, monkeypatch):
    torch = pytest.importorskip("torch")
    pytest.importorskip("onnxscript", reason="torch.onnx.export needs it")
    monkeypatch.chdir(tmp_path)
    exported, export = [], torch.onnx.export  # which takes seconds, so it is done once
    monkeypatch.setattr(torch.onnx, "export", lambda *a, **b: exported.append(export(*a, **b)) or exported[0])
    found: dict[str, Any] = {}
    for body in listings((DOCS / "howto/pytorch.md").read_text("utf8"), "python"):
        exec(compile(body, "pytorch.md", "exec"), found)
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.LazyLinear(5))
    x = torch.randn(16, 3, 8, 8)
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, network(x).argmax(1)), batch_size=4)
    with monkeypatch.context() as quick:
        quick.setattr(lwgraph, "optimize", partial(lwgraph.optimize, preset="lossless"))
        result = found["smaller"](network, loader, x[:4])
    (name,) = (each.name for each in result.session().get_inputs())
    truth = network(x[:4]).detach().numpy()
    np.testing.assert_allclose(result.session().run(None, {name: x[:4].numpy()})[0], truth, rtol=1e-4, atol=1e-5)
    assert (tmp_path / "model.lw.onnx").exists() and result.report.score.name == "top1"
    Path("report").mkdir()
    Path("report/plan.json").write_text(result.plan.to_json(), encoding="utf8")
    assert found["again"](exported[0], loader).kept


def hooks() -> Any:
    spec = importlib.util.spec_from_file_location("docs_hooks", DOCS / "hooks.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_generated_references_have_every_pass_form_and_command():
    pages = {uri: page() for uri, page in hooks().GENERATED.items()}
    for kind in ("passes", "forms"):
        text = pages[f"reference/{kind}.md"]
        assert set(hooks().built_in(kind)) == set(re.findall(r"^## (.+)$", text, re.MULTILINE)) and "| option |" in text
    assert "| rank | an integer | 0 |" in pages["reference/forms.md"]
    told = re.findall(r"^## lwgraph ([\w ]+)$", pages["reference/commands.md"], re.MULTILINE)
    assert set(COMMANDS) <= set(told) and "plan pick" in told


def test_the_python_reference_has_every_public_package():
    text = "".join((DOCS / "reference" / name).read_text("utf8") for name in ("python.md", "plugins.md"))
    faces = re.findall(r"^== (\S+)$", (ROOT / "tests/public_face.txt").read_text("utf8"), re.MULTILINE)
    assert sorted(re.findall(r"^::: (\S+)$", text, re.MULTILINE)) == sorted(faces)


def test_the_site_has_every_page():
    site = (ROOT / "mkdocs.yml").read_text("utf8")
    named = set(re.findall(r"(?:- |: )([\w/-]+\.md)$", site, re.MULTILINE))
    pages = {path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")}
    pages |= {path.relative_to(ROOT).as_posix() for path in (ROOT / "benchmarks").glob("*.md")}
    assert named == pages | set(hooks().GENERATED)


def test_links_lead_to_where_the_site_has_it():
    within = hooks().within_site
    assert within("[a](../benchmarks/A.md) [b](b.md)", "run.md") == "[a](benchmarks/A.md) [b](b.md)"
    assert within("[a](../../examples/a/b.py)", "howto/ci.md") == "[a](../examples/a/b.py)"
    assert within("[a](../docs/run.md#x)", "benchmarks/RUN.md") == "[a](../run.md#x)"


def test_the_site_builds(tmp_path, monkeypatch):
    """`mkdocs build --strict` checks links and anchors; with `--quiet` it counts no warning."""
    pytest.importorskip("mkdocs")
    pytest.importorskip("mkdocstrings")
    pytest.importorskip("material")
    import subprocess

    monkeypatch.setenv("NO_MKDOCS_2_WARNING", "1")
    line = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "site" / "reference" / "passes.html").exists()


def test_docstrings_are_shown_as_they_are_written():
    told = hooks().markdown("W <- a*b*c | `x_1 < 2`\n\n    y = a * b")
    assert told == "W &lt;- a\\*b\\*c \\| `x_1 < 2`\n\n    y = a * b"
