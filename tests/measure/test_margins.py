"""What margins say of answers to come: more than counts on few samples, and the same on many."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import spearmanr

from lwgraph import demo, ir, registry
from lwgraph.arrays import Floats
from lwgraph.measure.evidence import Disagreements, Pairs, paired
from lwgraph.measure.margins import MOST, changed, margins


def test_a_margin_is_over_nought_where_the_class_is_the_answer() -> None:
    scores = np.array([[1.0, 3.0, 2.5], [4.0, 0.0, 1.0]])
    assert margins(scores, np.array([1, 1])).tolist() == [0.5, -4.0]
    assert scores[0, 1] == 3.0  # what was given is not changed


def test_probabilities_have_the_margins_of_their_logits() -> None:
    logits = np.random.default_rng(0).normal(0, 5, (50, 4))
    shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    classes = logits.argmax(1)
    assert margins(shares, classes) == pytest.approx(margins(logits, classes))
    assert np.isfinite(margins(np.eye(3), np.array([0, 1, 0]))).all()


@pytest.fixture(scope="module")
def plans() -> tuple[Floats, list[Floats]]:
    """Scores of 400 demo images by the original, and with weights rounded to ever fewer bits."""
    feeds = demo.evaluation()[0][:4]

    def scores(bits: int | None) -> Floats:
        model = ir.load(demo.MODEL)
        for tensor in list(model.graph.initializers.values()):
            values = tensor.const_value.numpy()
            if bits is not None and values.ndim == 4:
                step = np.abs(values).max() / 2 ** (bits - 1)
                tensor.const_value = ir.Tensor((np.round(values / step) * step).astype(np.float32), name=tensor.name)
        run = registry.executor("ort").prepare(model)
        return np.concatenate([next(iter(run(feed).values())) for feed in feeds])

    return scores(None), [scores(bits) for bits in (6, 5, 4)]


def test_on_few_samples_margins_rank_plans_better_than_counts(plans: tuple[Floats, list[Floats]]) -> None:
    original, others = plans
    classes = original.argmax(1)
    before, afters = margins(original, classes), [margins(each, classes) for each in others]
    true = [float((after <= 0).mean()) for after in afters]
    assert true == sorted(set(true)) and true[-1] < 0.1
    ranks: dict[str, list[float]] = {"counts": [], "margins": []}
    estimates = []
    for seed in range(40):
        at = np.random.default_rng(seed).choice(len(before), 32, replace=False)
        counts = [float((after[at] <= 0).mean()) for after in afters]
        estimates.append([changed(before[at], after[at])[0] for after in afters])
        for name, found in (("counts", counts), ("margins", estimates[-1])):
            ranks[name].append(float(spearmanr(found, true).statistic) if len(set(found)) > 1 else 0.0)
    assert np.mean(ranks["margins"]) > np.mean(ranks["counts"]) + 0.2
    assert np.mean(ranks["margins"]) > 0.85
    assert np.mean(estimates, axis=0) == pytest.approx(true, rel=0.35, abs=0.003)  # not far from unbiased


def test_the_two_ways_are_told_apart_and_many_samples_leave_the_counts() -> None:
    rng = np.random.default_rng(1)
    before = rng.normal(1, 1, 4000)
    after = before - 0.2 + rng.normal(0, 0.3, 4000)
    lost, gained = changed(before, after)
    assert lost == pytest.approx(((before > 0) & (after <= 0)).mean(), rel=0.1)
    assert gained == pytest.approx(((before <= 0) & (after > 0)).mean(), rel=0.1)
    assert lost > 3 * gained and len(before) > MOST
    assert changed(before, before) == (0.0, 0.0)


def test_the_estimate_has_the_margins_and_the_bound_only_counts() -> None:
    rng = np.random.default_rng(2)
    before = np.abs(rng.normal(1, 1, 40)) + 0.05
    after = before + rng.normal(0, 0.04, 40)
    ones = np.ones(40)
    alike, bare = paired(ones, ones, 1.0, original=True, apart=(before, after)), Disagreements(0, 40)
    assert 0 < alike.estimate < 0.05 and alike.bounds(0.05) == bare.bounds(0.05)
    right = paired(ones, ones, 1.0, apart=(before, after))
    assert isinstance(right, Pairs) and right.estimate > 0 and right.bounds(0.05) == Pairs(0, 0, 40).bounds(0.05)
    # More samples are added to those that are there, at the rate of the estimate.
    assert alike.scaled(400) == Disagreements(alike.estimate * 360, 400)
