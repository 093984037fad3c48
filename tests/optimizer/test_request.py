"""What is asked for: each check before any work, and the texts that are made of the fields."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import click
import pytest

import lwgraph
from lwgraph.cli.optimize import command
from lwgraph.errors import UsageError
from lwgraph.optimizer.request import TRAINING, Request, options, parse_amount, parse_seconds, spelled, takes_request

NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"max_drop": -0.1}, "--max-drop is -0.1; allowed: a number of at least 0"),
        ({"max_drop": NAN}, "--max-drop is nan"),
        ({"speedup": 0}, "--speedup is 0; allowed: a number over 0"),
        ({"speedup": INF}, "--speedup is inf"),
        ({"max_latency": 0}, "--max-latency is 0"),
        ({"max_bytes": -1}, "--max-bytes is -1"),
        ({"max_bytes": "0kB"}, "--max-bytes is 0"),
        ({"max_macs": NAN}, "--max-macs is nan"),
        ({"budget": NAN}, "--budget is nan"),
        ({"budget": "0s"}, "--budget is 0; allowed: a number over 0"),
        ({"memory": 0}, "--memory is 0"),
        ({"objective": "speed"}, "--objective is 'speed'"),
        ({"preset": "fats"}, "did you mean 'fast'"),
        ({"target": "ort-cup"}, "did you mean 'ort-cpu'"),
        ({"threads": 0}, "--threads is 0; allowed: 1 to"),
        ({"seed": -1}, "--seed is -1; allowed: at least 0"),
        ({"workers": 0}, "--workers is 0"),
        ({"workers": 2, "dask": "tcp://a:1"}, "--workers 2 and --dask"),
        ({"pipeline": "clean", "recipe": "r.toml"}, "--pipeline and --recipe"),
        ({"pipeline": "clean", "plan": "p.json"}, "without --pipeline and --recipe"),
        ({"recipe": "r.toml", "plan": "p.json"}, "without --pipeline and --recipe"),
        ({"preset": "lossless", "plan": "p.json"}, "--preset lossless says what to do"),
        ({"preset": "lossless", "pipeline": "clean"}, "--preset lossless says what to do"),
        ({"unproven": True, "data": "d"}, "--unproven is for runs without data"),
        ({"distill": True}, "give --data"),
        ({"distill": True, "data": "d", "pipeline": "clean"}, "add distill"),
        ({"distill": True, "data": "d", "preset": "lossless"}, "lossless rules out"),
    ],
)
def test_what_cannot_be_asked_for_is_one_line(asked: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError) as raised:
        Request(**asked)
    assert words in str(raised.value) and "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90), ("90s", 90), ("10m", 600), ("1.5h", 5400), (3.0, 3), ("2 min", 120), ("none", INF)],
)
def test_budgets(text: str | float, seconds: float) -> None:
    assert parse_seconds(text) == seconds and Request(budget=text).budget == seconds


@pytest.mark.parametrize(
    ("text", "amount"),
    [
        ("1500000", 1.5e6),
        ("1.5M", 1.5e6),
        ("600kB", 6e5),
        ("2MiB", 1 << 21),
        ("3G", 3e9),
        ("3 GB", 3e9),
        ("1e6", 1e6),
        ("12b", 12),
        (7, 7),
        (None, None),
    ],
)
def test_amounts(text: str | float | None, amount: float | None) -> None:
    assert parse_amount(text, "--max-bytes") == amount
    assert Request(max_bytes=text, max_macs=text, memory=text).memory == amount


@pytest.mark.parametrize("wrong", ["soon", "10x", "-1s", "", "1iB", "1k i", "k"])
def test_a_wrong_budget_or_amount_is_one_line(wrong: str) -> None:
    with pytest.raises(UsageError, match="--budget"):
        parse_seconds(wrong)
    with pytest.raises(UsageError, match="--max-macs"):
        Request(max_macs=wrong)


def test_training_takes_its_part_of_the_budget() -> None:
    assert Request(budget=100).training == 0
    assert Request(distill=True, data="d").training == TRAINING
    trained = Request(distill=True, data="d", budget=100)
    assert trained.training == 75 and trained.trials == pytest.approx(75 / 4)
    assert Request().trials == 60 and Request(preset="lossless").trials == 0


def test_limits_of_both_ways_to_ask_for_speed() -> None:
    assert Request().limits(10.0) == {} and not Request().limited
    request = Request(speedup=2.0, max_latency=3.0, max_bytes="1kB", max_macs=5)
    assert request.limited and request.limits(10.0) == {"latency": 3.0, "bytes": 1000.0, "macs": 5.0}
    assert request.limits(4.0)["latency"] == 2.0


@pytest.mark.parametrize(
    ("asked", "figures", "broken"),
    [
        ({"speedup": 2.0}, (5.0, 0, 0), ""),
        ({"speedup": 2.0}, (5.05, 0, 0), ""),  # no clock tells more
        ({"speedup": 2.0}, (5.2, 0, 0), "--speedup 2 was not reached: the result is 1.92 times as fast"),
        ({"max_latency": 4.0}, (4.05, 0, 0), ""),
        ({"max_latency": 4.0}, (4.2, 0, 0), "--max-latency 4 was exceeded: one run takes 4.2 ms"),
        ({"max_bytes": 1000}, (1.0, 1000, 0), ""),
        ({"max_bytes": 1000}, (1.0, 1001, 0), "--max-bytes 1,000 was exceeded: the result has 1,001 bytes"),
        (
            {"max_macs": 1000},
            (1.0, 0, 1001),
            "--max-macs 1,000 was exceeded: one run takes 1,001 multiply-accumulates",
        ),
        ({}, (1e9, 1e9, 1e9), ""),
    ],
)
def test_a_broken_limit_is_told(asked: dict[str, Any], figures: tuple[float, float, float], broken: str) -> None:
    request, (ms, size, macs) = Request(**asked), figures
    assert request.violations(ms, 10.0, size, macs) == ([broken] if broken else [])
    assert request.allows(ms, 10.0, size, macs) == (not broken)


def test_how_far_the_worst_kept_limit_is_exceeded() -> None:
    request = Request(max_bytes=1000, max_macs=100)
    assert request.excess(1.0, 1.0, 500, 300) == 3.0 and request.excess(1.0, 1.0, 500, 10) == 0.5


def test_every_field_is_an_option_with_a_default_and_a_text() -> None:
    given = {option.name: option for option in command.params if isinstance(option, click.Option)}
    for f, _, said in options():
        option = given[f.name]
        assert spelled(f.name) in option.opts and option.help == said.text and said.text.strip()
        assert option.is_flag == (f.default is False) and option.multiple == said.many
        assert said.many or option.default == f.default
    assert [f.name for f, *_ in options()] == [f.name for f in fields(Request)]
    others = set(given) - {f.name for f in fields(Request)}
    assert others == {"output", "report", "family", "as_json", "overwrite", "quiet", "explain", "explain_time"}


def test_the_python_function_has_the_same_arguments() -> None:
    signature = inspect.signature(lwgraph.optimize)
    assert list(signature.parameters) == ["model", *(f.name for f in fields(Request)), "progress"]
    for f, kind, said in options():
        parameter = signature.parameters[f.name]
        assert parameter.kind is parameter.KEYWORD_ONLY and parameter.default == f.default
        assert parameter.annotation == kind
        assert f"\n    {f.name}: {said.text}\n" in (lwgraph.optimize.__doc__ or "")
    assert signature.return_annotation == "Result" and "**asked" not in (lwgraph.optimize.__doc__ or "")


def test_a_function_keeps_its_own_arguments() -> None:
    @takes_request
    def run(model: str, *, mine: int = 3, **asked: Any) -> Sequence[Path]:
        """Run.

        Args:
            **asked: ...
        """
        return []

    names = list(inspect.signature(run).parameters)
    assert names[0] == "model" and names[-1] == "mine" and "max_drop" in names and "asked" not in names


def test_an_unknown_argument_is_refused() -> None:
    with pytest.raises(TypeError, match="max_drip"):
        lwgraph.optimize("absent.onnx", max_drip=0.1)


def test_a_request_does_not_change() -> None:
    with pytest.raises(AttributeError):
        Request().speedup = 2.0  # type: ignore[misc]
