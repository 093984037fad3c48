"""Roles: what plays them, what does not, and a third party's quantizer in place of ours."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from importlib.metadata import EntryPoint
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest

import lwgraph
from lwgraph import ir, registry
from lwgraph.errors import CheckError, UsageError
from lwgraph.executor import (
    AsWritten,
    InCallingThread,
    Profiles,
    ShowsGraph,
    Untimed,
    as_written,
    in_calling_thread,
    offered,
    settings,
    untimed,
)
from lwgraph.layers.form import searched_forms
from lwgraph.passes.quantize.role import PlanQuantizer
from lwgraph.plan import precision
from lwgraph.plan.carry_out import carry_out
from lwgraph.plan.plan import Plan, Precision, Removed
from lwgraph.plan.roles import BLOCKS, GROUPS, QUANTIZES, SHAPES, TRAINS, Mix, Quantizes, Removal, Survey
from lwgraph.rewrite import Context, Contract, Pass
from lwgraph.testing import check_role
from lwgraph.testing.roles import example_network

Install = Callable[[str, str], None]
OTHER = """
from dataclasses import dataclass, replace
from typing import ClassVar

from lwgraph.passes.quantize.quantize import Quantize
from lwgraph.plan.roles import Survey

ASKED = []


@dataclass(frozen=True)
class Eight(Quantize):
    \"\"\"Integers of another house.\"\"\"

    name: ClassVar[str] = "eight"
    keep: str = "none"
    rounding: str = "nearest"


class Other:
    ranges = ("minmax",)

    def judged(self):
        ASKED.append("judged")
        return Eight()

    def exactly(self, ranges="", even=None):
        ASKED.append("exactly")
        return Eight(calibration_method="minmax")

    def quick(self, ranges=""):
        ASKED.append("quick")
        return Eight(calibration_method="minmax", equalize=False)

    def blank(self):
        return self.quick()

    def survey(self, model, context):
        ASKED.append("survey")
        return Survey()
"""


def _forget() -> None:
    registry._points.cache_clear()
    registry._all_points.cache_clear()


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Puts a distribution with one role on the path, as pip would, without running pip."""

    def put(distribution: str, line: str) -> None:
        info = tmp_path / f"{distribution}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[lwgraph.roles]\n{line}\n")
        _forget()

    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "other_quantizer.py").write_text(OTHER)
    yield put
    sys.modules.pop("other_quantizer", None)
    _forget()


def test_a_third_partys_quantizer_stands_in_for_ours(install: Install) -> None:
    assert isinstance(registry.role(QUANTIZES, Quantizes), PlanQuantizer)
    install("other", "quantizes = other_quantizer:Other")
    assert precision.spelling() == "other_quantizer:Eight{calibration_method=minmax}"
    network = example_network()
    x = np.random.default_rng(2).standard_normal((64, 3, 8, 8)).astype(np.float32)
    found = lwgraph.optimize(ir.to_proto(network), data={"x": x}, max_bytes=0.3 * ir.size(network), budget="120s")
    asked = sys.modules["other_quantizer"].ASKED
    assert {"exactly", "quick", "survey", "judged"} <= set(asked)
    assert found.plan is not None
    assert [text.split("{")[0] for text in found.plan.precision.passes][-1] == "other_quantizer:Eight"  # of codes, too
    assert any(node.op_type == "QuantizeLinear" for node in found.model.graph)


def test_two_others_are_refused_and_both_named(install: Install) -> None:
    install("other", "quantizes = other_quantizer:Other")
    install("another", "quantizes = other_quantizer:Eight")
    with pytest.raises(UsageError, match=r"both .*:Eight \(of another\) and .*:Other \(of other\)"):
        registry.role(QUANTIZES, Quantizes)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("quantizes = other_quantizer:Survey", r"is no Quantizes: it lacks ranges, judged, exactly, quick, blank"),
        ("quantizes = other_quantizer:Absent", r"'quantizes' \(other_quantizer:Absent\) cannot be loaded"),
    ],
)
def test_what_does_not_fit_the_role_is_refused(install: Install, line: str, message: str) -> None:
    install("other", line)
    with pytest.raises(UsageError, match=message):
        registry.role(QUANTIZES, Quantizes)


def test_a_plugin_of_the_wrong_kind_is_refused() -> None:
    with pytest.raises(UsageError, match=r"plugin 'low-rank' \(lwgraph.passes.forms.low_rank:LowRank\).* is no Pass"):
        registry.load("forms", "low-rank", Pass)


def test_without_a_role_there_are_floats_only_and_what_needs_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_all_points", lambda group: [])
    monkeypatch.setattr(registry, "_points", lambda group: {})
    assert not precision.available()
    with pytest.raises(UsageError, match="no plugin plays the role 'removes-blocks'"):
        carry_out(example_network(), Plan(blocks={"sum": Removed()}), Context())
    with pytest.raises(UsageError, match="no plugin plays the role 'trains'"):
        lwgraph.optimize("absent.onnx", data="absent", distill=True)


