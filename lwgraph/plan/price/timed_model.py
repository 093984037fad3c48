"""The small models in which a layer is timed: with neighbours that keep the runtime's layout as in the network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lwgraph import ir
from lwgraph.errors import LwgraphError
from lwgraph.executor import Executor, Feeds, Kernel, Run
from lwgraph.layers.emit import Emitter
from lwgraph.layers.site import Site
from lwgraph.layers.substitute import Build, original, small_model
from lwgraph.measure.kernels import is_integer_kernel
from lwgraph.plan.precision import small_dynamic_model, small_integer_model

CLIP_BY_INPUTS = 11  # the opset from which on bounds are inputs


class TimedModels:
    """Makes the models for one layer at one input shape, ready to run.

    In floats: x -> MaxPool 1x1 -> layer -> its activation -> GlobalMaxPool; the pools keep a blocked layout alive.
    In integers there is no pool before, but a 1x1 depthwise convolution before and after, so that activations lie
    between integer layers as they do in a network; `relays` are the same without the layer. The first layer of a
    network has none before: bringing the input into integers is a part of its price.

    Args:
        executor: what runs them.
        site: the layer.
        shape: of its input.
    """

    def __init__(self, executor: Executor, site: Site, shape: Sequence[int]) -> None:
        self.executor, self.site, self.shape = executor, site, tuple(shape)
        self.opset = ir.opset(site.node)
        random = np.random.default_rng(0)
        self.feeds: Feeds = {"x": (random.random(self.shape, np.float32) - 0.5).astype(site.dtype)}
        small = tuple(min(d, _least(site, axis)) if axis > 1 else d for axis, d in enumerate(self.shape))
        self._calibration = {"x": random.standard_normal(small if site.kernel else self.shape).astype(site.dtype)}
        self._pooled = len(site.kernel) in (1, 2, 3)

    def floats(self, build: Build) -> Run:
        """The layer in floats; raises ModelError where the runtime cannot run it."""
        return self.executor.prepare(small_model(self.site, self._between(build), self.shape, self.opset))

    def empty(self) -> Run:
        """The float model without the layer."""
        return self.floats(lambda op, x: x)

    def integers(self, build: Build) -> Run | None:
        """The layer in integers; None where the target has no integer kernel for it."""
        return self._integers(self._relayed(build))

    def dynamic(self, build: Build) -> Run | None:
        """The layer in integers whose grid is taken as the model runs; None where the target has no such kernel.

        What it reads and gives are floats.
        """
        try:
            model = small_dynamic_model(self.site, self._between(build), self.shape, self.opset, self.executor)
            return None if model is None else self.executor.prepare(model)
        except LwgraphError:
            return None

    @property
    def first(self) -> bool:
        """Whether the layer's integer models have no layer before it."""
        return self._relaying and self.site.first

    def relays(self) -> list[Run]:
        """The integer models without the layer, at the shapes of its input and its output: half of each is theirs.

        For a first layer only the latter.
        """
        if not self._relaying:
            return [self.empty()] * 2
        runs: list[Run] = []
        after = TimedModels(self.executor, self.site, self._output_shape())
        for timed in (after,) if self.first else (self, after):
            run = timed._integers(timed._pools(timed._two_relays, before=False))
            if run is None:
                return []
            runs.append(OnFeeds(run, timed.feeds))
        return runs

    def switch(self) -> list[Run]:
        """Two models of three cheap layers, the middle one of the first in integers: their difference is the price of
        a tensor's way into integers and back."""
        mixed = self._integers(self._three_relays, floats=(0, 2))
        model = small_model(self.site, self._three_relays, self.shape, self.opset)
        return [] if mixed is None else [mixed, self.executor.prepare(model)]

    def _three_relays(self, op: Emitter, x: ir.Value) -> ir.Value:
        return _relay(op, self._two_relays(op, x), self.shape[1])

    def _two_relays(self, op: Emitter, x: ir.Value) -> ir.Value:
        return _relay(op, _relay(op, x, self.shape[1]), self.shape[1])

    @property
    def _relaying(self) -> bool:
        return len(self.site.kernel) == 2

    def _output_shape(self) -> tuple[int, ...]:
        model = small_model(self.site, original(self.site), self.shape, self.opset)
        return tuple(self.executor.prepare(model)(self.feeds)["y"].shape)

    def _integers(self, build: Build, floats: Sequence[int] = ()) -> Run | None:
        model = small_integer_model(self.site, build, self.shape, self._calibration, self.opset, self.executor, floats)
        try:
            run = None if model is None else self.executor.prepare(model)
        except LwgraphError:
            return None
        return None if model is None or _in_floats(model, getattr(run, "kernels", ())) else run

    def _relayed(self, build: Build) -> Build:
        def within(op: Emitter, x: ir.Value) -> ir.Value:
            x = _relay(op, x, self.site.inputs) if self._relaying and not self.first else x
            y = self._activated(op, build(op, x))
            return _relay(op, y, self.site.outputs) if self._relaying else y

        return self._pools(within, before=False)

    def _between(self, build: Build) -> Build:
        return self._pools(lambda op, x: self._activated(op, build(op, x)))

    def _activated(self, op: Emitter, y: ir.Value) -> ir.Value:
        """`y` after the activation that the site names, as the opset spells it."""
        activation = self.site.activation
        if activation == "Silu":
            return op.Mul(y, op.Sigmoid(y))
        if activation == "Clip" and self.opset < CLIP_BY_INPUTS:
            return op.Clip(y, min=0.0, max=6.0)
        if activation == "Clip":
            low, high = (op.const(np.array(v, self.site.dtype), stem) for v, stem in ((0, "low"), (6, "high")))
            return op.Clip(y, low, high)
        return op.node(activation, [y]) if activation else y

    def _pools(self, build: Build, *, before: bool = True) -> Build:
        def within(op: Emitter, x: ir.Value) -> ir.Value:
            x = op.MaxPool(x, kernel_shape=(1,) * len(self.site.kernel)) if self._pooled and before else x
            y = build(op, x)
            return op.GlobalMaxPool(y) if self._pooled else y

        return within


