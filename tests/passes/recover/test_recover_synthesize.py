"""Distillation without data: inputs synthesized to match what BatchNormalizations, or a record, remember."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lwgraph import ir, registry
from lwgraph.errors import DataError, UsageError
from lwgraph.passes.recover import synthesize
from lwgraph.rewrite import Context, Pass
from tests.passes.recover.nets import convnet, damaged, inputs


def with_batch_norms() -> ir.Model:
    """The network with a BatchNormalization after each convolution that saw the inputs of `nets.inputs`."""
    model = convnet()
    for conv in [n for n in model.graph if n.op_type == "Conv"]:
        name = conv.outputs[0].name
        run = registry.executor("ort").prepare(model, [name])
        values = np.concatenate([run(f)[name] for f in inputs(64)])
        mean, variance = values.mean((0, 2, 3)), values.var((0, 2, 3))
        parts = [
            ir.add_initializer(model.graph, a.astype(np.float32), f"{conv.name}_{n}")
            for n, a in (("scale", np.sqrt(variance + 1e-5)), ("bias", mean), ("mean", mean), ("var", variance))
        ]
        users = list(conv.outputs[0].uses())
        node = ir.Node("", "BatchNormalization", [conv.outputs[0], *parts], name=f"{conv.name}_bn")
        node.outputs[0].name = f"{conv.name}_bn_out"
        node.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
        for user, index in users:
            user.replace_input_with(index, node.outputs[0])
        model.graph.insert_after(conv, node)
    return model


def test_recorded_moments_go_round(tmp_path: Path) -> None:
    model = convnet()
    found = synthesize.record(model, inputs(32), registry.executor("ort"))
    assert set(found) == {"c0", "c1", "c2", "y"}
    values = np.concatenate([registry.executor("ort").prepare(model, ["c1"])(f)["c1"] for f in inputs(32)])
    np.testing.assert_allclose(found["c1"][0], values.mean((0, 2, 3)), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found["c1"][1], values.var((0, 2, 3)), rtol=1e-4)
    synthesize.save(found, tmp_path / "moments.npz")
    again = synthesize.load(tmp_path / "moments.npz")
    assert all(np.array_equal(again[n][i], found[n][i]) for n in found for i in (0, 1))
    (tmp_path / "other.npz").write_bytes(b"nothing")
    with pytest.raises(DataError, match="no recorded moments"):
        synthesize.load(tmp_path / "other.npz")


def test_batch_norms_remember() -> None:
    assert set(synthesize.batch_norm_moments(with_batch_norms())) == {"c0", "c1", "c2"}
    assert synthesize.batch_norm_moments(convnet()) == {}


torch = pytest.importorskip("torch")


def test_synthesized_inputs_match() -> None:
    model = with_batch_norms()
    feeds, first, last = synthesize.synthesize(model, synthesize.batch_norm_moments(model), 32, steps=150)
    assert last < 0.1 * first
    values = registry.executor("ort").prepare(model, ["c1"])(feeds[0])["c1"]
    mean, variance = synthesize.batch_norm_moments(model)["c1"]
    assert np.abs(values.mean((0, 2, 3)) - mean).mean() < 0.2 * np.sqrt(variance.mean())
    with pytest.raises(DataError, match="none of the values"):
        synthesize.synthesize(model, {"elsewhere": (mean, variance)}, 4)


@pytest.mark.parametrize("recorded", [False, True])
def test_distill_without_data(recorded: bool, tmp_path: Path) -> None:
    teacher: Any = with_batch_norms()
    student = damaged(teacher, noise=0.2)
    for value in student.graph.initializers.values():  # a damaged variance may be negative
        ir.set_constant(value, np.abs(ir.constant(value)) if value.name.endswith("_var") else ir.constant(value))
    option = ""
    if recorded:
        synthesize.save(synthesize.record(teacher, inputs(64), registry.executor("ort")), tmp_path / "m.npz")
        option = f',recorded="{tmp_path / "m.npz"}"'
    context = Context(executor=registry.executor("ort"), teacher=teacher)

    def distance() -> float:
        runs = [registry.executor("ort").prepare(m) for m in (student, teacher)]
        a, b = (np.concatenate([run(f)["y"] for f in inputs(64, seed=9)]) for run in runs)
        return float(((a - b) ** 2).mean() / b.var())

    before = distance()
    text = f"distill{{minutes=0,steps=80,batch=16,precision=float32,synthetic=64{option}}}"
    assert Pass.parse(text).run(student, context) > 0
    assert distance() < 0.6 * before
    assert "no calibration data" in context.warnings[0] and "synthesized" in context.warnings[0]


def test_nothing_to_synthesize_from() -> None:
    teacher = convnet()
    with pytest.raises(UsageError, match="give --data"):
        Pass.parse("distill{steps=1}").run(damaged(teacher), Context(teacher=teacher))