@pytest.mark.parametrize("name", [GROUPS, BLOCKS, QUANTIZES, SHAPES])
def test_built_in_roles_keep_their_promises(name: str) -> None:
    check_role(name)


def test_the_built_in_trainer_keeps_its_promises() -> None:
    pytest.importorskip("torch")
    check_role(TRAINS)


class Careless:
    """Quantizes, but a survey changes the model."""

    def __init__(self, inner: Any = None) -> None:
        self.ranges, inner = ("minmax",), inner or PlanQuantizer()
        self.judged, self.exactly, self.quick, self.blank = inner.judged, inner.exactly, inner.quick, inner.blank

    def survey(self, model: ir.Model, context: Context) -> Survey:
        model.graph[0].name = "other"
        return Survey()


class Inventive(Careless):
    """The survey names what is not there."""

    def survey(self, model: ir.Model, context: Context) -> Survey:
        return Survey({"not there": 1.0})


class Mixing(Careless):
    """The survey has these mixes."""

    def __init__(self, *mixes: Mix) -> None:
        super().__init__()
        self.mixes = mixes

    def survey(self, model: ir.Model, context: Context) -> Survey:
        return Survey(mixes=self.mixes)


@dataclass(frozen=True)
class Deaf(Pass):
    """Cannot be told to spare nodes."""

    name: ClassVar[str] = "deaf"
    contract: ClassVar[Contract] = Contract.APPROXIMATE

    def run(self, model: ir.Model, context: Context) -> int:
        """Nothing."""
        return 0


class Pessimist(Careless):
    """The survey knows of damages below 0."""

    def survey(self, model: ir.Model, context: Context) -> Survey:
        return Survey({"first": -1.0})


class All(Careless):
    """Quantizes by one pass only."""

    def __init__(self, made: Pass, ranges: tuple[str, ...] = ("minmax",)) -> None:
        super().__init__()
        self.ranges = ranges
        self.judged = self.exactly = self.quick = self.blank = lambda *_, **__: made


@dataclass(frozen=True)
class Nothing(Deaf):
    """Does nothing, but hears."""

    spares: ClassVar[str] = "nodes"
    nodes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Forgetful(Nothing):
    """Its spelling is another's."""

    def __str__(self) -> str:
        return "quantize"


@dataclass(frozen=True)
class Rounding(Nothing):
    """Promises too much."""

    contract: ClassVar[Contract] = Contract.ROUNDING


@dataclass(frozen=True)
class Renames(Nothing):
    """Changes the interface."""

    def run(self, model: ir.Model, context: Context) -> int:
        model.graph.outputs[0].name = "another"
        return 1


@dataclass(frozen=True)
class Breaks(Nothing):
    """Leaves an operator that does not exist."""

    def run(self, model: ir.Model, context: Context) -> int:
        model.graph[0].op_type = "Nonsense"
        return 1


@dataclass(frozen=True)
class Heedless(Nothing):
    """Puts spared nodes into integers, too."""

    def run(self, model: ir.Model, context: Context) -> int:
        return PlanQuantizer().blank().run(model, context)


class Idle:
    """Removes, but offers sizes that are not there or does nothing."""

    name = "idle"

    def __init__(self, *options: Removal) -> None:
        self._options = list(options)

    def options(self, model: ir.Model, context: Context) -> list[Removal]:
        return self._options

    def apply(self, model: ir.Model, kept: Any, context: Context, *, refit: bool = False) -> int:
        return 0


class Rash(Idle):
    """Listing its options changes the model."""

    def options(self, model: ir.Model, context: Context) -> list[Removal]:
        model.graph[0].name = "other"
        return self._options


class Willing(Idle):
    """Says that it removed whatever it is asked to."""

    def apply(self, model: ir.Model, kept: Any, context: Context, *, refit: bool = False) -> int:
        return 1


class Pupil:
    """Trains in a way of its own, on nothing."""

    def __init__(self, step: Callable[[ir.Model], None]) -> None:
        self.step = step

    def require(self) -> None:
        """Nothing is missing."""

    def prepare(self, model: ir.Model, context: Context) -> None:
        """Nothing to do."""

    def train(self, model: ir.Model, context: Context, seconds: float) -> None:
        self.step(model)


def _rectify(model: ir.Model) -> None:
    next(node for node in model.graph if node.op_type == "Relu").op_type = "Abs"


SIZE = Removal("a", 4, 8, 1, 0.1)


