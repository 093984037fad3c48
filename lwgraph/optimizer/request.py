"""What the user asks for: one dataclass, from which the command line, the Python signature and its texts are made."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import Field, dataclass, fields
from pathlib import Path
from typing import Annotated, Any, get_type_hints

from lwgraph.errors import UsageError, did_you_mean
from lwgraph.executor import MOST_THREADS
from lwgraph.measure.kinds import OUTPUT_KINDS
from lwgraph.measure.promise import BROKEN, KEPT, OPEN
from lwgraph.objects import is_object_name
from lwgraph.optimizer.presets import Preset, find_preset
from lwgraph.optimizer.target import SEVERAL, check_target
from lwgraph.tasks.open_pool import check_workers

OBJECTIVES = ("latency", "bytes", "macs")
TRAINING = 600.0  # seconds of training where no budget is stated
SLACK = 1.02  # a measured time within this factor of a limit keeps it: no clock tells more
_SECONDS = {"": 1.0, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}
_POWERS = {"": 0, "k": 1, "m": 2, "g": 3}


@dataclass(frozen=True)
class Help:
    """What is said of one option.

    Attributes:
        text: for the command line and the documentation alike; whole sentences.
        metavar: what stands for the value in help texts; "" for a flag.
        flag: the spelling on the command line where it is not the field's name.
        many: whether the command line may give it several times.
    """

    text: str
    metavar: str = ""
    flag: str = ""
    many: bool = False


@dataclass(frozen=True, kw_only=True)
class Request:
    """What one run is asked to do; every field is an option of `lwgraph optimize` and an argument of `optimize`.

    Raises:
        UsageError: a value is out of range, or two options contradict each other.
    """

    data: Annotated[
        Any,
        Help("Inputs for fitting, unlabelled: image folder, .npz/.npy, .txt/.jsonl, module:attribute ...", "D"),
    ] = None
    preprocess: Annotated[
        Any,
        Help("How images become inputs: 'resize=256,crop=224,scale=1/255', a TOML file, or 'auto' (README).", "P"),
    ] = None
    input_shapes: Annotated[
        Mapping[str, Sequence[int]] | None,
        Help("Sizes of generated inputs, where they cannot be found.", "NAME:1,3,224,224", "--input-shape", many=True),
    ] = None
    eval_data: Annotated[
        Any,
        Help(
            "Data for judging only; never used for fitting. Same kinds as --data.  [default: half of --data, or more]",
            "D",
        ),
    ] = None
    metric: Annotated[
        Any,
        Help(
            "top1 (labels), agreement, cosine, detections, psnr, retrieval, sqnr, symbols, variance, or "
            "module:function.  [default: top1 with labels, else that of the kind of output]",
            "M",
        ),
    ] = None
    output_kind: Annotated[
        str | None,
        Help(
            "What the model puts out: classes, embeddings, detections, images, symbols or other; it chooses the metric "
            "and what may be lost.  [default: recognized from graph and samples]",
            "KIND",
        ),
    ] = None
    max_drop: Annotated[
        float | None,
        Help(
            "Largest loss of the metric allowed, in its own unit (0.01 = 1 point).  "
            "[default: one point, 0.1 dB, or 40 dB against the original; see docs/promises.md]",
            "X",
        ),
    ] = None
    confidence: Annotated[
        float, Help("Confidence with which a promise is called kept or broken, over 0.5 and below 1.", "C")
    ] = 0.95
    label_these: Annotated[
        str | Path | None,
        Help(
            "Write the few samples on which input and result disagree into this new folder, with labels.csv to fill "
            "in: lwgraph verify --labels then gives the exact loss of accuracy. For classifiers, without labels.",
            "FOLDER",
        ),
    ] = None
    speedup: Annotated[
        float | None,
        Help(
            "Speed asked for, relative to the input (2 = half the time). Without --max-drop, the plan that loses least "
            "is sought.",
            "X",
        ),
    ] = None
    max_latency: Annotated[float | None, Help("Milliseconds of one run allowed on the target.", "MS")] = None
    max_bytes: Annotated[
        float | str | None, Help("Size of the model allowed: a number, or such as 600kB, 2MiB.", "N")
    ] = None
    max_macs: Annotated[
        float | str | None, Help("Multiply-accumulates of one run allowed: a number, or such as 1.5G.", "N")
    ] = None
    preset: Annotated[
        str | None,
        Help(
            "What to ask for where no other option does: fast, balanced, small or lossless.  [default: balanced]", "P"
        ),
    ] = None
    objective: Annotated[
        str | None,
        Help(
            "What is minimized among plans that keep all promises: latency, bytes or macs.  [default: the preset's]",
            "O",
        ),
    ] = None
    budget: Annotated[
        float | str | None,
        Help(
            "Time of the whole run, training included, such as 90s, 10m or 1h; the best result so far is delivered "
            "then. none: the search goes on until nothing better is found.  [default: 12 passes of MODEL over the "
            "data and 20 s, or a minute where that is less]",
            "T",
        ),
    ] = None
    memory: Annotated[
        float | str | None,
        Help(
            "Memory that statistics, fits and trials may take together, such as 2GB.  [default: half of what is free]",
            "N",
        ),
    ] = None
    distill: Annotated[
        bool,
        Help("Train the chosen plan to imitate MODEL on the --data, which need no labels. Needs 'lwgraph[torch]'."),
    ] = False
    augment: Annotated[
        str | Sequence[str] | None,
        Help(
            "How training may vary the data without changing what they show: flip, turn, zoom, shift, tone, mixup, "
            "joined by commas.",
            "A",
        ),
    ] = None
    pipeline: Annotated[Any, Help("Run just these passes, e.g. 'clean,low-rank{ratio=0.5}'.", "PIPELINE")] = None
    recipe: Annotated[str | Path | None, Help("A pipeline from a TOML file.", "FILE")] = None
    plan: Annotated[
        Any, Help("Carry out this plan (JSON, as written beside the report) instead of searching.", "FILE")
    ] = None
    target: Annotated[
        str,
        Help(
            "What the result must be fast on: ort-cpu, openvino:f32, openvino:bf16, openvino (the best of its "
            "precisions), any (the best of all runtimes that are installed), or a machine or table of prices "
            "(lwgraph measure).",
            "T",
        ),
    ] = "ort-cpu"
    threads: Annotated[int, Help("Threads of the runtime.", "N")] = 1
    seed: Annotated[
        int,
        Help("Seed of every random choice. A second run without a budget gives the same bytes.", "N"),
    ] = 0
    workers: Annotated[
        int, Help("Processes that work side by side; the plan found is the same with any number.", "N")
    ] = 1
    dask: Annotated[
        str | None, Help("A Dask cluster that works side by side: its scheduler's address or file.", "ADDRESS")
    ] = None
    unproven: Annotated[
        bool,
        Help("Without --data, try approximations on generated inputs all the same; what they lose is not known."),
    ] = False
    strict: Annotated[
        bool, Help("End with the error where a step of the run fails, instead of going on without it.")
    ] = False

    def __post_init__(self) -> None:
        for name in ("max_bytes", "max_macs", "memory"):
            object.__setattr__(self, name, parse_amount(getattr(self, name), spelled(name)))
        object.__setattr__(self, "budget", None if self.budget is None else parse_seconds(self.budget))
        object.__setattr__(self, "input_shapes", dict(self.input_shapes or {}))
        if self.objective is None:
            object.__setattr__(self, "objective", self.asked.objective)
        if self.max_drop is not None and not (math.isfinite(self.max_drop) and self.max_drop >= 0):
            raise UsageError(f"--max-drop is {self.max_drop}; allowed: a number of at least 0, in the metric's unit")
        if self.output_kind is not None and self.output_kind not in OUTPUT_KINDS:
            raise UsageError(f"--output-kind is '{self.output_kind}'{did_you_mean(self.output_kind, OUTPUT_KINDS)}")
        if self.output_kind is not None and self.own_metric:
            raise UsageError("--output-kind chooses the metric; leave it out with --metric module:function")
        if not 0.5 < self.confidence < 1:
            raise UsageError(f"--confidence is {self.confidence:g}; allowed: over 0.5 and below 1, such as 0.95")
        for name, meaning in (
            ("speedup", "2 = half the time"),
            ("max_latency", "milliseconds of one run"),
            ("max_bytes", "bytes of the model"),
            ("max_macs", "multiply-accumulates of one run"),
            ("budget", "seconds of the whole run"),
            ("memory", "bytes, or such as 2GB"),
        ):
            value = getattr(self, name)
            if value is not None and not (value > 0 and (math.isfinite(value) or name == "budget")):
                raise UsageError(f"{spelled(name)} is {value:g}; allowed: a number over 0 ({meaning})")
        if self.objective not in OBJECTIVES:
            raise UsageError(f"--objective is '{self.objective}'{did_you_mean(str(self.objective), OBJECTIVES)}")
        if not 1 <= self.threads <= MOST_THREADS:
            raise UsageError(f"--threads is {self.threads}; allowed: 1 to {MOST_THREADS}")
        if self.seed < 0:
            raise UsageError(f"--seed is {self.seed}; allowed: at least 0")
        check_target(self.target, self.threads)
        check_workers(self.workers, self.dask)
        self._check_together()

    def _check_together(self) -> None:
        passes = self.pipeline if self.pipeline is not None else self.recipe
        if self.pipeline is not None and self.recipe is not None:
            raise UsageError("--pipeline and --recipe both name the passes; give one of them")
        if passes is not None and self.plan is not None:
            raise UsageError("--plan adds to the default passes; give it without --pipeline and --recipe")
        if not self.asked.approximate and (passes is not None or self.plan is not None):
            raise UsageError(f"--preset {self.preset} says what to do; give it without --pipeline, --recipe and --plan")
        if self.unproven and (self.data is not None or self.eval_data is not None or self.own_metric):
            given = "--data" if self.data is not None else "--eval-data" if self.eval_data is not None else "--metric"
            raise UsageError(f"--unproven is for runs without data; leave it out, and what {given} says is the proof")
        if self.unproven and not self.asked.approximate:
            raise UsageError(
                "--unproven tries approximations, which --preset lossless rules out; leave out one of them"
            )
        if self.label_these is not None and (self.own_metric or (self.data is None and self.eval_data is None)):
            raise UsageError(
                "--label-these writes samples of --data or --eval-data; give one, and no metric of your own"
            )
        if self.label_these is not None and self.target in SEVERAL:
            raise UsageError(f"--label-these is for one target; --target '{self.target}' stands for several")
        if not self.distill:
            return
        if passes is not None:
            raise UsageError("--distill trains the plan that was searched or given; to passes, add distill{minutes=10}")
        if not self.asked.approximate:
            raise UsageError("--distill changes the outputs, which --preset lossless rules out; leave out one of them")
        if self.data is None:
            raise UsageError("--distill needs inputs to learn from; give --data (unlabelled will do)")

    # ------------------------------------------------------------ what follows from it

    @property
    def asked(self) -> Preset:
        """The preset, which speaks where no option does."""
        return find_preset(self.preset)

    @property
    def own_metric(self) -> bool:
        """Whether the metric is a user's function, which has its own data."""
        return callable(self.metric) or (isinstance(self.metric, str) and is_object_name(self.metric))

    @property
    def searches(self) -> bool:
        """Whether plans are searched, nothing having been said that rules it out."""
        return self.asked.approximate and not self.named

    @property
    def named(self) -> bool:
        """Whether what is to be done was named, passes or a plan, so that it must succeed."""
        return self.pipeline is not None or self.recipe is not None or self.plan is not None

    @property
    def time(self) -> float | None:
        """Seconds of the whole run; None where none were stated."""
        return None if self.budget is None or math.isinf(float(self.budget)) else float(self.budget)

    @property
    def training(self) -> float:
        """Seconds of training; 0 where none was asked for."""
        if not self.distill:
            return 0.0
        return TRAINING if self.time is None else 0.75 * self.time

    @property
    def trials(self) -> float:
        """Seconds of running trial plans, at most; with a budget the clock may end them before."""
        return self.asked.trials if not self.distill else min(self.asked.trials, self.training / 4)

    @property
    def limited(self) -> bool:
        """Whether anything but accuracy is promised."""
        return any(v is not None for v in (self.speedup, self.max_latency, self.max_bytes, self.max_macs))

    def limits(self, base_ms: float) -> dict[str, float]:
        """The limits by resource: "latency" in milliseconds, "bytes", "macs".

        Args:
            base_ms: milliseconds of one run that `speedup` is relative to.
        """
        times = [self.max_latency, None if self.speedup is None else base_ms / self.speedup]
        latency = min((t for t in times if t is not None), default=None)
        found = {"latency": latency, "bytes": self.max_bytes, "macs": self.max_macs}
        return {resource: float(limit) for resource, limit in found.items() if limit is not None}

    def allows(self, milliseconds: float, base_ms: float, size: float, macs: float) -> bool:
        """Whether a model of such figures keeps every limit; `base_ms` is the time that `speedup` is relative to."""
        return self.excess(milliseconds, base_ms, size, macs) <= 1

    def excess(self, milliseconds: float, base_ms: float, size: float, macs: float) -> float:
        """How many times the limit that is kept worst such figures are; 0 without limits."""
        taken = {"latency": milliseconds / SLACK, "bytes": size, "macs": macs}
        return max((taken[resource] / limit for resource, limit in self.limits(base_ms).items()), default=0.0)

    def judge_limits(self, ratios: tuple[float, float], base_ms: float, size: float, macs: float) -> tuple[str, str]:
        """The verdict on the limits, as `lwgraph.measure.promise` calls it, and in words what is not kept.

        Args:
            ratios: of the result's time to the input's, the interval of it; equal where time is predicted.
            base_ms: milliseconds of one run of the input.
            size: bytes of the result.
            macs: its multiply-accumulates.
        """
        best, worst = (self.violations(ratio * base_ms, base_ms, size, macs) for ratio in ratios)
        if best:
            return BROKEN, best[0]
        if not worst:
            return KEPT, ""
        low, high = (1 / max(ratio, 1e-12) for ratio in reversed(ratios))
        limit = worst[0].partition(" was ")[0]
        return OPEN, f"{limit}: the result is between {low:.2f} and {high:.2f} times as fast as the input"

    def violations(self, milliseconds: float, base_ms: float, size: float, macs: float) -> list[str]:
        """The limits that such figures break, in words."""
        found = []
        if self.speedup is not None and milliseconds * self.speedup > base_ms * SLACK:
            speed = base_ms / max(milliseconds, 1e-12)
            found.append(f"--speedup {self.speedup:g} was not reached: the result is {speed:.2f} times as fast")
        if self.max_latency is not None and milliseconds > self.max_latency * SLACK:
            found.append(f"--max-latency {self.max_latency:g} was exceeded: one run takes {milliseconds:.3g} ms")
        if self.max_bytes is not None and size > float(self.max_bytes):
            found.append(f"--max-bytes {float(self.max_bytes):,.0f} was exceeded: the result has {size:,.0f} bytes")
        if self.max_macs is not None and macs > float(self.max_macs):
            limit = f"--max-macs {float(self.max_macs):,.0f}"
            found.append(f"{limit} was exceeded: one run takes {macs:,.0f} multiply-accumulates")
        return found


