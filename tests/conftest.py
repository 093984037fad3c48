"""Every test run measures for itself: prices cached by earlier runs are not used, and the user's are not touched."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from lwgraph.optimizer.request import Request


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LWGRAPH_CACHE", str(folder))
        yield folder


@pytest.fixture
def no_trials(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs look at the solver's plans only: the same in a second as in a minute, and the same bytes."""
    monkeypatch.setattr(Request, "trials", 0.0)
