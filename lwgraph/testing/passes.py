"""check_pass: checks that a pass keeps the promises that the pipeline relies on."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from lwgraph import ir, registry
from lwgraph.arrays import Array
from lwgraph.calibrate.generate import generate
from lwgraph.errors import CheckError, LwgraphError
from lwgraph.executor import Executor, Feeds
from lwgraph.measure.variants import Variant, variants
from lwgraph.rewrite.base import Context, Contract, Pass
from lwgraph.rewrite.instrument import Step
from lwgraph.rewrite.instruments.verify import Verify, plain_executor
from lwgraph.rewrite.pipeline import Pipeline
from lwgraph.testing.models import random_model

_SAMPLES = 8


@dataclass
class Sample:
    """A model to try a pass on, with feeds and variants of them; what it gives on them is computed once for all."""

    model: ir.Model
    feeds: Sequence[Feeds] = ()
    name: str = "model"
    _outputs: dict[str, list[dict[str, Array]]] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        self.feeds = list(self.feeds) or list(generate(self.model, 2, seed=0))

    @functools.cached_property
    def tried(self) -> list[Variant]:
        """The feeds and their variants."""
        return [*map(Variant, self.feeds), *variants(self.model, self.feeds, plain_executor().prepare(self.model))]

    def outputs(self, executor: Executor) -> list[dict[str, Array]]:
        """The outputs by an executor, one dictionary for each of `tried`."""
        if executor.name not in self._outputs:
            run = executor.prepare(self.model)
            self._outputs[executor.name] = [run(each.feeds) for each in self.tried]
        return self._outputs[executor.name]


@functools.cache
def samples(count: int = _SAMPLES) -> tuple[Sample, ...]:
    """Random models, the same ones each time; every second one has its shapes recorded."""
    made = []
    for seed in range(count):
        model = random_model(seed, nodes=14)
        if seed % 2:
            ir.record_shapes(model)
        made.append(Sample(model, name=f"random model {seed}"))
    return tuple(made)


def check_pass(
    p: Pass,
    on: Iterable[Sample | ir.Model] | None = None,
    *,
    executors: Sequence[Executor] | None = None,
    new_context: Callable[[], Context] = Context,
) -> int:
    """Check a pass on many models.

    - *text*: its spelling reads back as itself, and so does its recipe;
    - *data*: tensors that other models share are not written to;
    - *structure*: what it leaves is a valid model (`lwgraph.check`), with the same inputs and outputs;
    - *contract*: the outputs are equal within the contract's tolerances, by every executor;
    - *count*: it returns 0 exactly when it changed nothing;
    - *determinism*: two runs give the same bytes;
    - *fixed point*: run again, it finds nothing to do (exact and rounding passes).

    Args:
        p: the pass.
        on: models, or samples, which remember their outputs; None: `samples()`.
        executors: what runs the models; None: ONNX Runtime without its own optimizations, and the reference with
            exact accumulation. Their names must differ.
        new_context: makes what the pass may use.

    Returns:
        the number of rewrites over all models; 0 means that nothing was tested.

    Raises:
        CheckError: naming the pass, the model and the promise.
    """
    _check_text(p)
    runners = list(executors or (plain_executor(), registry.executor("reference", precise=True)))
    total = 0
    for index, item in enumerate(samples() if on is None else on):
        sample = item if isinstance(item, Sample) else Sample(item, name=f"model {index}")
        try:
            total += _check_on(p, sample, runners, new_context)
        except LwgraphError as error:
            raise CheckError(f"{error} (on {sample.name})") from error
    return total


def _check_text(p: Pass) -> None:
    readers: dict[str, Callable[[], Pass]] = {
        "text": lambda: Pass.parse(str(p)),
        "recipe": lambda: Pipeline.from_recipe(Pipeline([p]).to_recipe()).passes[0],
    }
    for what, read in readers.items():
        try:
            back = read()
        except LwgraphError as error:
            raise CheckError(f"the {what} of pass '{p.name}' does not read back: {error}") from error
        if back != p:
            raise CheckError(f"the {what} of pass '{p.name}' reads back as {back!r}, should be {p!r}")


def _check_on(p: Pass, sample: Sample, runners: list[Executor], new_context: Callable[[], Context]) -> int:
    before = ir.fingerprint(sample.model)
    verify = Verify(runners)
    verify.assume(sample.model, sample.tried, [sample.outputs(runner) for runner in runners])
    model = ir.clone(sample.model)
    try:
        count = p.run(model, new_context())
    except LwgraphError:
        raise
    except Exception as error:
        raise CheckError(f"pass '{p.name}' failed: {type(error).__name__}: {error}") from error
    _same(p, ir.fingerprint(sample.model), before, "wrote into data that other models share: ", sample.model, sample)
    verify.after(Step(0, p, max(count, 1), 0.0), model, new_context())
    after = ir.fingerprint(model)
    if (count == 0) != (after == before):
        did = "changed the model" if count == 0 else "changed nothing"
        raise CheckError(f"pass '{p.name}' returned {count} but {did}")
    twin = ir.clone(sample.model)
    p.run(twin, new_context())
    _same(p, ir.fingerprint(twin), after, "is not deterministic: two runs differ: ", twin, Sample(model, sample.feeds))
    if p.contract is not Contract.APPROXIMATE:
        again = p.run(ir.clone(model), new_context())
        if again:
            raise CheckError(f"pass '{p.name}' does not reach a fixed point: run again, it did {again} more rewrites")
    return count


def _same(p: Pass, found: str, wanted: str, message: str, model: ir.Model, other: Sample) -> None:
    if found != wanted:
        from lwgraph.text import diff

        raise CheckError(f"pass '{p.name}' {message}{' '.join(str(diff(other.model, model)).split())[:200]}")
