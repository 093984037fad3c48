"""Every test run measures for itself: prices cached by earlier runs are not used, and the user's are not touched."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from lwgraph.optimizer import improve, outcome
from lwgraph.optimizer.request import Request


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LWGRAPH_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="session", autouse=True)
def patient() -> Iterator[None]:
    """No search ends by the clock, which other work on the machine would decide, unless a test sees to it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(improve, "SECONDS_BESIDE", 600.0)
        yield


def _apart(request: pytest.FixtureRequest) -> Iterator[None]:
    """Nobody is given what a search elsewhere found: what a test plants would not be asked."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(outcome, "KIND", f"{outcome.KIND}-{zlib.crc32(request.node.nodeid.encode()):08x}")
        yield


of_module = pytest.fixture(scope="module", autouse=True)(_apart)
of_test = pytest.fixture(autouse=True)(_apart)


@pytest.fixture
def no_trials(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs look at the solver's plans only: the same in a second as in a minute, and the same bytes."""
    monkeypatch.setattr(Request, "trials", 0.0)
