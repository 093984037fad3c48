"""Reports that several tests show."""

from __future__ import annotations

from typing import Any

from lwgraph.report import Check, Facts, Layer, PassRun, Report, ScoreRecord, SiteChoice, Stage, StageRun

FORM = "low-rank{rank=2}"


TIMES: dict[str, Any] = {
    "before": {"a<1>": ["Conv", 4.0], "b": ["Conv", 2.0], "c": ["Gemm", 1.0]},
    "after": {
        "a<1>": ["QLinearConv", 1.0],
        "b_low-rank": ["Conv", 0.5],
        "b_low-rank_1": ["Conv", 0.25],
        "soft<m>": ["Softmax", 2.0],
    },
    "edges": [("a<1>", "b"), ("a<1>", "c"), ("b", "c"), ("b", "gone")],
}


def with_layers(times: dict[str, Any] | None = TIMES) -> Report:
    sites = [
        SiteChoice("a<1>", "Conv", "8x8", None, None, None, None, precision="int8"),
        SiteChoice("b", "Conv", "8x8", FORM, 0.1, 2.0, 1.0, precision="float32", reason="no <kernel>"),
        SiteChoice("c", "Gemm", "8x8", None, None, None, None, reason="it was removed"),
        SiteChoice("a<1>", "channels", "8", "8 to 4 channels", None, None, None),
    ]
    layers = [
        Layer("a<1>", "Conv", "4x8", "int8", stands_for="a<1>"),
        Layer("b_low-rank", "Conv", "2x8", "float32", FORM, "b"),
        Layer("b_low-rank_1", "Conv", "8x2", "float32", FORM, "b"),
    ]
    skipped = [{"pass": "ghost", "place": "b", "reason": "too <small>"}, {"pass": "x", "place": "z", "reason": "far"}]
    details = {} if times is None else {"layer_times": times}
    return Report("m", "ort-cpu", 1, 0, sites=sites, layers=layers, skipped=skipped, details=details)


def moment(seconds: float, origin: str, speed: float | None) -> dict[str, Any]:
    return {"seconds": seconds, "origin": origin, "speed": speed, "score": 0.9}


def row(number: int, drop: float, speed: float | None, **more: Any) -> dict[str, Any]:
    said = "" if speed is None else f"{speed:.2f}x"
    told = {"number": number, "drop": drop, "speed": speed, "said": said, "bytes": 2000}
    return {**told, "verdict": "kept", "why": "a <reason>", "chosen": False, **more}


def report(**more: Any) -> Report:
    return Report(source="m", target="ort-cpu", threads=1, seed=0, **more)


def ran() -> Report:
    progress = [moment(1.0, "cleaned", 1.0), moment(4.0, "<quantized>", 2.0), moment(9.0, "search", 3.0)]
    return report(
        runs=[StageRun("integers", 3.0, 1), StageRun("training", 0.0, 0, "nothing to do: <it> was not asked for")],
        failures=["forms: <why>"],
        seconds={"reading": 1.0, "planning": 11.0},
        details={"progress": progress},
    )


FRONT = [
    row(1, 0.02, 4.0, verdict="broken"),
    row(2, 0.0043, 3.0, chosen=True, verdict="not resolved"),
    row(3, 0.001, 2.0),
]


SCORE = ScoreRecord("top1", "of 1", 100, 0.9, 0.8957, 0.0043, 0.01)


def example() -> Report:
    return Report(
        source="<b>model</b>.onnx",
        target="ort-cpu",
        threads=1,
        seed=0,
        recipe="fold-batch-norm",
        stages=[
            Stage("input", Facts(10, 1000, 4000, 50_000), 2.0, 1.0, (1.0, 1.0), 0.9),
            Stage("result", Facts(8, 500, 2000, None), 1.0, 0.5, (0.45, 0.55), 0.895),
        ],
        score=ScoreRecord("top1", "of 1", 100, 0.9, 0.895, 0.005, 0.01, (0.001, 0.009), "On --eval-data.", 3),
        passes=[PassRun("fold-batch-norm", "rounding", 2, 0.01)],
        sites=[SiteChoice("conv<1>", "Conv", "8x8x3x3", "low-rank{rank=16}", 0.01, 1.0, 0.5)],
        checks=[Check("clean model", "reference", "rounding", True, "equal")],
        skipped=[{"pass": "low-rank", "place": "<conv>", "reason": "a & b"}],
        notes=["note"],
        seconds={"passes": 0.1},
    )
