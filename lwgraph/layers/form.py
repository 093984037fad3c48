"""Forms: the lightweight structures that can stand in for a dense layer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from lwgraph import ir, registry
from lwgraph.arrays import Floats, Weights
from lwgraph.errors import UsageError
from lwgraph.layers.emit import Emitter
from lwgraph.layers.moments import Moments
from lwgraph.layers.probe import Probe
from lwgraph.layers.site import Site
from lwgraph.objects import load_object
from lwgraph.rewrite import Pass, options


@dataclass(frozen=True, eq=False)
class Fitted:
    """A form fitted to a layer.

    Attributes:
        form: with every size decided (never a `ratio`).
        site: the layer.
        arrays: the weights that `Form.emit` needs, by name, in float64.
        kernel: the dense equivalent, a canonical weight (o, c/g, *k); of a form that looks at more than the layer's
            patches, the weight on what it looks at.
        shift: (o,), what to add to the layer's bias so that the mean output stays: (W - kernel) mean(x).
        error: predicted ||Y - Yhat||^2 / ||Y - mean Y||^2 on the calibration samples; without samples, the same for
            white inputs, which is ||W - kernel||^2 / ||W||^2.
        measured: whether `error` comes from samples.
    """

    form: Form
    site: Site
    arrays: dict[str, Floats]
    kernel: Weights
    shift: Floats
    error: float
    measured: bool

    @property
    def bias(self) -> Floats | None:
        """The bias (o,) of the rewritten layer; None when it had none and needs none."""
        if self.site.bias is None:
            return self.shift if np.any(self.shift) else None
        return self.site.bias + self.shift

    def moved(self, site: Site) -> Fitted:
        """The same weights at another site of the same weight."""
        return self if site is self.site else replace(self, site=site)

    @property
    def parameters(self) -> int:
        """Numbers stored, bias included."""
        return sum(array.size for array in self.arrays.values()) + (0 if self.bias is None else self.bias.size)


@dataclass(frozen=True)
class Form(ABC):
    """A lightweight structure that can stand in for a dense layer; its fields are its size.

    A form is a frozen dataclass; `str(form)` is its spelling, `low-rank{rank=32}`, and `parse` reads it back. Any
    form is also a pass over all sites (see `lwgraph.layers.form_pass`).
    """

    name: ClassVar[str]
    searched: ClassVar[int] = 0  # place among the forms that are priced at every site, from 1; 0: only where asked for

    def check_option(self, name: str, ok: bool, allowed: str) -> None:
        """For `__post_init__`: UsageError with the option's value and what is allowed unless `ok`."""
        if not ok:
            raise UsageError(f"option '{name}' of form '{self.name}' is {getattr(self, name)!r}; allowed: {allowed}")

    @classmethod
    @abstractmethod
    def refusal(cls, site: Site) -> str:
        """Why this form cannot stand at `site`; "" when it can."""

    @classmethod
    @abstractmethod
    def menu(cls, site: Site) -> Sequence[Form]:
        """The sizes worth pricing at `site`, each cheaper than the dense layer; from small to large."""

    @classmethod
    @abstractmethod
    def full(cls, site: Site) -> Form:
        """The smallest size at which the form is known to reproduce any weight at `site` (to rounding)."""

    def at(self, site: Site) -> Form:
        """This form with its relative sizes made absolute for `site`."""
        return self

    def seen(self, site: Site) -> Site | Probe:
        """The inputs on which the form is a dense weight: the patches of the layer, or a probe that sees more."""
        return site

    def dense(self, op: Emitter, x: ir.Value, fitted: Fitted) -> ir.Value:
        """The nodes of the dense equivalent, to check `emit` against; to be overridden with `seen`."""
        return op.stage(x, fitted.kernel, "dense", bias=fitted.bias, group=fitted.site.group)

    @abstractmethod
    def fit(self, site: Site, moments: Moments) -> Fitted:
        """Weights of least output error on the site's input moments, the error, and the dense equivalent."""

    def estimate(self, site: Site, moments: Moments) -> float:
        """`moments.expected` of about what `fit` would give, from above, and much cheaper; for choosing what to fit.

        By default from a fit that stops at its start. A form that gets the errors of all its sizes from one
        factorization should keep it in the blocks' caches and override this.
        """
        return moments.seen(self.seen).expected(self.fit(site, moments.quick()).kernel)

    def blank(self, site: Site) -> Fitted:
        """Any weights of the right shapes, to measure the form's time; by default a fit without samples."""
        return self.fit(site, Moments(site))

    @abstractmethod
    def emit(self, op: Emitter, x: ir.Value, fitted: Fitted) -> ir.Value:
        """The nodes: build them with `op` from the layer's input `x`, return the layer's output."""

    @abstractmethod
    def macs(self, site: Site) -> int:
        """Multiply-accumulates for one batch, comparable with `site.macs()`."""

    def fitted(self, site: Site, moments: Moments, arrays: dict[str, Floats], kernel: Weights) -> Fitted:
        """The result of a fit: the shift of the bias and the error follow from the kernel.

        Args:
            site: the layer.
            moments: of what the form looks at (`seen`).
            arrays: what `emit` needs.
            kernel: the dense weight on what the form looks at; of the layer's patches, (o, c/g, *k).
        """
        return Fitted(
            self, site, arrays, kernel, moments.shift(kernel), moments.error(kernel), moments.count is not None
        )

    def unfitted(self, site: Site, arrays: dict[str, Floats]) -> Fitted:
        """The result of `blank`: arrays of the right shapes with unspecified contents."""
        return Fitted(self, site, arrays, site.weight, np.zeros(site.outputs), 0.0, False)

    def __str__(self) -> str:
        return self.name + options.format_options(self)

    @classmethod
    def parse(cls, text: str) -> Form:
        """This form from its spelling, `low-rank{rank=32}`; UsageError when name or option is wrong."""
        name, values = options.parse_spelling(text)
        if name != cls.name:
            raise UsageError(f"'{text}' is not a '{cls.name}' form")
        return options.build(cls, values)

    @classmethod
    def as_pass(cls) -> type[Pass]:
        """The form as a pass over all sites, with its name, options and help."""
        from lwgraph.layers.form_pass import as_pass

        return as_pass(cls)


