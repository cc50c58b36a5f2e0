"""How well a run knows its data at each noise level, measured once for a folder of results."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

import trainer.data
from netsim.foundation.refusal import Refusal
from trainer.flow import Condition
from trainer.flow.inverse import calibration_errors
from trainer.sampling.draw import TrainedFlow
from trainer.sampling.source import keys_of

CALIBRATION = "calibration.json"
EXAMPLES = 256
"""Of the training split, by which the errors are measured."""

DIGITS = 6
"""Of an error."""


def measured_errors(
    flow: TrainedFlow,
    *,
    labelled: bool,
    guidance: float,
    seed: int,
    together: int,
    progress: Callable[[int], None] = lambda _: None,
) -> Tensor:
    """Means over examples that the run has learned from of `calibration_errors`: float64 [L].

    They have so many digits that ranks which round differently agree.

    Args:
        labelled: whether the field gets the class of each example, or none.
        together: examples that pass through the network at once.
    """
    try:
        dataset = trainer.data.build(flow.config.data)
        batch = dataset.get(trainer.data.first_data_points(dataset, "train", EXAMPLES))
    except (OSError, ValueError) as error:
        raise ValueError(
            f"method.weight: calibrated is measured on examples of the run, which cannot be read ({error}); bring them "
            "back, or use constant"
        ) from error
    found = []
    for own in torch.arange(len(batch.x_1)).split(together):
        keys = keys_of(own, "calibration", seed=seed).to(flow.device)
        examples = batch.x_1[own].to(flow.device)
        states = flow.parts.states_of(examples, torch.Generator().manual_seed(int(own[0])))
        known = batch.labels[own] if labelled and batch.labels is not None else None
        label = torch.full((len(own),), flow.parts.null_label) if known is None else known
        condition = Condition(label=label, caption=no_captions(flow, len(own))).to(flow.device)
        field = flow.parts.field(flow.model, condition, guidance)
        found.append(calibration_errors(field, states, flow.parts.path, keys).cpu())
        progress(int(own[-1]) + 1)
    means = torch.cat(found).mean(0).tolist()
    return torch.tensor([float(f"{mean:.{DIGITS}g}") for mean in means], dtype=torch.float64)


def no_captions(flow: TrainedFlow, num: int) -> Tensor | None:
    """The vectors [B, W] that stand for no caption; None: the network reads none."""
    width = flow.config.caption_width
    return torch.zeros(num, width) if width else None


def read_errors(folder: Path) -> Tensor | None:
    """The errors float64 [L] of an earlier start in a folder of results; None if absent."""
    path = folder / CALIBRATION
    if not path.exists():
        return None
    try:
        return torch.tensor(json.loads(path.read_text(encoding="utf-8"))["errors"], dtype=torch.float64)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise Refusal(path, "errors", f"cannot be read ({error})", "delete it; it is then measured again") from error
