"""Figures of a flow beside the quality of its samples: motion of clips, letters of sequences."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import trainer.data
from netsim.foundation.page import Facts, Section, Table
from trainer.config.sample import ClipSample, SequenceSample
from trainer.model.conditioning import FirstFrameReader
from trainer.sampling.conditioning import Conditioning
from trainer.sampling.draw import TrainedFlow


class Reading(Protocol):
    """Figures of one kind about a flow: a key of the JSON, lines of a terminal and a section of the page.

    Attributes:
        name: key of the JSON; the schema of an evaluation describes it.
    """

    name: ClassVar[str]

    def to_dict(self) -> dict[str, Any]:
        """The figures as they are written as JSON."""
        ...

    def remarks(self) -> list[str]:
        """Lines below the table of a terminal; one line if possible."""
        ...

    def section(self) -> Section:
        """A section of the page."""
        ...


TOGETHER = 250
"""Examples that are drawn at once."""


def drawn_states(flow: TrainedFlow, conditioning: Conditioning, *, guidance: float, seed: int) -> Tensor:
    """The ends of paths by the run's own sampler, one for each condition, on the CPU."""
    parts = torch.arange(len(conditioning.labels)).split(TOGETHER)
    settings = {"guidance": guidance, "seed": seed}
    paths = (flow.follow(conditioning.condition, part, flow.sample.sampler, **settings) for part in parts)
    return torch.cat([path.final.cpu() for path in paths])


@dataclass(frozen=True)
class ClipReading:
    """Figures of clips drawn by the run's own sampler, with its guidance and controls, and the same of real ones.

    Attributes:
        clips: that were drawn.
        motion: mean absolute difference of neighbouring frames, of drawn clips and of held-out ones.
        first_frame: mean absolute difference of the first frame from the one that the network reads; None if it reads
            none.
        shift: root mean square of the values subtracted from each frame of a state; None if none are.
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
    states = drawn_states(flow, conditioning, guidance=sample.guidance, seed=seed)
    drawn = flow.decode(flow.parts.data_of(states), conditioning)
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


MOST_KNOWN = 100_000
"""Most training examples against which a sequence is checked for being new."""
Letters = NDArray[np.int64]
"""Numbers of letters [N, L]."""


@dataclass(frozen=True)
class SequenceReading:
    """Figures of sequences drawn by the run's own sampler, with its guidance and controls, and the same of real ones.

    Each is a pair: of what is drawn, and of as many held-out examples.

    Attributes:
        sequences: that were drawn.
        places: divergence in nats of the letters at a place from those of the training examples, the mean over places.
        neighbours: the same of letters at two neighbouring places together.
        distinct: share of different sequences.
        new: share that is not among the training examples.
    """

    sequences: int
    places: tuple[float, float]
    neighbours: tuple[float, float]
    distinct: tuple[float, float]
    new: tuple[float, float]
    name: ClassVar[str] = "sequences"

    def to_dict(self) -> dict[str, Any]:
        figures = {name: getattr(self, name) for name in ("places", "neighbours", "distinct", "new")}
        pairs = {name: {"drawn": drawn, "held_out": real} for name, (drawn, real) in figures.items()}
        return {"sequences": self.sequences, **pairs}

    def remarks(self) -> list[str]:
        (distinct, real_distinct), (new, real_new) = self.distinct, self.new
        return [
            f"letters at a place {self.places[0]:.4f} nats from the data (held-out {self.places[1]:.4f}), neighbours "
            f"{self.neighbours[0]:.4f} ({self.neighbours[1]:.4f}); {distinct:.1%} distinct ({real_distinct:.1%}), "
            f"{new:.1%} new ({real_new:.1%})"
        ]

    def section(self) -> Section:
        facts = [
            ("Distinct", f"{self.distinct[0]:.1%}", f"held-out sequences {self.distinct[1]:.1%}"),
            ("New", f"{self.new[0]:.1%}", f"not among training examples; held-out sequences {self.new[1]:.1%}"),
        ]
        rows = [
            (what, f"{drawn:.4f}", f"{real:.4f}")
            for what, (drawn, real) in (("a place", self.places), ("two neighbouring places", self.neighbours))
        ]
        caption = (
            f"Divergence in nats of the letters of {self.sequences:,} sequences from those of the training examples; "
            "held-out ones have what perfect draws would have."
        )
        return Section("Letters", [Facts(facts), Table(("letters at", "drawn", "held-out"), rows, caption)])


def divergence(drawn: Letters, real: Letters, num_letters: int, width: int) -> float:
    """Mean over `width` neighbouring places of the divergence in nats of drawn letters from real ones.

    Half an occurrence is added to each real count, so that letters that never occur there cost much, but not infinity.
    """
    places = drawn.shape[1] - width + 1
    base = num_letters ** np.arange(width)
    total = 0.0
    for first in range(places):
        q, p = (
            np.bincount(letters[:, first : first + width] @ base, minlength=num_letters**width).astype(np.float64)
            for letters in (drawn, real)
        )
        q, p = q / q.sum(), (p + 0.5) / (p + 0.5).sum()
        total += float((q * np.log(np.maximum(q, 1e-300) / p)).sum())
    return total / places


def read_sequences(flow: TrainedFlow, *, num: int, seed: int, progress: Callable[[str], None]) -> list[Reading]:
    """Draws `num` sequences and compares them; empty if the run draws no sequences."""
    config, sample = flow.config, flow.sample
    if not isinstance(sample, SequenceSample):
        return []
    progress(f"drawing {num} sequences")
    conditioning = flow.conditioning(num, seed=seed)
    states = drawn_states(flow, conditioning, guidance=sample.guidance, seed=seed)
    dataset = trainer.data.build(config.data)
    known = _letters(dataset.get(trainer.data.first_data_points(dataset, "train", MOST_KNOWN)).x_1)
    held_out = _letters(dataset.get(trainer.data.first_data_points(dataset, "held_out", num)).x_1)
    drawn, number = _letters(states), len(config.alphabet)
    seen = {row.tobytes() for row in known}
    both = drawn, held_out

    def figures(width: int) -> tuple[float, float]:
        first, second = (divergence(letters, known, number, min(width, known.shape[1])) for letters in both)
        return first, second

    distinct, other = (len({row.tobytes() for row in letters}) / len(letters) for letters in both)
    new, unseen = (sum(row.tobytes() not in seen for row in letters) / len(letters) for letters in both)
    return [SequenceReading(len(drawn), figures(1), figures(2), (distinct, other), (new, unseen))]


def _letters(sequences: torch.Tensor) -> Letters:
    """Returns the letter numbers [N, L] of one-hot sequences or states [N, V, 1, L]."""
    return sequences.argmax(1).flatten(1).numpy()
