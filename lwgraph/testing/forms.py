"""check_form: checks that a form keeps the promises that the planner relies on."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from lwgraph import registry
from lwgraph.arrays import Floats
from lwgraph.errors import CheckError
from lwgraph.executor import Executor
from lwgraph.layers.form import Fitted, Form
from lwgraph.layers.moments import Moments
from lwgraph.layers.site import Site
from lwgraph.layers.substitute import difference, formed, small_model
from lwgraph.testing.layers import SampleLayer, layers, moments_on, patches

EXACT = 1e-5  # relative error of the weight at full size
MEASURED = 1e-2  # relative difference of predicted and measured error
FLOOR = 1e-9  # squared relative error below which float32 noise decides
SLACK = 1.05  # alternating fits may end in neighbouring optima


def check_form(
    form: type[Form],
    *,
    on: Iterable[SampleLayer] | None = None,
    sizes: Callable[[Site], Sequence[Form]] = lambda site: (),
    reference: Executor | None = None,
    seed: int = 0,
) -> int:
    """Check a form class over a grid of layers.

    On each layer that the form does not refuse, with moments by brute force from random images:

    - exact at full size: `full(site)` fitted reproduces the weight to 1e-5, with samples and without;
    - emission: the nodes of every form of the menu, run by `reference`, equal the dense layer with the fitted kernel;
    - prediction: the predicted error equals the measured one on the same samples, and the mean output is kept;
    - size: the error does not grow with the form; where two forms differ in one number, that of more work is better;
    - refit: the fit with samples is not worse on them than the fit without;
    - cost: every form of the menu needs fewer multiply-accumulates than the layer, and its text reads back as itself.

    Args:
        form: the class.
        on: the layers; None for `lwgraph.testing.layers.layers()`.
        sizes: more forms to check at a site, that may be too large or too small for the menu.
        reference: runs the models; None for the reference executor.
        seed: of the images.

    Returns:
        how many layers the form took.

    Raises:
        CheckError: naming the form, the layer and the promise.
    """
    runner = reference or registry.executor("reference")
    taken = 0
    for layer in layers() if on is None else on:
        site = layer.site
        if form.refusal(site):
            continue
        taken += 1
        _FormCheck(form, layer, site, runner, seed).run(sizes(site))
    if not taken:
        raise CheckError(f"form '{form.name}' refuses every layer, so nothing was checked")
    return taken


class _FormCheck:
    def __init__(self, form: type[Form], layer: SampleLayer, site: Site, runner: Executor, seed: int) -> None:
        self.form, self.layer, self.site, self.runner, self.seed = form, layer, site, runner, seed
        self.x = layer.samples(seed)
        found = patches(site, self.x)
        self.moments, self.free = moments_on(site, self.x), Moments(site)
        weight = site.weight.reshape(site.group, -1, site.fan_in)
        self.y: Floats = np.concatenate([p @ w.T for p, w in zip(found, weight, strict=True)], 1)
        if site.bias is not None:
            self.y = self.y + site.bias

    def run(self, more: Sequence[Form]) -> None:
        self.check_full()
        menu = list(self.form.menu(self.site))
        for form in menu:
            self.check_cost(form)
        menu += [form for form in more if form not in menu]
        fits = [form.fit(self.site, self.moments) for form in menu]
        for form, fitted in zip(menu, fits, strict=True):
            self.check_text(form)
            self.check_emission(form, fitted)
            self.check_prediction(form, fitted)
            self.check_refit(form, fitted)
        self.check_growth(menu, fits)

    def fail(self, form: object, message: str) -> None:
        raise CheckError(f"form {form} at layer '{self.layer.name}': {message}")

    def check_full(self) -> None:
        form = self.form.full(self.site)
        weight = form.seen(self.site).weight
        for moments, how in ((self.moments, "with samples"), (self.free, "without samples")):
            fitted = form.fit(self.site, moments)
            off = np.linalg.norm(fitted.kernel.reshape(weight.shape) - weight) / np.linalg.norm(weight)
            if not off <= EXACT:
                self.fail(form, f"not exact at full size: fitted {how}, the weight is off by {off:.2g}")
            self.check_emission(form, fitted)

    def check_cost(self, form: Form) -> None:
        if form.macs(self.site) >= self.site.macs():
            self.fail(form, "is on the menu and needs no less work than the layer")

    def check_text(self, form: Form) -> None:
        again = type(form).parse(str(form))
        if again != form:
            self.fail(form, f"does not read back from its text: gives {again}")

    def check_emission(self, form: Form, fitted: Fitted) -> None:
        reason = difference(fitted, self.runner, 17, self.seed)
        if reason:
            self.fail(form, reason)

    def check_prediction(self, form: Form, fitted: Fitted) -> None:
        model = small_model(self.site, formed(fitted), self.x.shape, 17)
        y = np.moveaxis(self.runner.prepare(model)({"x": self.x})["y"].astype(np.float64), 1, -1)
        y = y.reshape(-1, self.site.outputs) if self.site.kernel else np.moveaxis(y, -1, 1).reshape(self.y.shape)
        centred = self.y - self.y.mean(0)
        drift = np.abs((y - self.y).mean(0)).max() / np.sqrt(np.square(centred).mean())
        if not drift < 1e-4:
            self.fail(form, f"the mean output moves by {drift:.2g} of its deviation; the bias is not re-centred")
        measured = float(np.square(y - self.y).sum() / np.square(centred).sum())
        if not abs(measured - fitted.error) <= MEASURED * measured + FLOOR:
            self.fail(form, f"predicts an error of {fitted.error:.4g}; measured on the same samples: {measured:.4g}")

    def check_refit(self, form: Form, fitted: Fitted) -> None:
        plain = self.moments.seen(form.seen).error(form.fit(self.site, self.free).kernel)
        if not fitted.error <= plain * (1 + MEASURED) + FLOOR:
            self.fail(form, f"the fit with samples errs by {fitted.error:.4g}, the fit without by {plain:.4g}")

    def check_growth(self, menu: list[Form], fits: list[Fitted]) -> None:
        for small, less in zip(menu, fits, strict=True):
            for large, more in zip(menu, fits, strict=True):
                grows = small.macs(self.site) < large.macs(self.site) and _differ_in_one_number(small, large)
                if grows and not more.error <= less.error * SLACK + FLOOR:
                    self.fail(large, f"errs by {more.error:.4g}, and the smaller {small} by {less.error:.4g}")


def _differ_in_one_number(a: Form, b: Form) -> bool:
    changed = [
        (getattr(a, f.name), getattr(b, f.name))
        for f in dataclasses.fields(a)
        if getattr(a, f.name) != getattr(b, f.name)
    ]
    return len(changed) == 1 and all(isinstance(value, (int, float)) for value in changed[0])


__all__ = ["check_form"]
