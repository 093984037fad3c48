"""Holds every pass to its contract: the structure of the model, and its outputs on real or generated feeds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from lwgraph import ir, registry
from lwgraph.calibrate.generate import generate
from lwgraph.calibrate.generate import tried as described
from lwgraph.check import accept, verify
from lwgraph.contract import Contract
from lwgraph.errors import CheckError, LwgraphError
from lwgraph.executor import Array, Executor, Feeds
from lwgraph.measure.compare import Comparison, Difference, compare
from lwgraph.measure.sized_by_values import sized_by_values
from lwgraph.measure.tolerances import FINITE
from lwgraph.measure.variants import Variant, variants
from lwgraph.rewrite.base import Context, Pass
from lwgraph.rewrite.instrument import Instrument, Step

_VALUES_AT_ONCE = 32  # intermediate values held at once while the first that diverges is looked for


class Verify(Instrument):
    """Checks the structure and the outputs after each pass that changed something, within its contract.

    Each pass is compared with the model before that pass, not with the first one, so its own error is judged. The
    interface (names, types, order of inputs and outputs) must stay. A pass that reports no change must have made none.

    The inputs are those given and variants of them in batch, sizes, sign and scale; see `lwgraph.measure.variants`.
    Approximate passes are made for values like the given ones, so only these and their other sizes count for them;
    variants on which rounding of the inputs turns the outputs over count for exact passes alone.

    Args:
        executors: what runs the models; all must agree. None: `plain_executor()`.
        feeds: inputs; None: the first of the context's data, or generated ones.
        samples: how many feeds to use.
        numeric: False checks the structure only.
        approximate: False leaves how far an approximate pass may go to a judge that comes later: its outputs must then
            only keep their shapes and dtypes and be finite where they were; those that are as long as values say may
            get longer or shorter.
        vary: False takes the feeds as they are.
        each: False compares the outputs once, after the last pass, within the weakest contract of those that changed
            something: for passes that are trusted, and run again with each compared where this does not hold.
    """

    def __init__(
        self,
        executors: Sequence[Executor] | None = None,
        feeds: Sequence[Feeds] | None = None,
        *,
        samples: int = 2,
        numeric: bool = True,
        approximate: bool = True,
        vary: bool = True,
        each: bool = True,
    ) -> None:
        self.tried = [Variant(each) for each in list(feeds or [])[:samples]]
        self.samples, self.numeric, self.approximate, self.vary, self.each = samples, numeric, approximate, vary, each
        self._changed: list[Contract] = []
        self._executors = list(executors or [])
        self._generated = False
        self._resizable: frozenset[str] = frozenset()
        self._before: ir.Model | None = None
        self._results: list[list[dict[str, Array]]] | None = None  # results by executor, then by what was tried

    def begin(self, model: ir.Model, pipeline: Iterable[Pass], context: Context) -> None:
        """Check the model as it is given and choose the feeds."""
        accept(model)
        self._before = self._results = None
        self._resizable, self._changed = sized_by_values(model), []
        if self.numeric:
            self._executors = self._executors or [plain_executor()]
            given: Sequence[Feeds] = [each.feeds for each in self.tried if not each.what]
            given = given or context.feeds[: self.samples]
            self._generated = not given
            given = given or generate(model, self.samples, context.seed)
            more = variants(model, given, self._executors[0].prepare(model), context.seed) if self.vary else []
            self.tried = [*map(Variant, given), *more]
        if self.numeric and not self.each:
            self._results = [self._run(executor, model) for executor in self._executors]

    def assume(self, model: ir.Model, tried: Sequence[Variant], results: list[list[dict[str, Array]]]) -> None:
        """Start from `model` and its known outputs (by executor, then by feed), without running it."""
        self.tried = list(tried)
        self._before, self._results = ir.clone(model), results
        self._resizable = sized_by_values(model)

    def before(self, p: Pass, model: ir.Model, context: Context) -> None:
        """Keep the model and its outputs, unless they are known from the pass before."""
        if self._before is None:
            self._before = ir.clone(model)
        if self.numeric and self.each and self._results is None:
            self._results = [self._run(executor, model) for executor in self._executors]

    def after(self, step: Step, model: ir.Model, context: Context) -> None:
        """Reject a pass that broke the structure, the interface or its contract, or hides what it did."""
        p = step.spec
        assert self._before is not None
        if not step.count:
            if changed := ir.first_change(self._before, model):
                raise CheckError(f"pass '{p.name}' reports no change, but changed {changed}")
            return
        try:
            verify(model)
        except CheckError as error:
            raise CheckError(f"pass '{p.name}' left an invalid model: {error}") from error
        changed = interface_difference(self._before, model)
        if changed:
            raise CheckError(f"pass '{p.name}' changed the interface of the model: {changed}")
        self._changed.append(p.contract)
        if self.numeric and self.each:
            self._results = [self._compare(k, executor, p, model) for k, executor in enumerate(self._executors)]
        self._before = None

    def end(self, model: ir.Model, context: Context) -> None:
        """Compare the outputs, where that was not done after each pass."""
        if not self._changed or not self.numeric or self.each:
            return
        weakest = max(self._changed, key=list(Contract).index)
        for executor, before in zip(self._executors, self._results or (), strict=True):
            try:
                after = self._run(executor, model)
            except LwgraphError as error:
                raise CheckError(f"the passes left a model that {executor.name} cannot run: {error}") from error
            for tried, old, new in zip(self.tried, before, after, strict=True):
                if tried.counts(weakest) and not compare(old, new, weakest).ok:
                    raise CheckError(
                        f"the passes together broke their contract ({weakest.value}), run by {executor.name}"
                    )

    def failed(self, p: Pass, error: LwgraphError, context: Context) -> str:
        """What is known is of a model that may be gone."""
        self._before = None
        if self.each:
            self._results = None
        return ""

    def _compare(self, k: int, executor: Executor, p: Pass, model: ir.Model) -> list[dict[str, Array]]:
        assert self._results is not None
        try:
            after = self._run(executor, model)
        except LwgraphError as error:
            assert self._before is not None
            hint = _shared_change(self._before, model)
            raise CheckError(f"pass '{p.name}' left a model that {executor.name} cannot run: {error}{hint}") from error
        judged_later = p.contract is Contract.APPROXIMATE and not self.approximate
        for tried, old, new in zip(self.tried, self._results[k], after, strict=True):
            if not tried.counts(p.contract):
                continue
            if judged_later:
                found = compare(old, new, p.contract, tolerances=lambda dtype: FINITE, resizable=self._resizable)
            else:
                found = compare(old, new, p.contract)
            if not found.ok:
                raise CheckError(self._sentence(p, executor, model, found, tried))
        return after

    def _sentence(self, p: Pass, executor: Executor, model: ir.Model, found: Comparison, on: Variant) -> str:
        assert self._before is not None
        first = first_divergence(self._before, model, on.feeds, executor, p.contract) or found.first_failure
        contract = p.contract.value
        if p.contract is Contract.APPROXIMATE and self.approximate:
            contract = "without --data, an approximation may only change outputs a little; give it, or --unproven"
        words = f"pass '{p.name}' broke its contract ({contract}), run by {executor.name}: value {first}"
        if on.what:
            words += f"; on {on.what}"
        if self._generated and any(np.asarray(value).dtype.kind in "iub" for value in on.feeds.values()):
            words += f"; tried on {described([each.feeds for each in self.tried])}"
        return words

    def _run(self, executor: Executor, model: ir.Model) -> list[dict[str, Array]]:
        run = executor.prepare(model)
        return [run(each.feeds) for each in self.tried]


def plain_executor() -> Executor:
    """ONNX Runtime that computes an operator alike wherever it stands.

    Its own fusions, and the kernels it prefers for weights that are constant (prepacking), would round differently
    after a rewrite that is exact.
    """

    def configure(options: Any) -> None:
        options.add_session_config_entry("session.disable_prepacking", "1")

    return registry.executor("ort", optimize=False, session_options=configure)


def first_divergence(
    before: ir.Model, after: ir.Model, feeds: Feeds, executor: Executor, contract: Contract
) -> Difference | None:
    """The first value, in the order of `after`, that both models have and that differs beyond the contract.

    Values whose shape changed do not count: passes that change widths do that, and rightly. None when only the outputs'
    own names differ, when inner values may differ (an approximation), or when a runtime cannot show them.
    """
    if contract is Contract.APPROXIMATE:
        return None
    known = {v.name for node in before.graph for v in node.outputs}
    shared = [v.name for node in after.graph for v in node.outputs if v.name and v.name in known]
    for names in _chunks(shared):
        try:
            found = compare(executor.prepare(before, names)(feeds), executor.prepare(after, names)(feeds), contract)
        except LwgraphError:
            return None
        for difference in found.differences:
            if not difference.ok and not difference.reshaped:
                return difference
    return None


def interface_difference(before: ir.Model, after: ir.Model) -> str:
    """The change in the names, order or types of inputs and outputs, in words; empty if there is none.

    Weights among the inputs do not count before IR version 4: the format demanded them there.
    """
    inputs: Sequence[ir.Value] = before.graph.inputs
    if before.ir_version < 4 <= after.ir_version:
        inputs = [value for value in inputs if not value.is_initializer()]
    for what, old, new in (
        ("inputs", inputs, after.graph.inputs),
        ("outputs", before.graph.outputs, after.graph.outputs),
    ):
        names = [v.name for v in old], [v.name for v in new]
        if names[0] != names[1]:
            return f"its {what} were {names[0]} and are {names[1]}"
        for a, b in zip(old, new, strict=True):
            if a.type != b.type:
                return f"'{a.name}' was {a.type} and is {b.type}"
    return ""


def _shared_change(before: ir.Model, after: ir.Model) -> str:
    """The usual reason why a rewritten model does not run: a constant that several nodes share was changed for one."""
    for name, value in after.graph.initializers.items():
        old = before.graph.initializers.get(name)
        if old is None or ir.constant_shape(old) == ir.constant_shape(value) or len(value.consumers()) < 2:
            continue
        users = " and ".join(f"'{node.name}'" for node in value.consumers()[:2])
        return (
            f"; initializer '{name}', which nodes {users} share, had shape {list(ir.constant_shape(old) or ())} "
            f"and has {list(ir.constant_shape(value) or ())}"
        )
    return ""


def _chunks(names: list[str]) -> Iterator[list[str]]:
    for start in range(0, len(names), _VALUES_AT_ONCE):
        yield names[start : start + _VALUES_AT_ONCE]