# ------------------------------------------------------------ texts made of it


def options() -> Iterator[tuple[Field[Any], Any, Help]]:
    """Every option: its field, its type and what is said of it, in order."""
    hints = get_type_hints(Request, include_extras=True)
    for f in fields(Request):
        kind, help_ = hints[f.name].__origin__, hints[f.name].__metadata__[0]
        yield f, kind, help_


def spelled(name: str) -> str:
    """The option on the command line of a field: `--max-drop`."""
    found = next((help_.flag for f, _, help_ in options() if f.name == name), "")
    return found or f"--{name.replace('_', '-')}"


def takes_request(function: Callable[..., Any]) -> Callable[..., Any]:
    """Decorator: the signature and the docstring of a function that passes keyword arguments on to `Request`."""
    signature = inspect.signature(function)
    own = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
    asked = [
        inspect.Parameter(f.name, inspect.Parameter.KEYWORD_ONLY, default=f.default, annotation=kind)
        for f, kind, _ in options()
    ]
    parameters = sorted([*asked, *own], key=lambda p: p.kind)
    function.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    lines = "\n".join(f"    {f.name}: {help_.text}" for f, _, help_ in options())
    # Python 3.13 and later take the indentation of a docstring away, earlier ones leave it.
    function.__doc__ = inspect.cleandoc(function.__doc__ or "").replace("    **asked: ...", lines)
    return function


