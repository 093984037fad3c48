"""The stage that times the models of a run against each other, and keeps the best."""

from __future__ import annotations

import itertools

from lwgraph import ir
from lwgraph.calibrate.layer_shapes import layer_shapes
from lwgraph.executor import Executor
from lwgraph.measure import paired_latency
from lwgraph.measure.work import count
from lwgraph.optimizer.data import Inputs
from lwgraph.optimizer.goal import Goal
from lwgraph.optimizer.lean import make_lean, same_graph
from lwgraph.optimizer.target import MACS, TARGETS
from lwgraph.plan.plan import Plan
from lwgraph.progress import Progress
from lwgraph.report import Facts, Report, Stage

NOISE = 0.02  # a latency ratio within this of 1 is not a difference


class Measuring:
    """Times what became of one input model.

    Args:
        original: the input.
        executor: the target.
        goal: threads.
        report: gets the stages and notes.
        progress: called with (what, done, total).
    """

    def __init__(self, original: ir.Model, executor: Executor, goal: Goal, report: Report, progress: Progress) -> None:
        self.original, self.executor, self.goal = original, executor, goal
        self.report, self.progress = report, progress

    @property
    def measures(self) -> bool:
        """Whether the target is this machine."""
        return self.goal.target in TARGETS

    def keep_the_best(
        self, clean: ir.Model, result: ir.Model, plan: Plan, inputs: Inputs, stated: bool
    ) -> tuple[ir.Model, Plan]:
        """Time input, cleaned model and result against each other; fall back where a step did not help.

        What the user stated (passes, a plan) is kept all the same, and a note says what it cost.
        """
        for model in (clean, result):
            make_lean(model, self.original)
        models = {"input": self.original}
        if not same_graph(self.original, clean):
            models["cleaned"] = clean
        if not plan.empty:
            models["result"] = result
        if not self.measures:
            return self._unmeasured(models, plan, inputs, stated)
        runs = {name: self.executor.prepare(model) for name, model in models.items()}
        self.progress("timing", 0, 0)
        times = paired_latency(
            runs, inputs.probe, threads=self.goal.threads, progress=lambda d, t: self.progress("timing", d, t)
        )
        for name, model in models.items():
            speed, timing = times.speedup(name), times.timing(name)
            spread = (1 / speed.high, 1 / speed.low)
            self.report.stages.append(
                Stage(name, self._facts(model, inputs), 1e3 * timing.median, 1 / speed.median, spread)
            )
        names = list(models)
        kept = names[-1]
        for before, name in reversed(list(itertools.pairwise(names))):
            if kept != name:
                continue
            reason = self._worse(name, before)
            if reason and stated:
                self.report.notes.append(
                    f"the {name} model is {reason} than the {before} model; the options asked for it"
                )
            elif reason:
                self.report.notes.append(f"the {name} model is {reason} than the {before} model, which is kept instead")
                kept = before
        if kept == "input" and not stated:
            self.report.notes.append("nothing helped: the input is already as small and fast as lwgraph can make it")
        del self.report.stages[names.index(kept) + 1 :]
        return models[kept], plan if kept == "result" else Plan()

    def _unmeasured(
        self, models: dict[str, ir.Model], plan: Plan, inputs: Inputs, stated: bool
    ) -> tuple[ir.Model, Plan]:
        """For a target elsewhere: no times; of the models the last, unless it is larger or predicted to be slower."""
        names = list(models)
        for name, model in models.items():
            self.report.stages.append(Stage(name, self._facts(model, inputs)))
        before, after = plan.ms
        if "result" in models and not stated and after > before:
            names.remove("result")
            self.report.notes.append("the plan is predicted to be slower, so the cleaned model is kept")
        while len(names) > 1 and not stated and models_larger(self.report, names[-1], names[-2]):
            self.report.notes.append(
                f"the {names[-1]} model is larger than the {names[-2]} model, which is kept instead"
            )
            names.pop()
        figures = "" if (before, after) == (0.0, 0.0) else f": {before:.3f} ms before, {after:.3f} ms after"
        self.report.notes.append(
            f"speed was not measured but predicted, from prices measured on {self.goal.target}{figures}"
        )
        del self.report.stages[len(names) :]
        return models[names[-1]], plan if names[-1] == "result" else Plan()

    def _worse(self, name: str, before: str) -> str:
        """Whether a stage is "slower", beyond the noise of the measurement, "heavier" or "larger"; else empty.

        Of the target "macs" its work counts, not its time.
        """
        new, old = self.report.stage(name), self.report.stage(before)
        assert new.ratio is not None and old.ratio is not None and new.ratio_spread is not None
        if self.goal.target == MACS:
            if (new.facts.macs or 0) > (old.facts.macs or 0):
                return "heavier"
        elif new.ratio_spread[0] > old.ratio * (1 + NOISE):
            return "slower"
        return "larger" if models_larger(self.report, name, before) else ""

    def _facts(self, model: ir.Model, inputs: Inputs) -> Facts:
        counts = count(model, layer_shapes(model, inputs.probe[0], self.executor))
        return Facts(counts.nodes, counts.parameters, ir.size(model), counts.macs)


def models_larger(report: Report, name: str, before: str) -> bool:
    """Whether one stage's model has more bytes than another's."""
    return report.stage(name).facts.bytes > report.stage(before).facts.bytes


__all__ = ["NOISE", "Measuring"]
