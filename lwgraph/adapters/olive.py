"""lwgraph as a pass of Olive (`lwgraph[olive]`).

    olive run --config workflow.json --package-config $(python -m lwgraph.adapters.olive)

`examples/olive` has a workflow that runs.
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Any, Union

from olive.data.config import DataConfig
from olive.hardware.accelerator import AcceleratorSpec
from olive.model import ONNXModelHandler
from olive.model.utils import resolve_onnx_path
from olive.passes import Pass
from olive.passes.pass_config import BasePassConfig, PassConfigParam

import lwgraph
from lwgraph.errors import CheckError
from lwgraph.optimizer.request import options

PACKAGE_CONFIG = Path(str(files("lwgraph.adapters") / "olive.json"))  # tells Olive where the pass is


class LwgraphOptimize(Pass):
    """Make an ONNX model smaller and faster, and prove the result: see `lwgraph optimize --help`.

    The options are the arguments of `lwgraph.optimize`, and `data_config`, Olive's own way to name data to fit to. What
    lwgraph found is in the model's attributes, under "lwgraph". A promise that is broken ends the pass with an error.
    """

    @classmethod
    def _default_config(cls, accelerator_spec: AcceleratorSpec) -> dict[str, PassConfigParam]:
        found = {
            f.name: PassConfigParam(type_=Any, default_value=f.default, description=said.text)
            for f, _, said in options()
        }
        text = "Data to fit to, as Olive names them; instead of data."
        kinds = Union[DataConfig, dict[str, Any]]  # noqa: UP007 - Olive takes this spelling apart
        found["data_config"] = PassConfigParam(type_=kinds, default_value=None, description=text)
        return found

    def _run_for_config(
        self, model: ONNXModelHandler, config: type[BasePassConfig], output_model_path: str
    ) -> ONNXModelHandler:
        asked = {f.name: getattr(config, f.name) for f, _, _ in options()}
        stated = getattr(config, "data_config", None)
        if stated is not None:
            asked["data"] = _loader(stated)
        result = lwgraph.optimize(model.model_path, **asked)
        if result.verdict == "broken":
            raise CheckError(result.report.outcome)
        path = resolve_onnx_path(output_model_path, Path(model.model_path).name)
        result.save(path, overwrite=True)
        ratio = result.report.stages[-1].ratio
        told = {"verdict": result.verdict, "speed": None if ratio is None else 1 / ratio, "summary": repr(result)}
        return ONNXModelHandler(path, model_attributes={**(model.model_attributes or {}), "lwgraph": told})


def _loader(stated: Any) -> Any:
    config = stated if isinstance(stated, DataConfig) else DataConfig(**stated)
    return config.to_data_container().create_dataloader()


if __name__ == "__main__":
    print(PACKAGE_CONFIG)

__all__ = ["PACKAGE_CONFIG", "LwgraphOptimize"]
