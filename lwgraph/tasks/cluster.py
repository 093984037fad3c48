"""A pool on an existing Dask cluster. Dask restarts tasks whose worker is lost."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

from lwgraph.errors import UsageError
from lwgraph.tasks.pool import Pool, Shared

T = TypeVar("T")
SECONDS = 10  # seconds to wait for the scheduler
LARGE = "2GB"  # arguments of a task, beyond which Dask warns; Gram matrices have many megabytes


class Scattered(Shared):
    """A value in the memory of every worker."""

    def __init__(self, future: Any) -> None:
        self.future = future


class Cluster(Pool):
    """A running Dask cluster whose workers have the same version of lwgraph.

    Args:
        address: of the scheduler, or the path of its scheduler file.

    Raises:
        UsageError: Dask is not installed, nothing answers, there are no workers, or they have another lwgraph.
    """

    def __init__(self, address: str) -> None:
        try:
            import dask
            import distributed
        except ImportError:
            raise UsageError("--dask needs Dask, which is not installed; run: pip install 'lwgraph[dask]'") from None
        dask.config.set({"distributed.admin.large-graph-warning-threshold": LARGE})
        given = {"scheduler_file": address} if Path(address).is_file() else {"address": address}
        try:
            self._client = distributed.Client(**given, timeout=SECONDS, set_as_default=False, name="lwgraph")
        except (OSError, TimeoutError, ValueError) as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise UsageError(f"--dask '{address}': no Dask scheduler answers there ({reason})") from None
        try:
            self._check(address)
        except BaseException:
            self._client.close()
            raise
        self._executor = self._client.get_executor(pure=False, retries=2)

    def _check(self, address: str) -> None:
        self.workers = len(self._client.scheduler_info(n_workers=-1)["workers"])
        if not self.workers:
            raise UsageError(f"--dask '{address}': the cluster has no workers; start some: dask worker {address}")
        mine = version("lwgraph")
        try:
            theirs = self._client.run(_version)
        except Exception as error:  # whatever a worker raises
            reason = " ".join(str(error).split())
            raise UsageError(f"--dask '{address}': a worker cannot run lwgraph ({reason}); install it there") from None
        for worker, found in theirs.items():
            if found != mine:
                raise UsageError(f"--dask '{address}': worker {worker} has lwgraph {found}, here is {mine}")

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """Run `fn` on a worker; on another when that one is lost."""
        values = [a.future if isinstance(a, Scattered) else a for a in args]
        future: Future[T] = self._executor.submit(fn, *values, **kwargs)
        return future

    def share(self, value: Any) -> Shared:
        """Send a value to all workers."""
        return Scattered(self._client.scatter([value], broadcast=True, hash=False)[0])

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Leave the cluster, which goes on."""
        self._executor.shutdown(wait=wait and not cancel_futures)
        self._client.close()


def _version() -> str:
    return version("lwgraph")


__all__ = ["Cluster", "Scattered"]
