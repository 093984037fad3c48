"""Boxes: non-maximum suppression and RoiAlign."""

from __future__ import annotations

import math
from typing import Any

import torch

from lwgraph.runtime.torch_ops.table import Compute, Op, Tensor, operator


def _overlaps(box: Tensor, boxes: Tensor) -> Tensor:
    """IoU of one box with many, as (y1, x1, y2, x2) with y1 <= y2, x1 <= x2."""
    low, high = torch.maximum(box[:2], boxes[:, :2]), torch.minimum(box[2:], boxes[:, 2:])
    inter = (high - low).clamp(min=0).prod(1)
    area = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    union = (box[2:] - box[:2]).prod() + area - inter
    return torch.where(union > 0, inter / union, torch.zeros_like(union))


@operator("NonMaxSuppression")
def _nms(op: Op) -> Compute:
    center = op.attr("center_point_box", 0)

    def corners(boxes: Tensor) -> Tensor:
        if center:
            middle, half = boxes[..., :2], boxes[..., 2:] / 2
            return torch.cat([middle - half, middle + half], -1)
        a, b = boxes[..., :2], boxes[..., 2:]
        return torch.cat([torch.minimum(a, b), torch.maximum(a, b)], -1)

    def compute(
        boxes: Tensor,
        scores: Tensor,
        most: Tensor | None = None,
        iou: Tensor | None = None,
        least: Tensor | None = None,
    ) -> Tensor:
        limit = 0 if most is None else int(most)
        threshold = 0.0 if iou is None else float(iou)
        boxes, found = corners(boxes), []
        for n in range(scores.shape[0]):
            for c in range(scores.shape[1]):
                order = torch.argsort(scores[n, c], descending=True, stable=True)
                if least is not None:
                    order = order[scores[n, c][order] > least.reshape(())]
                kept = 0
                while order.numel() and kept < limit:
                    best, order = order[0], order[1:]
                    found.append([n, c, int(best)])
                    kept += 1
                    order = order[_overlaps(boxes[n, best], boxes[n, order]) <= threshold]
        return torch.tensor(found, dtype=torch.int64).reshape(-1, 3)

    return compute


@operator("RoiAlign")
def _roi_align(op: Op) -> Compute:
    mode, ratio, scale = op.attr("mode", "avg"), op.attr("sampling_ratio", 0), op.attr("spatial_scale", 1.0)
    height, width = op.attr("output_height", 1), op.attr("output_width", 1)
    usual = "half_pixel" if op.version >= 16 else "output_half_pixel"
    half = 0.5 if op.attr("coordinate_transformation_mode", usual) == "half_pixel" else 0.0

    def axis_taps(start: float, length: float, bins: int, size: int) -> tuple[Tensor, Tensor, Tensor]:
        """Sample positions along one axis: lower index and its weight, (bins, samples); and which lie inside."""
        count = ratio if ratio > 0 else max(1, math.ceil(length / bins))
        at = start + (torch.arange(bins)[:, None] + (torch.arange(count) + 0.5) / count) * (length / bins)
        inside = (at >= -1) & (at <= size)
        at = at.clamp(0, size - 1)
        low = at.floor().clamp(max=max(size - 2, 0))
        return low.to(torch.int64), 1 - (at - low), inside

    def compute(x: Tensor, rois: Tensor, batch: Tensor) -> Tensor:
        pooled: list[Any] = []
        for roi, n in zip(rois.tolist(), batch.tolist(), strict=True):
            x1, y1, x2, y2 = (v * scale - half for v in roi)
            wide, tall = (x2 - x1, y2 - y1) if half else (max(x2 - x1, 1.0), max(y2 - y1, 1.0))
            rows, wy, in_y = axis_taps(y1, tall, height, x.shape[2])
            cols, wx, in_x = axis_taps(x1, wide, width, x.shape[3])
            wy, wx = wy.to(x.dtype)[:, :, None, None], wx.to(x.dtype)
            valid = in_y[:, :, None, None] & in_x
            next_row, next_col = (rows + 1).clamp(max=x.shape[2] - 1), (cols + 1).clamp(max=x.shape[3] - 1)
            parts = [
                x[n][:, r[:, :, None, None], c[None, None]] * (a * b * valid)
                for r, a in ((rows, wy), (next_row, 1 - wy))
                for c, b in ((cols, wx), (next_col, 1 - wx))
            ]
            if mode == "max":
                pooled.append(torch.stack(parts).amax(0).amax((2, 4)))
            else:
                pooled.append(sum(parts).mean((2, 4)))
        return torch.stack(pooled) if pooled else x.new_zeros((0, x.shape[1], height, width))

    return compute
