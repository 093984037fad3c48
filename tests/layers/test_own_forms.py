"""Forms and passes of a user's own, in a file or a module; pipelines in recipes."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from lwgraph.errors import UsageError
from lwgraph.layers import Form, parse_form
from lwgraph.objects import load_object
from lwgraph.rewrite import Context, Pass, Pipeline
from lwgraph.testing import check_form
from lwgraph.testing.layers import layers
from tests.layers.chain import chain

ROOT = Path(__file__).parents[2]
FILE = ROOT / "examples" / "pair-form" / "pair.py"


@pytest.fixture(params=["file", "module"])
def spelled(request, tmp_path, monkeypatch):
    """The form's spelling, in the current folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_own_pair.py").write_text(FILE.read_text("utf8"))
    monkeypatch.syspath_prepend(tmp_path)
    name = "my_own_pair.py" if request.param == "file" else "my_own_pair"
    yield f"{name}:Pair"
    sys.modules.pop(name, None)


def test_a_form_of_ones_own_is_a_pass(spelled):
    pipeline = Pipeline.parse(f"clean,{spelled}{{rank=4}}")
    assert str(pipeline.passes[-1]) == f"{spelled}{{rank=4}}"
    assert Pipeline.parse(str(pipeline)) == pipeline == Pipeline.from_recipe(pipeline.to_recipe())
    model = chain()
    count = pipeline.passes[-1].run(model, Context())
    assert count > 0 and isinstance(parse_form(f"{spelled}{{rank=4}}"), Form)


def test_the_form_of_the_documentation_is_whole_and_keeps_its_promises():
    form = load_object(f"{FILE}:Pair", "form")
    assert check_form(form, on=list(layers())[:6]) > 2
    text = FILE.read_text("utf8")
    assert text[text.index("from dataclasses") :] in (ROOT / "docs" / "forms.md").read_text("utf8")


def test_what_is_neither_form_nor_pass_is_refused(tmp_path):
    (tmp_path / "things.py").write_text("class Thing: pass\nnumber = 3\n")
    for name in ("Thing", "number"):
        with pytest.raises(UsageError, match="is not a pass; allowed: a class derived from"):
            Pass.parse(f"{tmp_path}/things.py:{name}")
    with pytest.raises(UsageError, match="is not a form"):
        parse_form(f"{tmp_path}/things.py:Thing")


def test_a_file_is_run_once_and_anew_where_it_is_another(tmp_path, monkeypatch):
    for folder, value in (("a", 1), ("b", 2)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "mine.py").write_text(f"import dataclasses\nclass C: value = {value}\n")
        monkeypatch.chdir(tmp_path / folder)
        found = load_object("mine.py:C", "thing")
        assert found.value == value and load_object("mine.py:C", "thing") is found
    sys.modules.pop("mine.py")


def test_recipes_may_name_pipelines():
    text = '[[passes]]\nname = "clean"\n\n[[passes]]\nname = "low-rank"\nratio = 0.25\n'
    assert Pipeline.from_recipe(text) == Pipeline.parse("clean,low-rank{ratio=0.25}")
    with pytest.raises(UsageError, match=r"'clean' stands for several passes and has no option 'ratio'; name the pass"):
        Pipeline.from_recipe('[[passes]]\nname = "clean"\nratio = 1\n')
    with pytest.raises(UsageError, match="no pass is named 'cleen'"):
        Pipeline.from_recipe('[[passes]]\nname = "cleen"\n')