@pytest.mark.parametrize(
    ("name", "plays", "message"),
    [
        (QUANTIZES, object(), "object is no Quantizes"),
        (QUANTIZES, Careless(), "the survey changes the model"),
        (QUANTIZES, Inventive(), "names nodes that the model does not have"),
        (QUANTIZES, Mixing(Mix(("not there",), 0.5, 0.5)), "names nodes that the model does not have"),
        (QUANTIZES, Mixing(Mix((), 0.2, 0.6), Mix((), 0.5, 0.5)), "do not go from the fastest to the slowest"),
        (QUANTIZES, Pessimist(), "a damage in the survey is negative"),
        (QUANTIZES, All(Nothing(), ()), "it has no ranges"),
        (QUANTIZES, All(Deaf()), "cannot be told to spare nodes"),
        (QUANTIZES, All(Forgetful()), "does not read back"),
        (QUANTIZES, All(Rounding()), "is not approximate"),
        (QUANTIZES, All(Nothing()), "puts nothing into integers"),
        (QUANTIZES, All(Renames()), "changes the interface: its outputs"),
        (QUANTIZES, All(Breaks()), "leaves a broken model"),
        (QUANTIZES, All(Heedless()), "told to spare all nodes changes the outputs"),
        (GROUPS, Rash(SIZE), "listing the options changes the model"),
        (GROUPS, Idle(replace(SIZE, nodes=("first",))), "does not say what each node keeps"),
        (GROUPS, Willing(SIZE), "an unknown item is not refused"),
        (TRAINS, Pupil(lambda model: None), "training changes nothing"),
        (TRAINS, Pupil(_rectify), "training changes the structure"),
        (GROUPS, Idle(), "it offers nothing"),
        (GROUPS, Idle(SIZE), "'a' stays as it is"),
        (GROUPS, Idle(SIZE, replace(SIZE, kept=6)), "not largest first"),
        (GROUPS, Idle(replace(SIZE, kept=8)), "keeps 8 of 8"),
        (SHAPES, Deaf(), "is not known afterwards"),
    ],
)
def test_a_role_played_badly_is_caught(name: str, plays: object, message: str) -> None:
    with pytest.raises(CheckError, match=message):
        check_role(name, plays)


def test_an_unknown_role_is_refused() -> None:
    with pytest.raises(UsageError, match=r"no role is named 'prunes'; allowed: removes-channels"):
        check_role("prunes")


def test_the_forms_of_a_search_are_those_that_say_so_and_load(monkeypatch: pytest.MonkeyPatch) -> None:
    warnings: list[str] = []
    assert searched_forms(warnings.append) == ["low-rank", "depthwise"] and warnings == []
    points = registry._points("lwgraph.forms")
    broken = EntryPoint("broken", "no_such_module:Form", "lwgraph.forms")
    monkeypatch.setattr(registry, "_points", lambda group: {**points, "broken": broken})
    assert searched_forms(warnings.append) == ["low-rank", "depthwise"]
    assert len(warnings) == 1 and "plugin 'broken' (no_such_module:Form) cannot be loaded" in warnings[0]


def test_what_is_no_executor_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    point = EntryPoint("ort", "lwgraph.errors:UsageError", "lwgraph.executors")
    monkeypatch.setattr(registry, "_points", lambda group: {"ort": point})
    with pytest.raises(UsageError, match="plugin 'ort' is no executor"):
        registry.executor("ort")


def test_abilities_are_found_through_a_wrapper_and_not_where_they_are_missing() -> None:
    inner = registry.executor("ort", threads=1)

    class Wrapper:
        def __getattr__(self, name: str) -> Any:
            return getattr(inner, name)

    wrapper, plain = Wrapper(), registry.executor("reference")
    for ability in (Untimed, AsWritten, ShowsGraph, Profiles, InCallingThread):
        assert offered(wrapper, ability) is wrapper and offered(plain, ability) is None
    assert in_calling_thread(wrapper) and not in_calling_thread(plain)
    assert untimed(plain) is plain and as_written(plain) is plain and as_written(wrapper) is not wrapper
    assert settings(wrapper).level == "all" and settings(wrapper).threads == 1
    assert settings(SimpleNamespace(name="other")) == ("", "", "")


def test_a_plan_tells_its_passes_what_to_spare() -> None:
    model = example_network()
    x = np.random.default_rng(2).standard_normal((4, 1, 3, 8, 8)).astype(np.float32)
    context = Context(registry.executor("ort"), data=[{"x": each} for each in x])
    model = carry_out(model, Plan(precision=Precision((precision.spelling(),), ("last",))), context).model
    last = next(node for node in model.graph if node.name == "last")
    makers = {value.producer().op_type for value in last.inputs if value is not None and value.producer() is not None}
    assert "QuantizeLinear" in {node.op_type for node in model.graph} and "DequantizeLinear" not in makers
    with pytest.raises(UsageError, match="cannot leave nodes alone"):
        carry_out(example_network(), Plan(precision=Precision((f"{__name__}:Deaf",), ("last",))), context)
