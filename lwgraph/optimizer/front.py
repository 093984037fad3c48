"""The front of a run: at most eight plans, "points lost, speed, size", any of which can be had at once."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

from lwgraph import ir
from lwgraph.cache import Rows, cache_folder
from lwgraph.errors import UsageError
from lwgraph.executor import Executor, Feeds
from lwgraph.measure import paired_latency
from lwgraph.measure.metrics import HIGHEST_DB
from lwgraph.measure.promise import BROKEN, KEPT, OPEN, amount, worst
from lwgraph.optimizer.candidates import Candidates, Made
from lwgraph.optimizer.judge import ROUNDING, Judge
from lwgraph.optimizer.last_look import LastLook
from lwgraph.optimizer.prove import Proof, demand
from lwgraph.plan.plan import Plan

MOST = 8
FEWEST = 10  # runs of each model that timing takes at least
FOLDER = "fronts-3"  # raise the number when the format changes


@dataclass(frozen=True)
class FrontRow:
    """One plan of a front.

    Attributes:
        number: by which it is picked; 1 is the fastest.
        drop: loss of the metric on the judged data, in its own unit.
        speed: over the input, of models that were timed in turns; None where that is not settled, or was not done.
        bytes: of the model.
        chosen: whether it is the one that was delivered.
        verdict: on all that was promised: KEPT, BROKEN or OPEN.
        why: what the verdict follows from, one line.
        interval: of the speed, 95 %.
        said: the speed as it is told: that, or that it is not settled, and why; "" where it was not timed.
    """

    number: int
    drop: float
    speed: float | None
    bytes: int
    chosen: bool
    verdict: str = OPEN
    why: str = ""
    interval: tuple[float, float] | None = None
    said: str = ""


def front_rows(candidates: Candidates) -> tuple[list[FrontRow], list[Made]]:
    """At most MOST judged plans, fastest first, each with less loss than all faster ones; and what was made of each.

    Of more, those that are kept are spread evenly, the first, the last and the one that stands among them.
    """
    standing = candidates.incumbent.candidate
    judged = [made for made in candidates.all() if made.candidate.judged is not None]
    mine = next((made for made in judged if standing is not None and made.candidate.key == standing.key), None)
    kept: list[Made] = []
    best = -math.inf
    for made in sorted(judged, key=lambda m: (candidates.amount(m.candidate), -(m.candidate.judged or 0.0))):
        score = made.candidate.judged or 0.0
        if score > best or made is mine:  # which may have won a race against one that was timed as faster
            kept.append(made)
            best = max(best, score)
    if len(kept) > MOST:
        wanted = {round(i * (len(kept) - 1) / (MOST - 1)) for i in range(MOST)}
        at = 0 if mine is None else kept.index(mine)
        if at not in wanted:
            wanted.remove(min(wanted - {0, len(kept) - 1}, key=lambda i: abs(i - at)))
            wanted.add(at)
        kept = [kept[i] for i in sorted(wanted)]
    base = candidates.judge.base.value
    rows = [
        FrontRow(
            number,
            base - (made.candidate.judged or 0.0),
            None,
            made.bytes,
            made is mine,
        )
        for number, made in enumerate(kept, 1)
    ]
    return rows, kept


def with_speeds(
    rows: Sequence[FrontRow],
    made: Sequence[Made],
    source: ir.Model,
    executor: Executor,
    feeds: Sequence[Feeds],
    *,
    threads: int,
    seconds: float,
) -> list[FrontRow]:
    """The rows with their speeds over the input, all models timed in turns; as they are where there is no time for it.

    Args:
        rows, made: see `front_rows`.
        source: the input model.
        executor: the target.
        feeds: to time on.
        threads: of the runtime.
        seconds: of timing, at most about.
    """
    taken = [each.candidate.measured_ms for each in made if each.candidate.measured_ms is not None]
    if len(rows) < 2 or len(taken) < len(made) or FEWEST * 2 * sum(taken) > 1e3 * seconds:
        return list(rows)
    models = {row.number: each.model for row, each in zip(rows, made, strict=True) if each.model is not None}
    runs = {str(number): executor.prepare(model) for number, model in {0: source, **models}.items()}
    times = paired_latency(runs, feeds, threads=threads, seconds=seconds)
    found = {number: times.speedup(str(number)) for number in models}
    return [
        row
        if (it := found.get(row.number)) is None
        else replace(row, speed=it.told, interval=it.interval, said=it.text)
        for row in rows
    ]


def with_verdicts(
    rows: Sequence[FrontRow], made: Sequence[Made], candidates: Candidates, last: LastLook | None
) -> list[FrontRow]:
    """The rows with what is known of the promises.

    Of plans that the last look was had at, that decides; of the others the samples by which all candidates were
    compared, corrected for the number of these. A speed or a size that was asked for counts, too.

    Args:
        rows, made: see `front_rows`; with speeds, where these were measured.
        candidates: that they are of.
        last: the last look; None: what the samples of comparison say counts for all.
    """
    judge, request, found = candidates.judge, candidates.request, []
    for row, each in zip(rows, made, strict=True):
        verdict, why = KEPT, ""
        if candidates.floor is not None:
            told = None if last is None else last.known(each.model)
            if told is None and each.score is not None:
                told = judge.verdict(each.score, request.confidence)
            verdict, why = (OPEN, "it was not judged on all samples") if told is None else (told.verdict, told.text)
            if not each.candidate.accepted and verdict == KEPT:
                verdict, why = BROKEN, "it failed a check"
        if request.limited:
            base_ms, known = candidates.base_ms, each.candidate
            taken = known.predicted_ms if known.measured_ms is None else known.measured_ms
            ratios = (taken / base_ms,) * 2 if row.interval is None else (1 / row.interval[1], 1 / row.interval[0])
            limits = request.judge_limits(ratios, base_ms, row.bytes, known.macs)
            verdict, why = worst((verdict, why), limits)
        found.append(replace(row, verdict=verdict, why=why))
    return found


def alternatives(rows: Sequence[FrontRow], judge: Judge) -> list[str]:
    """What the promise costs, and what half and twice of it would give, of what was looked at: a line each.

    Losses are those on the samples by which candidates were compared.
    """
    limits = {"": judge.max_drop}
    for words, factor in (("half of that", 0.5), ("twice that", 2.0)):
        limits[words] = judge.max_drop + 10 * math.log10(factor) if judge.near else factor * judge.max_drop
    lines = []
    for words, most in limits.items():
        best = next((row for row in rows if row.drop <= most + ROUNDING), None)
        gives = "nothing faster" if best is None else f"plan {best.number}"
        if best is not None and best.speed is not None:
            gives += f", {best.speed:.2f} times the speed"
        promise = f"at least {HIGHEST_DB - most:.3g} dB" if judge.near else f"at most {amount(most, judge.metric.unit)}"
        option = f"--max-drop {most:.4g}"
        stated = option if judge.stated else "the default"
        lines.append(f"{promise} ({f'{words}: {option}' if words else stated}): {gives}")
    return lines


def keep_front(source: ir.Model, rows: Sequence[FrontRow], made: Sequence[Made], models: Path) -> str:
    """Remember a front for `pick`; why it is not remembered, "" when it is.

    Args:
        source: the input model.
        rows, made: see `front_rows`.
        models: the folder of the cache in which the models lie.
    """
    memory = _memory(source)
    for row, each in zip(rows, made, strict=True):
        plan = each.candidate.plan
        assert plan is not None
        memory.put(str(row.number), {**asdict(row), "plan": plan.to_json(), "models": str(models)})
    memory.put("count", len(rows))
    return memory.warning


def numbers(source: ir.Model) -> range:
    """The plans that `pick` gives of this model; UsageError where there are none."""
    count = _memory(source).get("count")
    if not count:
        raise UsageError("no front of this model is in the cache; run lwgraph optimize with --data first")
    return range(1, int(count) + 1)


def pick(
    source: ir.Model, number: int, executor: Executor, reference: Executor, feeds: Sequence[Feeds]
) -> tuple[FrontRow, ir.Model]:
    """One plan of the last run's front and its model, proved anew.

    Args:
        source: the input model of that run.
        number: of the plan.
        executor: the target.
        reference: the second executor.
        feeds: inputs to prove it on.

    Raises:
        UsageError: there is no such front or plan, or its model is no longer in the cache.
        CheckError: the model does not hold what is checked.
    """
    row, model = read(source, number)
    prove(source, number, model, executor, reference, feeds)
    return row, model


def prove(
    source: ir.Model, number: int, model: ir.Model, executor: Executor, reference: Executor, feeds: Sequence[Feeds]
) -> None:
    """Raise CheckError where the model of a plan does not hold what is checked; arguments as for `pick`."""
    checks, _ = Proof(source, executor, reference, feeds, judged=True).checks(model, exact=False)
    demand(checks, f"plan {number}")


def read(source: ir.Model, number: int) -> tuple[FrontRow, ir.Model]:
    """One plan of the last run's front and its model, as they are in the cache; UsageError where they are not."""
    memory, known = _memory(source), numbers(source)
    row = memory.get(str(number))
    if row is None or number not in known:
        raise UsageError(f"there is no plan {number}; allowed: 1 to {len(known)}, as lwgraph optimize listed them")
    plan = Plan.from_json(row["plan"])
    path = Path(row["models"], f"{hashlib.sha256(plan.says().encode()).hexdigest()[:32]}.onnx")
    if not path.is_file():
        raise UsageError(
            f"the model of plan {number} is no longer in the cache; "
            "run lwgraph optimize again, or carry the plan out with lwgraph plan apply"
        )
    return FrontRow(**{f.name: row[f.name] for f in fields(FrontRow)}), ir.load(path)


def _memory(source: ir.Model) -> Rows:
    return Rows(cache_folder() / FOLDER / f"{ir.fingerprint(source)}.json", "the front is")


__all__ = [
    "MOST",
    "FrontRow",
    "alternatives",
    "front_rows",
    "keep_front",
    "numbers",
    "pick",
    "prove",
    "read",
    "with_speeds",
    "with_verdicts",
]
