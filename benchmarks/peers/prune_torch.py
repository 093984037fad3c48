"""Torch-Pruning through onnx2torch: MODEL FEEDS OUT OPTIONS, options: ratio of the channels in 0..1.

onnx2torch knows Resize up to opset 17 only: a model of a newer opset that means the same in 17 is converted as that.
"""

import json
import sys
from pathlib import Path

import numpy as np
import onnx
import onnx2torch
import torch
import torch_pruning

OLDER = 17
# What changes nothing: what opset 18 added to Resize, at its default; allowzero where no tensor is empty.
MEANINGLESS = {
    ("Resize", "antialias"): 0,
    ("Resize", "keep_aspect_ratio_policy"): b"stretch",
    ("Reshape", "allowzero"): 1,
}


def converted(model):
    """The module. A model that onnx2torch refuses is tried as one of opset 17, without meaningless attributes."""
    try:
        return onnx2torch.convert(model)
    except NotImplementedError:
        for node in model.graph.node:
            for given in list(node.attribute):
                if MEANINGLESS.get((node.op_type, given.name)) == onnx.helper.get_attribute_value(given):
                    node.attribute.remove(given)
        for used in model.opset_import:
            if used.domain in ("", "ai.onnx") and used.version > OLDER:
                used.version = OLDER
        onnx.checker.check_model(model, full_check=True)
        return onnx2torch.convert(model)


path, feeds, out, options = sys.argv[1:]
proto = onnx.load(path)
inputs = [value for value in proto.graph.input if value.name not in {i.name for i in proto.graph.initializer}]
with np.load(sorted(Path(feeds).glob("*.npz"))[0]) as sample:
    example = tuple(torch.from_numpy(sample[value.name]) for value in inputs)
module = converted(proto).eval()
with torch.no_grad():
    module(*example)

# The layers that make the outputs stay as wide as they are.
last, waiting, seen = [], [node for node in module.graph.nodes if node.op == "output"], set()
modules = dict(module.named_modules())
while waiting:
    node = waiting.pop()
    for before in node.all_input_nodes:
        if before in seen:
            continue
        seen.add(before)
        layer = modules.get(before.target) if before.op == "call_module" else None
        if isinstance(layer, (torch.nn.modules.conv._ConvNd, torch.nn.Linear)):
            last.append(layer)
        else:
            waiting.append(before)
pruner = torch_pruning.pruner.MagnitudePruner(
    module,
    example,
    importance=torch_pruning.importance.GroupMagnitudeImportance(p=2),
    pruning_ratio=json.loads(options)["ratio"],
    ignored_layers=last,
)
pruner.step()
open_axes = {
    value.name: {
        axis: f"{value.name}_{axis}" for axis, dim in enumerate(value.type.tensor_type.shape.dim) if not dim.dim_value
    }
    for value in inputs
}
torch.onnx.export(
    module,
    example,
    out,
    input_names=[value.name for value in inputs],
    output_names=[value.name for value in proto.graph.output],
    dynamic_axes=open_axes,
    dynamo=False,
)
