"""The results of an optimization as plain data: the one source of the JSON report, the HTML page and the table."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import platform
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Any

SCHEMA = 1


@dataclass
class Facts:
    """The size of one model. `macs` is None when a shape is unknown."""

    nodes: int
    parameters: int
    bytes: int
    macs: int | None


@dataclass
class Stage:
    """One model of the run: the input, the cleaned model, the result.

    `ratio` is latency over the input's, of the fastest runs of both, which took turns, and `ratio_spread` its 95 %
    interval; None when latency was not measured. `speed` is what is told of it: the ratio as a speed, or that it is not
    settled, and why. `milliseconds` are those of the fastest run. `score` is the judged metric.
    """

    name: str
    facts: Facts
    milliseconds: float | None = None
    ratio: float | None = None
    ratio_spread: tuple[float, float] | None = None
    score: float | None = None
    speed: str = ""


@dataclass
class ScoreRecord:
    """The metric and the promise made on it."""

    name: str
    unit: str
    samples: int | None
    before: float
    after: float
    drop: float
    max_drop: float | None  # None: no accuracy was promised, since other limits were
    drop_interval: tuple[float, float] | None = None  # 95 %, paired over the samples
    judged_on: str = ""
    looks: int = 1  # candidates that were compared
    verdict: str = ""  # "kept", "broken" or "not resolved"; see lwgraph.measure.promise.Verdict, as for what follows
    estimate: float | None = None
    bound: float | None = None
    lower: float | None = None
    confidence: float | None = None
    samples_needed: int | None = None
    method: str = ""
    text: str = ""
    output_kind: str = ""  # of what was judged: "classes", "embeddings", ...; "" where the metric brings its own data
    judged: str = ""  # the outputs, their kind and what showed it, in words
    beside: dict[str, float] = field(default_factory=dict)  # what else was measured: "correlation", "neighbours"


@dataclass
class PassRun:
    """One pass of the pipeline."""

    name: str
    contract: str
    rewrites: int
    seconds: float


@dataclass
class StageRun:
    """One stage of the run.

    Attributes:
        name: of the stage.
        seconds: that it took.
        candidates: that it proposed and that were looked at.
        outcome: "done", why there was nothing to do, or what ended it.
        passes: that it took, in passes over the data (see `Report.pass_seconds`); None: not known.
        predicted: passes that it was predicted to take before it began; None: it was idle, or did not say.
    """

    name: str
    seconds: float
    candidates: int
    outcome: str = "done"
    passes: float | None = None
    predicted: float | None = None


@dataclass
class Layer:
    """One layer of the file that was written: a node that multiplies by constant weights.

    Attributes:
        name: of the node.
        operator: that the file names.
        shape: of the stored weight, such as "16x3x3x3".
        precision: "int8" where activations and weights are 8-bit integers and the runtime computes in them; "int4
            weights", "float16 weights" and the like where only the weights are stored so; else "float32" and so on.
        form: the form that it is a part of; "" for none.
        stands_for: the layer of the cleaned model that the form replaced; its own name where there is no form.
        codes: what the weight is packed as, such as "4-bit powers of two"; "" where it is stored as it is read.
        macs: multiply-adds of one run; None where a size is unknown.
        shifts: powers of two in a weight, at most, where products with it are shifts; 0 where they are not.
    """

    name: str
    operator: str
    shape: str
    precision: str
    form: str = ""
    stands_for: str = ""
    codes: str = ""
    macs: int | None = None
    shifts: int = 0


@dataclass
class SiteChoice:
    """One dense layer of the cleaned model: what stands there in the file that was written, or why it stayed.

    `form` is None where it is dense; `precision` as in `Layer`, several joined by commas where the layers of a form
    differ, "" where the layer is gone.
    """

    name: str
    operator: str
    shape: str
    form: str | None
    predicted_error: float | None
    dense_ms: float | None
    form_ms: float | None
    reason: str = ""
    precision: str = ""


@dataclass
class Check:
    """One verification that was done."""

    what: str
    executor: str
    contract: str
    ok: bool
    detail: str


@dataclass
class Report:
    """Everything `lwgraph optimize` knows when it ends."""

    source: str
    target: str
    threads: int
    seed: int
    recipe: str = ""
    stages: list[Stage] = field(default_factory=list)
    score: ScoreRecord | None = None
    passes: list[PassRun] = field(default_factory=list)
    sites: list[SiteChoice] = field(default_factory=list)
    layers: list[Layer] = field(default_factory=list)  # of the file that was written, in graph order
    checks: list[Check] = field(default_factory=list)
    skipped: list[dict[str, str]] = field(default_factory=list)
    details: dict[str, Any] = field(default_factory=dict)  # plain data by section, for JSON and the page
    notes: list[str] = field(default_factory=list)
    runs: list[StageRun] = field(default_factory=list)  # the stages, in order
    pass_seconds: float | None = None  # the float network once over all inputs for fits and for judging, at the start
    failures: list[str] = field(default_factory=list)  # what failed on the way, and its reproducer, one line each
    seconds: dict[str, float] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=lambda: environment())
    verdict: str = "kept"  # on all promises together, default ones too: "kept", "broken" or "not resolved"
    outcome: str = "done"  # "done", or why the goal was not reached
    unproven: bool = False  # whether nothing but generated inputs says what was lost

    def stage(self, name: str) -> Stage:
        """The stage called `name`; KeyError when it was not reached."""
        for stage in self.stages:
            if stage.name == name:
                return stage
        raise KeyError(name)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON; infinities and NaN become None, which JSON can say."""
        plain: dict[str, Any] = finite({"schema": SCHEMA, **dataclasses.asdict(self)})
        return plain

    def to_json(self) -> str:
        """The report as indented JSON."""
        return json.dumps(self.to_dict(), indent=2, ensure_ascii=False, allow_nan=False)


def finite(value: Any) -> Any:
    """Plain data with None for every number that is not finite, which JSON cannot say."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def processor() -> str:
    """The processor's model name, or the machine type where the system does not tell."""
    try:
        with open("/proc/cpuinfo", encoding="utf8") as lines:
            for line in lines:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def environment() -> dict[str, str]:
    """Versions and processor, so that a figure can be read later."""
    found = {"processor": processor(), "cores": str(os.cpu_count()), "python": platform.python_version()}
    for package in ("lwgraph", "onnx", "onnxruntime", "onnxsim", "numpy"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "absent"
    return found