def find_form(name: str) -> type[Form]:
    """The form registered as `name`, or `module:Class` or `file.py:Class`; UsageError with a near miss."""
    if ":" not in name:
        return registry.load("forms", name, Form)
    found = load_object(name, "form")
    if not (isinstance(found, type) and issubclass(found, Form)):
        raise UsageError(f"'{name}' is not a form; allowed: a class derived from lwgraph.layers.Form")
    return found


def searched_forms(warn: Callable[[str], None]) -> list[str]:
    """Names of the forms that are worth pricing at every site; `warn` is told of those that cannot be loaded."""
    places = {}
    for name in registry.names("forms"):
        try:
            places[name] = find_form(name).searched
        except UsageError as error:
            warn(f"{error}; searched without it")
    return sorted((name for name, place in places.items() if place), key=lambda name: (places[name], name))


def parse_form(text: str) -> Form:
    """Any form from its spelling, see `find_form`; UsageError with a near miss when name or option is wrong."""
    name, values = options.parse_spelling(text)
    return options.build(find_form(name), values)


def cheaper(forms: Iterable[Form], site: Site) -> list[Form]:
    """Those that do clearly less work than the dense layer."""
    return [form for form in forms if form.macs(site) < 0.9 * site.macs()]


def ceil16(size: float, limit: int) -> int:
    """`size` rounded up to a multiple of 16, at most `limit`.

    The blocked convolution kernels cost the same for 33 to 48 channels, so the rest is free accuracy.
    """
    return max(1, min(limit, -(-int(np.ceil(size - 1e-9)) // 16) * 16))


__all__ = ["Fitted", "Form", "ceil16", "cheaper", "find_form", "parse_form", "searched_forms"]
