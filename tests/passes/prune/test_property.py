"""Over generated networks: channels that are zero are removed, and no output changes by more than rounding."""

from __future__ import annotations

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lwgraph import ir
from lwgraph.views.coupling import couple_channels
from tests.passes.prune.generated import networks
from tests.passes.prune.pruning import assert_same, cut, feeds, run, some, with_zeros


@given(networks(), st.integers(0, 99), st.sampled_from([0.3, 0.6, 0.9]))
@settings(max_examples=500, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_removing_zeros_changes_nothing(proto, seed, share):
    model, rng = ir.load(proto), np.random.default_rng(seed)
    groups = [group for group in couple_channels(model).prunable if not group.caveats and rng.random() < 0.7]
    choice = {group.number: some(group, rng, share) for group in groups}
    data = feeds(model)
    assert_same(run(cut(model, choice), data), run(with_zeros(model, choice), data))
