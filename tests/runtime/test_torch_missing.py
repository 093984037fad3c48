"""Without PyTorch everything else works, and asking for it says how to install it."""

import sys

import pytest

from lwgraph import registry
from lwgraph.errors import UsageError


def test_the_cure_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)  # importing it now raises ImportError
    with pytest.raises(UsageError, match=r"pip install 'lwgraph\[torch\]'") as info:
        registry.executor("torch")
    assert "\n" not in str(info.value)
    assert "torch" in registry.names("executors")