def _in_floats(model: ir.Model, kernels: Sequence[Kernel]) -> bool:
    """Whether a layer that reads integers runs in floats, where the runtime tells."""
    ran = {name: f"{kernel.op_type}_{kernel.precision}" for kernel in reversed(kernels) for name in kernel.nodes}
    read = {node.name or "": node.inputs[0] for node in model.graph if ir.operator(node) in ir.LINEAR}
    makers = {name: None if value is None else value.producer() for name, value in read.items()}
    called = [name for name, maker in makers.items() if maker is not None and maker.op_type == "DequantizeLinear"]
    return bool(kernels) and not all(is_integer_kernel(ran.get(name, "")) for name in called)


def _relay(op: Emitter, x: ir.Value, channels: int) -> ir.Value:
    """A depthwise 1x1 convolution: an integer layer that costs little."""
    weight = np.linspace(0.5, 1, channels, dtype=np.float64).reshape(channels, 1, 1, 1)
    name = f"relay{sum(node.op_type == 'Conv' for node in op.nodes)}"
    return op.node("Conv", [x, op.const(weight, name)], group=channels, kernel_shape=(1, 1))


@dataclass(frozen=True, eq=False)
class OnFeeds:
    """A run that brings its own feeds."""

    run: Run
    feeds: Feeds

    def __call__(self, feeds: Feeds) -> dict[str, Any]:
        """Run; what is given is not looked at."""
        return self.run(self.feeds)


def _least(site: Site, axis: int) -> int:
    """The smallest image side at which every tap of the layer matters."""
    a = axis - 2
    return (site.kernel[a] - 1) * site.dilations[a] + 1 + 2 * site.strides[a] if a >= 0 and site.kernel else 8


__all__ = ["OnFeeds", "TimedModels"]
