"""Copies from the host to a device that do not make the host wait."""

import torch
from torch import Tensor


def to_device(values: Tensor, device: torch.device | str) -> Tensor:
    """Copies values to a device; returns the same tensor if it is there already.

    A plain copy to a GPU makes the host wait for all work that was queued before. A copy from pinned memory is queued
    too, and the host continues.
    """
    device = torch.device(device)
    if values.device.type != "cpu" or device.type == "cpu":
        return values.to(device)
    pinned = values if values.is_pinned() else values.pin_memory()
    return pinned.to(device, non_blocking=True)
