"""Parallel work: processes of this machine, or a Dask cluster, behind one `concurrent.futures.Executor`.

Fits, estimates and trials of plans are tasks. Prices are not: processes that run at once share caches, memory bandwidth
and the processor's clock, so each would measure the others, too. Prices are therefore measured by one process of a
machine, one after another, before any task is started.
"""

from lwgraph.tasks.open_pool import open_pool
from lwgraph.tasks.pool import Pool, Shared

__all__ = ["Pool", "Shared", "open_pool"]
