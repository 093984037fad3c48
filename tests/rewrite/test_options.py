"""Options as text and back."""

from __future__ import annotations

import enum
from dataclasses import dataclass, fields
from typing import Annotated, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lwgraph import ir
from lwgraph.errors import UsageError
from lwgraph.rewrite import Context, Contract, Pass
from lwgraph.rewrite.options import build, describe, split
from tests.rewrite.rewrite_models import MergeMuls


class Basis(enum.Enum):
    PLAIN = 1
    WHITENED = 2


@dataclass(frozen=True)
class Everything(Pass):
    """One option of each kind."""

    name = "everything"
    contract = Contract.EXACT
    ratio: Annotated[float, "share to keep"] = 0.5
    count: int = 3
    loud: bool = False
    label: str = "a"
    axes: tuple[int, ...] = ()
    pair: tuple[int, float] = (1, 2.0)
    names: tuple[str, ...] = ()
    limit: int | None = None
    mode: Literal["fast", "slow"] = "fast"
    basis: Basis = Basis.PLAIN

    def run(self, model: ir.Model, context: Context) -> int:
        return 0


@dataclass(frozen=True)
class Required(Pass):
    """An option without a default."""

    name = "required"
    contract = Contract.EXACT
    ratio: float

    def run(self, model: ir.Model, context: Context) -> int:
        return 0


HERE = f"{__name__}:Everything"


def test_only_changed_options_are_spelled() -> None:
    assert str(Everything()) == HERE
    assert str(Everything(count=4, axes=(1, -2))) == HERE + "{count=4,axes=[1,-2]}"


@given(
    ratio=st.floats(allow_nan=False),
    count=st.integers(),
    loud=st.booleans(),
    label=st.text(),
    axes=st.lists(st.integers()).map(tuple),
    pair=st.tuples(st.integers(), st.floats(allow_nan=False)),
    names=st.lists(st.text()).map(tuple),
    limit=st.none() | st.integers(),
    mode=st.sampled_from(["fast", "slow"]),
    basis=st.sampled_from(Basis),
)
def test_text_round_trip(**values: object) -> None:
    p = Everything(**values)  # type: ignore[arg-type]
    assert Pass.parse(str(p)) == p


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("everything", "no pass is named 'everything'"),
        (HERE + "{coutn=3}", "pass 'everything' has no option 'coutn'; did you mean 'count'?"),
        (HERE + "{count=x}", "option 'count' of pass 'everything' is 'x'; allowed: an integer"),
        (HERE + "{loud=maybe}", "allowed: true or false"),
        (HERE + "{mode=medium}", "allowed: fast or slow"),
        (HERE + "{basis=odd}", "allowed: plain or whitened"),
        (HERE + "{pair=[1]}", "allowed: [an integer,a number]"),
        (HERE + "{ratio=nan}", "allowed: a number"),
        (HERE + "{limit=x}", "allowed: an integer or none"),
        (HERE + "{count}", "'count' in"),
        (HERE + "{count=1,count=2}", "given twice"),
        (HERE + "{count=1", "unclosed bracket"),
        ('a{b="x}', "unclosed quote"),
        (f"{__name__}:Required", "pass 'required' needs option 'ratio'"),
        (f"{__name__}:Nothing", "has no attribute 'Nothing'"),
        ("lwgraph.errors:UsageError", "is not a pass"),
        ("no.such.module:Thing", "no module named"),
    ],
)
def test_errors_say_what_is_allowed(text: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        for part in split(text):
            Pass.parse(part)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_hyphens_spell_underscores() -> None:
    assert Pass.parse("tests.rewrite.rewrite_models:MergeMuls{max-size=7}") == MergeMuls(max_size=7)


def test_native_values_are_checked() -> None:
    assert build(Everything, {"count": 2, "axes": [1], "ratio": 1}) == Everything(count=2, axes=(1,), ratio=1.0)
    with pytest.raises(UsageError, match="'count'"):
        build(Everything, {"count": True})


def test_describe_gives_help() -> None:
    options = describe(Everything)
    assert [o.name for o in options] == [f.name for f in fields(Everything)]
    assert (options[0].type_text, options[0].default_text, options[0].help) == ("a number", "0.5", "share to keep")


def test_split_respects_brackets_and_quotes() -> None:
    assert split('a{b=[1,2],c="x,}"},d') == ['a{b=[1,2],c="x,}"}', "d"]
    assert split("  ") == []
