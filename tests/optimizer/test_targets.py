"""Which targets a name stands for, with and without OpenVINO."""

import sys

import pytest

from lwgraph.errors import UsageError
from lwgraph.optimizer.request import Request
from lwgraph.optimizer.target import executors_here, expanded


def test_without_openvino_any_is_what_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    assert expanded("any") == ["ort-cpu"]
    for target in ("openvino", "openvino:bf16"):
        with pytest.raises(UsageError, match=r"pip install 'lwgraph\[openvino\]'"):
            Request(target=target)


def test_a_target_stands_for_itself() -> None:
    assert expanded("ort-cpu") == ["ort-cpu"]
    with pytest.raises(UsageError, match="no runtime of this machine"):
        executors_here("macs", 1)


def test_with_openvino() -> None:
    pytest.importorskip("openvino")
    found = expanded("any")
    assert found[:2] == ["ort-cpu", "openvino:f32"] and expanded("openvino") == found[1:]
    assert [executor.name for executor in executors_here("openvino", 1).values()] == found[1:]
