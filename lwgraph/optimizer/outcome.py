"""What a whole search ended with: with the same model, data and options a second one would find the same.

Only what was chosen and what was learnt of the other plans is remembered. The chosen model is judged and proved anew;
where it does not score what it did, the metric is another one, and everything is searched again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from importlib.metadata import version
from typing import Any

from lwgraph import ir, registry
from lwgraph.cache import Rows, cache_path, facts_of
from lwgraph.optimizer.candidates import Candidates, Made
from lwgraph.optimizer.judge import Judge
from lwgraph.optimizer.making import Making
from lwgraph.optimizer.request import Request
from lwgraph.optimizer.setting import Setting
from lwgraph.plan.plan import Plan
from lwgraph.plan.price.price_table import processor
from lwgraph.plan.search.front import Candidate

OVER = "its share of the time was over"  # what a stage ends with that was not done by then
KIND = "outcomes-2"  # raise the number when the meaning of a row changes
# What was asked for that decides what is found; data and metric are told apart by what they give.
DECIDING = (
    "budget",
    "confidence",
    "max_bytes",
    "max_drop",
    "max_latency",
    "max_macs",
    "memory",
    "objective",
    "output_kind",
    "preset",
    "speedup",
    "target",
    "threads",
)


@dataclass(frozen=True, eq=False)
class Outcome:
    """The memory of one search.

    Args:
        rows: where it lies.
    """

    rows: Rows

    @staticmethod
    def of(setting: Setting, making: Making, judge: Judge) -> Outcome:
        """The memory of the search of a run, on one processor and with one set of plug-ins."""
        request, context = setting.request, setting.context
        facts = (
            *(version("lwgraph"), processor(), request.seed, request.trials),
            *(ir.fingerprint(setting.original), ir.fingerprint(making.clean)),
            *facts_of(setting.executor),
            *(f"{name}: {getattr(request, name)}" for name in DECIDING),
            *(f"{kind}: {' '.join(registry.names(kind))}" for kind in ("passes", "forms", "roles")),
            *(judge.metric.name, judge.base.value, judge.base.count, judge.max_drop),
        )
        each = [] if judge.base.samples is None else [{"samples": judge.base.samples}]
        path = cache_path(KIND, facts, context.data or [], setting.inputs.search, each)
        return Outcome(Rows(path, "the outcome is"))

    def keep(self, candidates: Candidates, setting: Setting) -> None:
        """Remember what was found."""
        standing, log = candidates.incumbent.candidate, setting.context
        self.rows.put(
            "outcome",
            {
                "base_ms": candidates.base_ms,
                "candidates": [_row(made) for made in candidates.all()],
                "standing": next(
                    (i for i, made in enumerate(candidates.all()) if made.candidate.key == getattr(standing, "key", 0)),
                    None,
                ),
                "warnings": list(log.warnings),
                "skipped": [[each.pass_name, each.place, each.reason] for each in log.skipped],
            },
        )

    def recall(self, candidates: Candidates, making: Making, setting: Setting) -> bool:
        """Take in what an earlier search found; False where there was none, or where it does not hold any more."""
        found = self.rows.get("outcome")
        if not isinstance(found, dict):
            return False
        for words in found["warnings"]:
            setting.context.warn(words)
        for refusal in found["skipped"]:
            setting.context.skip(*refusal)
        clock = candidates.base_ms / found["base_ms"]  # the machine may be slower or faster than it was
        known = [_made(row, making, clock) for row in found["candidates"]]
        standing = found["standing"]
        if standing is not None and known[standing].model is None:
            return False  # no longer in the cache
        return candidates.recall(known, None if standing is None else known[standing])


def worth_keeping(request: Request, outcomes: Sequence[str], failures: Sequence[object], stopped: bool) -> bool:
    """Whether a search was a whole one, whose outcome another one would not better.

    Args:
        request: training takes as long as it is given, and is not repeated exactly; where the search ends after some
            passes over the data, its outcome is what it had found by then.
        outcomes: of the stages.
        failures: what failed on the way.
        stopped: whether the user ended it.
    """
    ended = ("done", OVER) if request.budget is None else ("done",)
    whole = all(each in ended or each.startswith("nothing to do") for each in outcomes)
    return whole and not failures and not stopped and not request.distill


def _row(made: Made) -> dict[str, Any]:
    candidate, plan = made.candidate, made.candidate.plan
    assert plan is not None
    return {
        **{f.name: getattr(candidate, f.name) for f in fields(Candidate) if f.name != "plan"},
        "plan": plan.to_json(),
        "size": made.bytes,
    }


def _made(row: dict[str, Any], making: Making, clock: float) -> Made:
    known = {f.name: row[f.name] for f in fields(Candidate) if f.name != "plan" and f.name in row}
    candidate = Candidate(**known | {"choice": tuple(row["choice"])}, plan=Plan.from_json(row["plan"]))
    taken = candidate.measured_ms
    candidate = replace(
        candidate,
        predicted_ms=clock * candidate.predicted_ms,
        measured_ms=None if taken is None else clock * taken,
    )
    return making.kept(candidate) or Made(candidate, None, size=row["size"])


__all__ = ["OVER", "Outcome", "worth_keeping"]
