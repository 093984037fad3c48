"""Squares out of images: only of models from images to images, and the same square of all that belongs together."""

from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

torch = pytest.importorskip("torch")

from lwgraph import ir, registry  # noqa: E402
from lwgraph.calibrate.signature import batched_inputs, signature  # noqa: E402
from lwgraph.passes.recover import feeding  # noqa: E402
from lwgraph.passes.recover.crops import croppable, cut  # noqa: E402
from lwgraph.rewrite import Context, Pass  # noqa: E402

RNG = np.random.default_rng(0)
WEIGHT = (RNG.standard_normal((6, 3, 3, 3)) * 0.2).astype(np.float32)


def denoiser(size: Any = ("h", "w"), pooled: bool = False, scale: float = 1.0) -> ir.Model:
    """Conv-Relu-Conv: x (n, 3, h, w) -> y of the same size at half of the steps; or its mean."""
    node = helper.make_node
    nodes = [
        node("Conv", ["x", "w0"], ["c0"], "conv0", pads=[1] * 4, strides=[2, 2]), node("Relu", ["c0"], ["r0"], "relu0"),
        node("ConvTranspose", ["r0", "w1"], ["c1"], "conv1", strides=[2, 2]),
        node("GlobalAveragePool" if pooled else "Identity", ["c1"], ["y"], "end"),
    ]  # fmt: skip
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, *size])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(WEIGHT * scale, "w0"), numpy_helper.from_array(WEIGHT[..., :2, :2].copy(), "w1")],
    )
    return ir.load(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10))


def images(count: int, side: int = 32, seed: int = 0) -> list[dict[str, Any]]:
    rng = np.random.default_rng(seed)
    return [{"x": rng.standard_normal((1, 3, side, side)).astype(np.float32)} for _ in range(count)]


@pytest.mark.parametrize(
    ("model", "side", "size", "found"),
    [
        (denoiser(), 16, 32, True),
        (denoiser(), 0, 32, False),
        (denoiser(), 16, 30, False),
        (denoiser(pooled=True), 16, 32, False),
        (denoiser((32, 32)), 16, 32, False),
        (denoiser(("h", 32)), 16, 32, False),
    ],
)
def test_only_models_from_images_to_images(model: ir.Model, side: int, size: int, found: bool) -> None:
    inputs = signature(model)
    run = registry.executor("ort").prepare(model)
    names = croppable(side, inputs, batched_inputs(inputs), images(1, size)[0], [run])
    assert names == (("x",) if found else ())


def test_a_size_that_a_model_cannot_take_is_not_cut() -> None:
    from lwgraph.errors import DataError

    model = denoiser()
    inputs, run = signature(model), registry.executor("ort").prepare(model)

    def picky(feeds: Any) -> Any:
        if feeds["x"].shape[2] < 32:
            raise DataError("too small")
        return run(feeds)

    assert croppable(16, inputs, batched_inputs(inputs), images(1)[0], [picky]) == ()


def test_inputs_are_cut_at_the_same_place_each_row_at_its_own() -> None:
    x = torch.arange(2.0 * 40 * 40).reshape(2, 1, 40, 40)
    found = cut({"x": x, "y": x + 1, "sigma": torch.ones(1)}, ("x", "y"), 16, torch.Generator().manual_seed(0))
    assert found["x"].shape == (2, 1, 16, 16) and torch.equal(found["x"] + 1, found["y"])
    places = [(found["x"][i, 0, 0, 0] - x[i, 0, 0, 0]).item() for i in range(2)]
    assert places[0] != places[1]
    assert cut({"x": x[:, :, :16, :16]}, ("x",), 16, None)["x"].shape[2] == 16  # no larger than a square: whole


@pytest.mark.parametrize(("crop", "sides"), [(16, {16}), (0, {32})])
def test_distill_trains_on_squares_and_judges_whole_images(
    crop: int, sides: set[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = set()
    original = feeding.Feeder._feed

    def recorded(self: Any, *arguments: Any) -> Any:
        for fed in original(self, *arguments):
            seen.add(fed.feeds["x"].shape[2])
            assert fed.targets["y"].shape == fed.feeds["x"].shape[:1] + fed.targets["y"].shape[1:]
            yield fed

    monkeypatch.setattr(feeding.Feeder, "_feed", recorded)
    teacher, student = denoiser(), denoiser(scale=0.7)
    context = Context(executor=registry.executor("ort"), data=images(24), teacher=teacher)
    Pass.parse(f"distill{{minutes=0,steps=40,batch=8,rate=3e-3,crop={crop}}}").run(student, context)
    assert seen == sides
    assert context.gains[0].after < 0.5 * context.gains[0].before


def test_by_itself_it_compares_images_alone_and_steps_along_eigenvectors(monkeypatch: pytest.MonkeyPatch) -> None:
    from lwgraph.passes.recover.training import Trainer
    from tests.passes.recover.nets import convnet, damaged, inputs

    seen = []
    monkeypatch.setattr(
        Trainer, "run", lambda self: seen.append((self.objective.weights, self.settings.optimizer)) or self.progress
    )
    for teacher, student, data in (
        (denoiser(), denoiser(scale=0.7), images(8)),
        (convnet(), damaged(convnet()), inputs(16)),
    ):
        Pass.parse("distill{minutes=0,steps=1}").run(
            student, Context(executor=registry.executor("ort"), data=data, teacher=teacher)
        )
    assert seen == [({"mse": 1.0}, "soap"), ({"kl": 1.0, "features": 1.0}, "adam")]
