"""Trains the embedded model: a ResNet-14 (32/64/128 channels, all 3x3) on Fashion-MNIST, exported with BatchNorm kept.

    python -m benchmarks.train_fmnist OUT.onnx [--epochs 12]

Needs the extra [torch]; an epoch takes some minutes on two cores.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.zoo import fashion
from lwgraph.demo import MEAN, STD, normalize

BATCH, PADDING = 128, 2


def conv_bn(inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    """A convolution without bias and its BatchNorm."""
    return nn.Sequential(nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False), nn.BatchNorm2d(outputs))


class Block(nn.Module):
    """The basic residual block of He et al. 2016, figure 2 left."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.a, self.b = conv_bn(inputs, outputs, stride=stride), conv_bn(outputs, outputs)
        same = stride == 1 and inputs == outputs
        self.skip = nn.Identity() if same else conv_bn(inputs, outputs, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.b(functional.relu(self.a(x))) + self.skip(x))


def resnet(width: int = 32, blocks: int = 2) -> nn.Sequential:
    """Stem, three stages of `blocks` blocks that double the width and halve the image, and a linear classifier."""
    layers: list[nn.Module] = [conv_bn(1, width), nn.ReLU()]
    inputs = width
    for stage in range(3):
        for block in range(blocks):
            layers.append(Block(inputs, width << stage, 2 if stage and block == 0 else 1))
            inputs = width << stage
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2), nn.Linear(inputs, 10))


def data(part: str) -> tuple[Tensor, Tensor]:
    """Normalized images (n, 1, 28, 28) and classes (n,)."""
    return torch.from_numpy(normalize(fashion.images(part))), torch.from_numpy(fashion.labels(part).astype(np.int64))


def augment(x: Tensor) -> Tensor:
    """Mirror half of the batch; move the whole batch by up to two pixels."""
    x = torch.where((torch.rand(len(x)) < 0.5)[:, None, None, None], x.flip(3), x)
    x = functional.pad(x, (PADDING,) * 4, value=-MEAN / STD)
    down, right = torch.randint(0, 2 * PADDING + 1, (2,)).tolist()
    return x[:, :, down : down + 28, right : right + 28]


@torch.no_grad()
def accuracy(net: nn.Module, x: Tensor, y: Tensor) -> float:
    """Top-1 accuracy, 0..1."""
    net.eval()
    return torch.cat([net(part).argmax(1) for part in x.split(500)]).eq(y).float().mean().item()


def train(epochs: int) -> nn.Module:
    """Train from a fixed seed with SGD, one-cycle learning rate and label smoothing, in bfloat16 where that is safe."""
    torch.manual_seed(0)
    x, y = data("train")
    x_test, y_test = data("t10k")
    net = resnet().to(memory_format=torch.channels_last)
    steps = len(x) // BATCH
    optimizer = torch.optim.SGD(net.parameters(), 0.1, momentum=0.9, weight_decay=5e-4, nesterov=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.2, total_steps=epochs * steps, pct_start=0.2)
    for epoch in range(epochs):
        net.train()
        started = time.perf_counter()
        order = torch.randperm(len(x))
        for step in range(steps):
            pick = order[step * BATCH : (step + 1) * BATCH]
            batch = augment(x[pick]).contiguous(memory_format=torch.channels_last)
            with torch.autocast("cpu", torch.bfloat16):
                logits = net(batch)
            loss = functional.cross_entropy(logits.float(), y[pick], label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        print(
            f"epoch {epoch + 1}/{epochs}: loss {loss.item():.3f}, test accuracy {accuracy(net, x_test, y_test):.4f}, "
            f"{time.perf_counter() - started:.0f} s",
            flush=True,
        )
    return net


def main() -> None:
    """Train and export."""
    parser = argparse.ArgumentParser(description="Train the embedded ResNet-14 on Fashion-MNIST.")
    parser.add_argument("out", type=Path, help="the ONNX file to write")
    parser.add_argument("--epochs", type=int, default=12)
    options = parser.parse_args()
    net = train(options.epochs).eval().to(memory_format=torch.contiguous_format)
    torch.onnx.export(
        net,
        (torch.zeros(1, 1, 28, 28),),
        str(options.out),
        input_names=["image"],
        output_names=["logits"],
        dynamic_axes={"image": {0: "batch"}, "logits": {0: "batch"}},
        opset_version=17,
        dynamo=False,
    )


if __name__ == "__main__":
    main()
