"""How far the letters of drawn sequences are from those of the data, and how many sequences differ or are new."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

import trainer.data
from netsim.foundation.page import Facts, Section, Table
from trainer.config.sample import SequenceSample
from trainer.evaluation.reading import Reading
from trainer.sampling.draw import TrainedFlow

MOST_KNOWN = 100_000
"""Training examples that a sequence counts as new beside."""
TOGETHER = 250
"""Sequences that are drawn at once."""

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

    Real ones count half a letter more of each, so that what never occurs among them costs much and not infinity.
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
    finals = [
        flow.follow(conditioning.condition, own, sample.sampler, guidance=sample.guidance, seed=seed).final.cpu()
        for own in torch.arange(len(conditioning.labels)).split(TOGETHER)
    ]
    dataset = trainer.data.build(config.data)
    known = _letters(dataset.get(trainer.data.first_data_points(dataset, "train", MOST_KNOWN)).x_1)
    held_out = _letters(dataset.get(trainer.data.first_data_points(dataset, "held_out", num)).x_1)
    drawn, number = _letters(torch.cat(finals)), len(config.alphabet)
    seen = {row.tobytes() for row in known}
    both = drawn, held_out

    def figures(width: int) -> tuple[float, float]:
        first, second = (divergence(letters, known, number, min(width, known.shape[1])) for letters in both)
        return first, second

    distinct, other = (len({row.tobytes() for row in letters}) / len(letters) for letters in both)
    new, unseen = (sum(row.tobytes() not in seen for row in letters) / len(letters) for letters in both)
    return [SequenceReading(len(drawn), figures(1), figures(2), (distinct, other), (new, unseen))]


def _letters(sequences: torch.Tensor) -> Letters:
    """Of one-hot sequences or states [N, V, 1, L]."""
    return sequences.argmax(1).flatten(1).numpy()
