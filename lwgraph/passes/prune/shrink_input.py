"""shrink-input: the network sees its images at a lower resolution."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np

from lwgraph import ir
from lwgraph.calibrate import generate
from lwgraph.errors import LwgraphError, UsageError, did_you_mean
from lwgraph.executor import Executor, Feeds
from lwgraph.failures import say
from lwgraph.rewrite import Context, Contract, Pass
from lwgraph.rewrite.base import Skip

_OPSET = 11  # of Resize with coordinates as pictures are resized
_CHANNELS = 4  # of a picture, at most
_LEAST = 8  # rows and columns that a smaller picture has, at least
_SIZES = ("Shape", "Size")  # operators that read how large a picture is, and not the picture


@dataclass(frozen=True)
class ShrinkInput(Pass):
    """Shrink the images that go into the network; the model takes the same images as before.

    A picture of `scale` times the rows and columns takes convolutions `scale`^2 of the time. Whole factors are averaged
    (AveragePool), what is left between 1 and 2 is interpolated (Resize, linear), so that no pixel is passed over. What
    comes behind must give outputs of the same shapes, which is tried; a network that cannot stays as it is.

    Sources: the resolution multiplier of MobileNets (Howard et al. 2017, section 3.4), EfficientNet (Tan, Le 2019,
    section 3.2), Once-for-All (Cai, Gan, Wang, Zhang, Han 2020, section 3.2).
    """

    name: ClassVar[str] = "shrink-input"
    contract: ClassVar[Contract] = Contract.APPROXIMATE

    scale: Annotated[float, "rows and columns that are left of an image, as a share"] = 0.75
    inputs: Annotated[tuple[str, ...], "names of the inputs; none: all that are images"] = ()

    def __post_init__(self) -> None:
        self.check_option("scale", 0 < self.scale < 1, self.scale, "between 0 and 1")

    def run(self, model: ir.Model, context: Context) -> int:
        """Rewrite in place; the number of inputs that were shrunk: all, or none.

        Raises:
            UsageError: an input that the model does not have, or that holds no images.
        """
        try:
            pictures = self._pictures(model)
            feed, executor = _feed(model, context), context.executor or context.evaluator()
            wanted = _shapes(model, feed, executor)
            smaller = _first(
                [_Shrinker(model, pictures, self.scale, apart) for apart in (False, True)], wanted, feed, executor
            )
        except Skip as reason:
            context.skip(self.name, model.graph.name or "the model", str(reason))
            return 0
        ir.replace_contents(model, smaller)
        return len(pictures)

    def _pictures(self, model: ir.Model) -> list[str]:
        """The names of the inputs to shrink."""
        known = {str(value.name): _refusal(value) for value in model.graph.inputs}
        for name in self.inputs:
            if name not in known:
                raise UsageError(
                    f"option 'inputs' names '{name}', which the model does not have{did_you_mean(name, known)}"
                )
            if known[name]:
                raise UsageError(f"option 'inputs' names '{name}', but {known[name]}")
        found = list(self.inputs) or [name for name, reason in known.items() if not reason]
        if not found:
            raise Skip(next(iter(known.values()), "it has no input"))
        if model.graph.opset_imports.get("", 1) < _OPSET:
            raise Skip(f"Resize needs opset {_OPSET}; the model has {model.graph.opset_imports.get('', 1)}")
        for value in model.graph.inputs:
            if value.name in found:
                small = [n for n in _sides(value) if n is not None and round(n * self.scale) < _LEAST]
                if small:
                    raise Skip(f"'{value.name}' of {small[0]} rows or columns would have fewer than {_LEAST}")
        return found


class InputShrinker:
    """The role `shrinks-inputs`; see `lwgraph.plan.roles.ShrinksInputs`."""

    scales: Sequence[float] = (0.875, 0.75, 0.625, 0.5)

    def shrunk(self, scale: float) -> ShrinkInput:
        """See `ShrinksInputs.shrunk`."""
        return ShrinkInput(scale)


@dataclass(frozen=True)
class _Shrinker:
    """Makes the smaller network.

    Attributes:
        model: it is not changed.
        pictures: names of inputs.
        scale: of rows and columns.
        apart: whether what reads sizes goes on reading those of the whole images.
    """

    model: ir.Model
    pictures: list[str]
    scale: float
    apart: bool

    def made(self) -> ir.Model:
        """A copy of the model."""
        copy = ir.clone(self.model)
        for node in copy.graph:
            for value in node.outputs:
                if not value.is_graph_output():
                    value.shape = None
        for value in copy.graph.inputs:
            if value.name in self.pictures:
                self._shrink(copy.graph, value)
        ir.record_shapes(copy)
        return copy

    def _shrink(self, graph: ir.Graph, picture: ir.Value) -> None:
        users = [(node, at) for node, at in picture.uses() if not (self.apart and ir.operator(node) in _SIZES)]
        sides, value, made = _sides(picture), picture, list[ir.Node]()
        factor = int(1 / self.scale + 1e-9)
        while factor > 1 and any(n is not None and n % factor for n in sides):
            factor -= 1
        if factor > 1:
            pooled = ir.make_node("AveragePool", [value], {"kernel_shape": [factor] * 2, "strides": [factor] * 2})
            value, made = pooled.outputs[0], [pooled]
        scales = [_scale(n if n is None else n // factor, self.scale * factor, n, self.scale) for n in sides]
        if any(scale < 1 for scale in scales):
            told = ir.add_initializer(graph, np.array([1, 1, *scales], np.float32), f"{picture.name}_scales")
            nothing = ir.add_initializer(graph, np.array([], np.float32), f"{picture.name}_roi")
            kind = {"mode": "linear", "coordinate_transformation_mode": "half_pixel"}
            resized = ir.make_node("Resize", [value, nothing, told], kind)
            value, made = resized.outputs[0], [*made, resized]
        for node in made:
            node.name = ir.fresh_name(graph, f"{picture.name}/{node.op_type.lower()}")
            node.outputs[0].name = ir.fresh_name(graph, f"{picture.name}/smaller")
            node.outputs[0].type = picture.type
        assert picture.shape is not None
        left = [None if n is None else int((n // factor) * s) for n, s in zip(sides, scales, strict=True)]
        value.shape = ir.Shape([*list(picture.shape)[:2], *left])
        graph.insert_before(graph[0], made)
        for node, at in users:
            node.replace_input_with(at, value)


def _first(shrinkers: list[_Shrinker], wanted: dict[str, tuple[int, ...]], feed: Feeds, executor: Executor) -> ir.Model:
    """The first of the networks that runs and gives outputs of the shapes that are wanted; Skip where none does."""
    reasons = []
    for shrinker in shrinkers:
        smaller = shrinker.made()
        try:
            found = _shapes(smaller, feed, executor)
        except LwgraphError as error:
            reasons.append(f"the smaller image does not fit what follows: {say(error)}")
            continue
        wrong = [name for name, shape in wanted.items() if found[name] != shape]
        if not wrong:
            return smaller
        before, after = wanted[wrong[0]], found[wrong[0]]
        reasons.append(f"output '{wrong[0]}' would have shape {list(after)} instead of {list(before)}")
    raise Skip(reasons[0])


def _refusal(value: ir.Value) -> str:
    """Why an input holds no images; "" where it does."""
    shape = None if value.shape is None else [d if isinstance(d, int) else None for d in value.shape]
    if value.dtype not in (ir.DataType.FLOAT, ir.DataType.FLOAT16):
        return f"input '{value.name}' holds no floats"
    if shape is None or len(shape) != 4 or shape[1] is None or not 1 <= shape[1] <= _CHANNELS:
        return f"input '{value.name}' is no batch of images with 1 to {_CHANNELS} channels first"
    return ""


def _sides(picture: ir.Value) -> list[int | None]:
    """Rows and columns; None where the model leaves them open."""
    assert picture.shape is not None
    return [d if isinstance(d, int) else None for d in list(picture.shape)[2:]]


def _scale(size: int | None, scale: float, whole: int | None, whole_scale: float) -> float:
    """What Resize takes to make the wanted size of `size`; 1 where none is needed.

    It is not less than was asked for in 32 bits, either, so that a product that is a whole number keeps to it.
    """
    if size is None or whole is None:
        return 1.0 if math.isclose(scale, 1) else float(np.nextafter(np.float32(scale), np.float32(2)))
    wanted = min(round(whole * whole_scale), size)
    found = np.float32(wanted / size)
    while size * float(found) < wanted:
        found = np.nextafter(found, np.float32(2))
    return float(found)


def _feed(model: ir.Model, context: Context) -> Feeds:
    return next(iter(context.feeds), None) or generate(model, 1, context.seed, executor=context.executor)[0]


def _shapes(model: ir.Model, feed: Feeds, executor: Executor) -> dict[str, tuple[int, ...]]:
    """Of the outputs."""
    return {name: np.shape(array) for name, array in executor.prepare(model)(feed).items()}


__all__ = ["InputShrinker", "ShrinkInput"]
