"""Trains a vision transformer of DeiT-Tiny's width on Fashion-MNIST: four layers of 192, three heads, patches of 7 x 7.

    python -m benchmarks.train_vit OUT.onnx [--epochs 3]

Needs the extra [torch]; an epoch takes two minutes on one core.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.train_fmnist import accuracy, augment, data

WIDTH, HEADS, LAYERS, PATCH, BATCH = 192, 3, 4, 7, 128


class Layer(nn.Module):
    """Attention and feed-forward layer, normalized before (Dosovitskiy et al. 2021, "An Image is Worth 16x16 Words",
    figure 1)."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        n, t, _ = x.shape
        parts = self.qkv(self.norm1(x)).reshape(n, t, 3, HEADS, WIDTH // HEADS).permute(2, 0, 3, 1, 4)
        y = functional.scaled_dot_product_attention(*parts.unbind(0))
        x = x + self.out(y.transpose(1, 2).reshape(n, t, WIDTH))
        return x + self.down(functional.gelu(self.up(self.norm2(x))))


class Vit(nn.Module):
    """Patches, positions, layers, the mean over the patches, a linear classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, WIDTH, PATCH, PATCH)
        self.positions = nn.Parameter(0.02 * torch.randn(1, (28 // PATCH) ** 2, WIDTH))
        self.layers = nn.Sequential(*(Layer() for _ in range(LAYERS)))
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 10)

    def forward(self, image: Tensor) -> Tensor:
        x = self.patches(image).flatten(2).transpose(1, 2) + self.positions
        return self.head(self.norm(self.layers(x)).mean(1))


def train(epochs: int) -> nn.Module:
    """Train from a fixed seed with AdamW, one-cycle learning rate and label smoothing."""
    torch.manual_seed(0)
    x, y = data("train")
    x_test, y_test = data("t10k")
    net = Vit()
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3, weight_decay=0.05)
    steps = len(x) // BATCH
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-3, total_steps=epochs * steps)
    start = time.perf_counter()
    for epoch in range(epochs):
        net.train()
        for rows in torch.randperm(len(x))[: steps * BATCH].split(BATCH):
            with torch.autocast("cpu", torch.bfloat16):
                loss = functional.cross_entropy(net(augment(x[rows])).float(), y[rows], label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimizer.step()
            schedule.step()
        print(
            f"epoch {epoch + 1}: {accuracy(net, x_test, y_test):.4f}, {time.perf_counter() - start:.0f} s", flush=True
        )
    return net.eval()


def export(net: nn.Module, path: Path) -> None:
    """Write it with a dynamic batch, as PyTorch's first exporter does."""
    torch.onnx.export(
        net,
        (torch.zeros(1, 1, 28, 28),),
        str(path),
        input_names=["image"],
        output_names=["logits"],
        dynamic_axes={"image": {0: "N"}, "logits": {0: "N"}},
        opset_version=17,
        dynamo=False,
    )


def main() -> None:
    """Train and export."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--epochs", type=int, default=3)
    options = parser.parse_args()
    export(train(options.epochs), options.out)


if __name__ == "__main__":
    main()
