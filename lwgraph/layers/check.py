"""Verifies a fitted form where it will stand: on inputs that the layer really gets, and on adversarial ones."""

from __future__ import annotations

import math

import numpy as np

from lwgraph import ir
from lwgraph.arrays import Floats
from lwgraph.calibrate.patches import Patches
from lwgraph.contract import Contract
from lwgraph.errors import CheckError
from lwgraph.layers.form import Fitted
from lwgraph.layers.moments import ratio
from lwgraph.layers.probe import Probe
from lwgraph.layers.substitute import dense, formed, original, small_input, small_model
from lwgraph.measure.region import check_region
from lwgraph.rewrite.base import Context

ROUNDED = 1e-5  # outputs that vary by less, as a share of their size, are constant but for rounding


def objection(found: Fitted, context: Context, observable: bool) -> str:
    """Why a fitted form must not replace its layer; "" when it is what it claims to be.

    The emitted nodes must equal the dense equivalent to rounding, and their error against the layer, as the reference
    executor measures it, must be the one computed from the input patches of the same sample. The sample is a part of a
    captured calibration input, or random where there is none. A fit is proved once for a site.

    Args:
        found: the fit, at its site.
        context: statistics, the reference executor, and the fits that were proved already.
        observable: whether the site's input can be captured.
    """
    site = found.site
    key = (site.name, str(found.form), found.kernel.tobytes())
    if key in context.log.proved:
        return ""
    if context.statistics is not None and observable:
        sample = context.statistics.sample(site)
    else:
        sample = small_input(site, context.seed)
    predicted = error_on(found, sample)
    if not math.isfinite(predicted):  # the sample's outputs do not vary, as those of a single row
        sample = small_input(site, context.seed)
        predicted = error_on(found, sample)
    opset = ir.opset(site.node)
    layer, promised, emitted = (
        small_model(site, build, sample.shape, opset) for build in (original(site), dense(found), formed(found))
    )
    try:
        check_region(
            site.name,
            layer,
            promised,
            emitted,
            context.evaluator(),
            [{"x": sample}],
            Contract.ROUNDING,
            predicted=predicted,
            channel_axis=1 if site.kernel else -1,
            seed=context.seed,
        )
    except CheckError as error:
        return str(error)
    context.log.proved.add(key)
    return ""


def error_on(found: Fitted, sample: np.ndarray[tuple[int, ...], np.dtype[np.floating]]) -> float:
    """||Y - Yhat||^2 / ||Y - mean Y||^2 over all positions of one input, from its patches alone.

    inf where the outputs vary by no more than float32 rounds them, such as those of an empty part of an image: there
    is nothing to measure. O(positions * D * o) time.
    """
    site = found.form.seen(found.site)
    patches = Patches.of(site)
    sample = site.values(sample) if isinstance(site, Probe) else sample
    rows = patches.rows(sample, np.arange(patches.count(sample.shape))).astype(np.float64)
    groups = (site.group, -1, site.fan_in)
    outputs: Floats = np.einsum("rgd,god->rgo", rows, site.weight.reshape(groups)).reshape(len(rows), -1)
    lost = (site.weight - found.kernel.reshape(site.weight.shape)).reshape(groups)
    change = np.einsum("rgd,god->rgo", rows, lost).reshape(len(rows), -1)
    error = float(np.square(change - found.shift).sum())
    power = float(np.square(outputs - outputs.mean(0)).sum())
    bias = found.site.bias
    if error > 0 and power <= ROUNDED**2 * float(np.square(outputs if bias is None else outputs + bias).sum()):
        return math.inf
    return ratio(error, power)


__all__ = ["error_on", "objection"]
