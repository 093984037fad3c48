"""Asks an oracle for every price that planning a model may need, whatever the data."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from lwgraph import ir
from lwgraph.arrays import Shapes
from lwgraph.layers.form import Form, find_form
from lwgraph.layers.moments import too_wide
from lwgraph.layers.site import Site, find_sites
from lwgraph.plan.precision import FLOAT, INT8
from lwgraph.plan.price.oracle import Oracle
from lwgraph.rewrite.base import Context


def ask_all(
    model: ir.Model,
    oracle: Oracle,
    context: Context,
    *,
    forms: Sequence[str],
    shapes: Shapes | None = None,
    precisions: Collection[str] = (FLOAT, INT8),
) -> int:
    """Ask for the price of every form at every site, so that planning finds it in the cache.

    Planning leaves out forms that err too much on its data; without data, nothing is known of that, so all are priced.

    Args:
        model: the cleaned model.
        oracle: what is asked; a `Recorder` only writes down what there is to measure.
        context: progress; refusals are recorded in it.
        forms: names of the forms to price.
        shapes: measured sizes by value name.
        precisions: FLOAT and INT8, or one of them.

    Returns:
        the number of layers that have anything to price.
    """
    classes = [find_form(name) for name in forms]
    sites = find_sites(model, shapes, refused=lambda place, why: context.skip("measure", place, why))
    priced = 0
    for done, site in enumerate(sites):
        context.progress("measuring layers", done, len(sites))
        menu = _menu(site, classes)
        for precision in precisions:
            oracle.prices(site, menu, precision)
        if INT8 in precisions:
            oracle.switch(site)
        priced += 1
    context.progress("measuring layers", len(sites), len(sites))
    return priced


def _menu(site: Site, classes: Sequence[type[Form]]) -> list[Form | None]:
    menu: dict[str, Form] = {}
    for form in classes:
        if not (too_wide(site) or form.refusal(site)):
            menu.update({str(size): size for size in form.menu(site)})
    return [None, *menu.values()]


__all__ = ["ask_all"]
