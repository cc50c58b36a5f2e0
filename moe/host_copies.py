"""Copies from the host to a device that do not make the host wait."""

import torch
from torch import Tensor


def to_device(values: Tensor, device: torch.device | str) -> Tensor:
    """Brings values to where a rank computes; returns the same tensor if it is there already.

    A plain copy to a GPU ends when the GPU has done all that was queued before. From pinned memory it is queued as
    well, and the host goes on.
    """
    device = torch.device(device)
    if values.device.type != "cpu" or device.type == "cpu":
        return values.to(device)
    pinned = values if values.is_pinned() else values.pin_memory()
    return pinned.to(device, non_blocking=True)