def parse_seconds(text: str | float) -> float:
    """Seconds from `90`, `90s`, `10m` or `1h`, inf from `none`; UsageError for anything else."""
    if isinstance(text, (int, float)):
        return float(text)
    if text.strip() == "none":
        return math.inf
    found = re.fullmatch(r"\s*(\d+(?:\.\d*)?)\s*([a-z]*)\s*", text)
    if found is None or found[2] not in _SECONDS:
        raise UsageError(f"--budget is '{text}'; allowed: seconds, such as 90s, 10m, 1h, or none")
    return float(found[1]) * _SECONDS[found[2]]


def parse_amount(text: str | float | None, option: str) -> float | None:
    """A number from `1500000`, `1.5M`, `600kB` or `2MiB`; UsageError for anything else."""
    if text is None or isinstance(text, (int, float)):
        return None if text is None else float(text)
    found = re.fullmatch(r"\s*(\d+(?:\.\d*)?(?:e\d+)?)\s*([kmg]?)(i?)b?\s*", text.lower())
    if found is None or (found[3] and not found[2]):
        raise UsageError(f"{option} is '{text}'; allowed: a number, or such as 600k, 1.5MB, 2MiB, 3G")
    return float(found[1]) * (1024.0 if found[3] else 1000.0) ** _POWERS[found[2]]


__all__ = [
    "OBJECTIVES",
    "TRAINING",
    "Help",
    "Request",
    "options",
    "parse_amount",
    "parse_seconds",
    "spelled",
    "takes_request",
]
