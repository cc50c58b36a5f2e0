"""How much drawn clips move, beside clips of the data, and how far they keep to the frame that they begin with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

import trainer.data
from netsim.foundation.page import Facts, Section
from trainer.config.sample import ClipSample
from trainer.evaluation.reading import Reading
from trainer.model.first_frame import FirstFrameReader
from trainer.sampling.draw import TrainedFlow

TOGETHER = 250
"""Clips that are drawn at once."""


@dataclass(frozen=True)
class ClipReading:
    """Figures of clips drawn by the run's own sampler, with its guidance and controls, and the same of real ones.

    Attributes:
        clips: that were drawn.
        motion: mean absolute difference of neighbouring frames, of drawn clips and of held-out ones.
        first_frame: mean absolute difference of the first frame from the one that the network reads; None: it reads
            none.
        shift: root mean square of what is taken from each frame of a state; None: nothing is.
    """

    clips: int
    motion: tuple[float, float]
    first_frame: float | None
    shift: float | None
    name: ClassVar[str] = "clips"

    def to_dict(self) -> dict[str, Any]:
        drawn, real = self.motion
        motion = {"drawn": drawn, "held_out": real, "ratio": drawn / real}
        return {"clips": self.clips, "motion": motion, "first_frame": self.first_frame, "shift": self.shift}

    def remarks(self) -> list[str]:
        drawn, real = self.motion
        line = f"motion {drawn:.4f} between frames, {drawn / real:.2f} times that of held-out clips"
        if self.first_frame is not None:
            line += f"; the first frame is {self.first_frame:.4f} from the one that is read"
        return [line if self.shift is None else f"{line}; shift {self.shift:.3f}"]

    def section(self) -> Section:
        drawn, real = self.motion
        facts = [("Motion", f"{drawn / real:.2f}", f"times that of held-out clips ({drawn:.4f} and {real:.4f})")]
        if self.first_frame is not None:
            facts.append(("First frame", f"{self.first_frame:.4f}", "mean difference from the frame that is read"))
        if self.shift is not None:
            facts.append(("Shift", f"{self.shift:.3f}", "root mean square of what is taken from each frame"))
        return Section("Motion", [Facts(facts)])


def motion(clips: Tensor, channels: int) -> float:
    """Mean absolute difference of neighbouring frames of clips [N, T C, H, W]."""
    frames = clips.unflatten(1, (-1, channels))
    return float((frames[:, 1:] - frames[:, :-1]).abs().mean())


@torch.no_grad()
def read_clips(flow: TrainedFlow, *, num: int, seed: int, progress: Callable[[str], None]) -> list[Reading]:
    """Draws `num` clips and measures them; empty if the run draws no clips."""
    config, sample = flow.config, flow.sample
    if not isinstance(sample, ClipSample):
        return []
    progress(f"drawing {num} clips")
    conditioning, channels = flow.conditioning(num, seed=seed), config.frame_channels
    finals = [
        flow.follow(conditioning.condition, own, sample.sampler, guidance=sample.guidance, seed=seed).final.cpu()
        for own in torch.arange(len(conditioning.labels)).split(TOGETHER)
    ]
    drawn = flow.decode(flow.parts.data_of(torch.cat(finals)), conditioning)
    dataset = trainer.data.build(config.data)
    real = dataset.get(trainer.data.first_data_points(dataset, "held_out", num)).x_1
    context, first = conditioning.condition.context, None
    if context is not None and config.flow is not None and config.flow.context is not None:
        first = float((drawn[:, :channels] - context[:, :channels]).abs().mean())
    shift = None
    reader = getattr(flow.model, "read_context", None)
    if context is not None and isinstance(reader, FirstFrameReader):
        shift = float(reader.shift(context[:TOGETHER, :channels].to(flow.device)).float().square().mean().sqrt())
    return [ClipReading(len(drawn), (motion(drawn, channels), motion(real, channels)), first, shift)]
