"""A network of blocks with what may go of it, found once."""

import pytest

from lwgraph.plan.search.structure import find_offers
from tests.optimizer.blocks import net
from tests.passes.prune.pruning import context


@pytest.fixture(scope="session")
def found():
    """The network, a context for it, its offers, and feeds."""
    model = net()
    ctx = context(model)
    feeds = [{name: value[:2] for name, value in feed.items()} for feed in ctx.data]
    return model, ctx, find_offers(model, ctx, feeds), feeds
