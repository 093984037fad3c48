"""Checks a model against the original in two executors that share no code."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lwgraph import ir
from lwgraph.check import verify
from lwgraph.contract import Contract
from lwgraph.errors import CheckError, ModelError
from lwgraph.executor import Executor, Feeds, Run, as_written
from lwgraph.failures import say
from lwgraph.flat import flat
from lwgraph.ir.inference import inferred_types
from lwgraph.measure import compare_runs
from lwgraph.measure.tolerances import tolerance
from lwgraph.optimizer.prove_integers import quantizes, same_integers
from lwgraph.report import Check
from lwgraph.rewrite.instruments.verify import interface_difference


def runs_soundly(model: ir.Model, executor: Executor, feeds: Sequence[Feeds]) -> bool:
    """Run the original once per feed; whether outputs hold NaN, as some models say that there is no value.

    Raises:
        ModelError: an output is nothing but NaN: it could not be compared.
        DataError, ModelError: the runtime refuses the model or the data.
    """
    run, holes = executor.prepare(model), False
    for index, feed in enumerate(feeds):
        for name, array in flat(run(feed)).items():
            if array.dtype.kind != "f" or not (missing := np.isnan(array)).any():
                continue
            if missing.all():
                what = f"output '{name}' of the input model is nothing but NaN on sample {index}"
                if (fault := _nan_constant(model, executor, feed)) is not None:
                    raise ModelError(f"{what}, and {fault}; mend the model: no input has another answer")
                raise ModelError(
                    f"{what}; a model that computes that cannot be verified; give --data with inputs that it has an "
                    "answer to"
                )
            holes = True
    return holes


def _nan_constant(model: ir.Model, executor: Executor, feed: Feeds) -> str | None:
    """What says that a constant, or what is computed from constants alone, holds NaN; None where none does."""
    free = {id(value) for value in model.graph.inputs if value.name not in model.graph.initializers}
    read: dict[str, ir.Value] = {}  # by what depends on the inputs
    for node in model.graph:
        inputs = [value for value in node.inputs if value is not None]
        if any(id(value) in free for value in inputs) or any(ir.subgraphs_of(node)):
            free.update(map(id, node.outputs))
            read |= {value.name: value for value in inputs if value.name and id(value) not in free}
    read |= {value.name: value for value in model.graph.outputs if value.name and id(value) not in free}
    computed = [name for name, value in read.items() if ir.constant_tensor(value) is None]
    arrays = executor.prepare(model, computed)(feed) if computed else {}
    for name, value in read.items():
        array = np.asarray(arrays[name] if name in arrays else ir.constant(value))
        if array.dtype.kind == "f" and (missing := int(np.isnan(array).sum())):
            return f"constant '{name}' holds {missing} NaN of {array.size} values"
    return None


def same_outputs(
    original: ir.Model, rewritten: ir.Model, executor: Executor, feeds: Sequence[Feeds], contract: Contract, what: str
) -> Check:
    """Whether both models agree within a contract, on every feed, in one executor."""
    found = compare_runs(_answers(executor, original, feeds), executor.prepare(rewritten), feeds, contract)
    return Check(what, executor.name, contract.name.lower(), found.ok, str(found))


def same_in_both(model: ir.Model, target: Executor, reference: Executor, feeds: Sequence[Feeds], what: str) -> Check:
    """Whether two executors compute the same from one model: what the target runs is what the graph says.

    A quantized model is compared grid by grid: see `prove_integers`. The target runs without liberties of its own where
    it can (`AsWritten`). Where the model computes in 16 bits, floats may differ as 16-bit ones do.
    """
    plain = as_written(target)
    if quantizes(model):
        return same_integers(model, plain, reference, feeds)
    narrow = _narrowest(model)
    found = compare_runs(
        _answers(reference, model, feeds),
        plain.prepare(model),
        feeds,
        Contract.ROUNDING,
        tolerances=None
        if narrow is None
        else lambda dtype: tolerance(Contract.ROUNDING, narrow if dtype.kind == "f" else dtype),
    )
    return Check(what, f"{reference.name} and {target.name}", "rounding", found.ok, str(found))


def _answers(executor: Executor, model: ir.Model, feeds: Sequence[Feeds]) -> Run:
    """What gives a model's outputs on the feeds, in their order, once: a session may hold a copy of all weights."""
    run = executor.prepare(model)
    outputs = iter([run(feed) for feed in feeds])
    return lambda feed: next(outputs)


@dataclass(frozen=True)
class Proof:
    """What is held against a result: its structure, and its outputs in two executors that share no code.

    Attributes:
        original: the input model.
        executor: the target.
        reference: the second executor.
        feeds: one of them is run.
        judged: whether something else judges what approximations lose: data, or a metric. Where nothing does, results
            are held to the table's tolerances.
    """

    original: ir.Model
    executor: Executor
    reference: Executor
    feeds: Sequence[Feeds]
    judged: bool

    def checks(self, model: ir.Model, exact: bool) -> tuple[list[Check], str]:
        """What was checked, and why the second executor could not be asked ("" when it could).

        Args:
            model: the result.
            exact: whether all that was done keeps the outputs, to rounding.

        Raises:
            LwgraphError: the target cannot run the model.
        """
        feeds, what = self.feeds[:1], "outputs equal the input model's"
        contract = Contract.ROUNDING if exact else Contract.APPROXIMATE
        against = exact or not self.judged
        checks = [sound(model, self.original)]
        if against:
            checks.append(same_outputs(self.original, model, as_written(self.executor), feeds, contract, what))
        try:
            if against:
                checks.append(same_outputs(self.original, model, self.reference, feeds, contract, what))
            else:
                checks.append(same_in_both(model, self.executor, self.reference, feeds, "both executors agree"))
        except Exception as error:  # a second executor that cannot run the model says nothing against it
            return checks, f"no second executor verified the result: {say(error)}"
        return checks, ""


def demand(checks: Sequence[Check], what: str = "the result") -> None:
    """CheckError for the first check that failed, if any."""
    for check in checks:
        if not check.ok:
            raise CheckError(f"{what} failed a check ({check.what}, {check.executor}): {check.detail}")


def _narrowest(model: ir.Model) -> str | None:
    """The 16-bit type that nodes compute in, if any; converting constants does not count.

    Types that the model does not record are inferred.
    """
    inferred = {name: kind.tensor_type.elem_type for name, kind in inferred_types(model).items()}
    kinds = {
        value.dtype or ir.DataType(inferred.get(value.name or "", 0))
        for scope in ir.scopes(model)
        for node in scope
        for value in node.outputs
        if not (ir.operator(node) == "Cast" and ir.is_constant(node.inputs[0]))
    }
    for dtype in (ir.DataType.BFLOAT16, ir.DataType.FLOAT16):
        if dtype in kinds:
            return dtype.name.lower()
    return None


def sound(model: ir.Model, original: ir.Model) -> Check:
    """The structural invariants, and that the model's face is the original's: input and output names, order, types."""
    detail = "the graph is valid, and its inputs and outputs are the original's"
    ok = True
    try:
        verify(model)
        changed = interface_difference(original, model)
        if changed:
            raise CheckError(changed)
    except CheckError as error:
        ok, detail = False, str(error)
    what = "the graph is valid, with the inputs and outputs of the input model"
    return Check(what, "structural verifier", "exact", ok, detail)


__all__ = ["Proof", "demand", "runs_soundly", "same_in_both", "same_outputs", "sound"]
