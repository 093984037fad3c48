"""The plan's format: read back as written, wrong plans told in one line, and the published schema agrees."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lwgraph.errors import UsageError
from lwgraph.plan.plan import Choice, Plan, Precision, Removed, Width

SCHEMA = Path(__file__).parents[2] / "lwgraph" / "schemas" / "plan.schema.json"
FULL = Plan(
    sites={"conv1": Choice("low-rank{rank=32}", 0.0125, (1.5, 0.75)), 'odd "näme"/\n': Choice()},
    target="ort 1.23 threads=1 cpu",
    groups={"conv2": Width(48, 64, 0.01, (2.0, 1.25))},
    blocks={"add3": Removed(0.02, (3.0, 0.0))},
    precision=Precision(("quantize{calibration_method=mse}",), ("conv1",), 0.001, (4.0, 2.0)),
    ms=(10.0, 4.25),
    error=0.04,
)


def schema_says(data: object) -> bool:
    jsonschema = pytest.importorskip("jsonschema")
    return bool(jsonschema.Draft202012Validator(json.loads(SCHEMA.read_text("utf8"))).is_valid(data))


@pytest.mark.parametrize("plan", [Plan(), FULL, Plan({"a": Choice("shift{columns=64}")})])
def test_read_back_as_written_and_valid(plan: Plan) -> None:
    text = plan.to_json()
    assert Plan.from_json(text) == plan
    assert Plan.from_json(text).to_json() == text
    assert schema_says(json.loads(text))


def test_a_line_for_each_choice_and_six_digits() -> None:
    text = Plan({"a": Choice("keep", 1 / 3, (2e3 / 3, 0.1 + 0.2)), "b": Choice()}).to_json()
    lines = text.splitlines()
    assert '    "a": {"form": "keep", "error": 0.333333, "ms": [666.667, 0.3]},' in lines
    assert '    "b": {"form": "keep", "error": 0.0, "ms": [0.0, 0.0]}' in lines


def test_the_least_a_person_must_write() -> None:
    plan = Plan.from_json('{"lwgraph_plan": 2, "sites": {"a": {"form": "low-rank{rank=16}"}}}')
    assert plan == Plan({"a": Choice("low-rank{rank=16}")})


def test_what_is_saved_and_what_is_empty() -> None:
    assert FULL.saved_ms == pytest.approx(0.75 + 0.75 + 3.0 + 2.0)
    assert Plan({"a": Choice("keep", 0.0, (1.0, 1.0))}).empty and not FULL.empty
    for part in ({"groups": FULL.groups}, {"blocks": FULL.blocks}, {"precision": FULL.precision}):
        assert not Plan(**part).empty  # type: ignore[arg-type]  # one part of each kind


def plan_with(**parts: object) -> str:
    return json.dumps({"lwgraph_plan": 2, "sites": {}, **parts})


WRONG = [
    ("{", "not JSON"),
    ("[" * 100_000, "nested too deeply"),
    ("[]", r"the plan is \[\]"),
    ('{"lwgraph_plan": 2}', 'the plan has no "sites"'),
    ('{"sites": {}}', 'no "lwgraph_plan"'),
    (plan_with(lwgraph_plan=1), '"lwgraph_plan" is 1; allowed: 2'),
    (plan_with(lwgraph_plan=True), '"lwgraph_plan" is true'),
    (plan_with(site={}), "did you mean 'sites'"),
    (plan_with(target=3), "target is 3; allowed: text"),
    (plan_with(sites=[]), r"sites is \[\]"),
    (plan_with(sites={"a": 3}), r'sites\["a"\] is 3'),
    (plan_with(sites={"a": {}}), 'no "form"'),
    (plan_with(sites={"a": {"form": 3}}), "form is 3; allowed: text"),
    (plan_with(sites={"a": {"form": "low-rnk{rank=1}"}}), "did you mean 'low-rank'"),
    (plan_with(sites={"a": {"form": "low-rank{rnk=1}"}}), "did you mean 'rank'"),
    (plan_with(sites={"a": {"form": "keep", "mss": 1}}), "did you mean 'ms'"),
    (plan_with(sites={"a": {"form": "keep", "ms": [1]}}), "two numbers"),
    (plan_with(sites={"a": {"form": "keep", "ms": [1, -1]}}), r"ms\[1\] is -1; allowed"),
    (plan_with(sites={"a": {"form": "keep", "error": "0.1"}}), "at least 0"),
    (plan_with(sites={"a": {"form": "keep", "error": True}}), "error is true"),
    ('{"lwgraph_plan": 2, "sites": {"a": {"form": "keep", "error": NaN}}}', "NaN is not a number"),
    ('{"lwgraph_plan": 2, "sites": {"a": {"form": "keep"}, "a": {"form": "keep"}}}', '"a" occurs twice'),
    (plan_with(groups={"g": {"keep": 3, "of": 2}}), "keep is 3; allowed: 1 to 2"),
    (plan_with(groups={"g": {"keep": 0, "of": 2}}), "whole number of at least 1"),
    (plan_with(groups={"g": {"keep": 1.5, "of": 2}}), "whole number"),
    (plan_with(groups={"g": {"keep": 1}}), 'no "of"'),
    (plan_with(blocks={"b": {"remove": False}}), "remove is false; allowed: true"),
    (plan_with(precision={"passes": "quantize"}), "a list of texts"),
    (plan_with(precision={"passes": ["quantise"]}), "did you mean 'quantize'"),
    (plan_with(precision={"passes": [2]}), r"passes\[0\] is 2"),
    (plan_with(precision={"keep_floats": []}), "did you mean 'keep_float'"),
    (plan_with(precision={"dynamic": "head"}), 'precision.dynamic is "head"'),
    (plan_with(predicted={"ms": [1, 2, 3]}), "predicted.ms"),
]
BEYOND_A_SCHEMA = ("not JSON", "nested", "twice", "NaN", "1 to 2", "'low-rank'", "'rank'", "'quantize'")


@pytest.mark.parametrize(("text", "message"), WRONG)
def test_a_wrong_plan_is_told_in_one_line(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        Plan.from_json(text)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300


@pytest.mark.parametrize("text", [t for t, m in WRONG if not any(word in m for word in BEYOND_A_SCHEMA)])
def test_the_schema_refuses_it_too(text: str) -> None:
    assert not schema_says(json.loads(text))


def test_a_file_that_is_wrong_is_named(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    with pytest.raises(UsageError, match=r"plan\.json' cannot be read"):
        Plan.load(path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="cannot be read"):
        Plan.load(path)
    path.write_text("[]")
    with pytest.raises(UsageError, match=r"plan\.json': the plan is \[\]"):
        Plan.load(path)
