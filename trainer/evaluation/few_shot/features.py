"""Episodes over the held-out examples of some data, on features and on the examples as they are."""

from collections.abc import Callable

import torch
from torch import Tensor

import trainer.data
from trainer.data import AnyConfig, Batch
from trainer.evaluation.few_shot.episodes import Episodes
from trainer.evaluation.few_shot.measurement import FewShotMeasurement, play
from trainer.observe.measurement import Progress

MOST_EXAMPLES = 20_000
TOGETHER = 250
"""Examples whose features are computed at once."""


def played_examples(data: AnyConfig, episodes: Episodes) -> Batch:
    """The held-out examples that episodes are drawn from; raises a ValueError if they cannot be."""
    episodes.check()
    dataset = trainer.data.build(data)
    batch = dataset.get(trainer.data.first_data_points(dataset, "held_out", MOST_EXAMPLES))
    episodes.check_labels(batch.labels)
    return batch


@torch.no_grad()
def measure_features(
    extract: Callable[[Tensor], Tensor],
    name: str,
    batch: Batch,
    episodes: Episodes,
    *,
    about: str,
    checkpoint: str,
    device: torch.device,
    progress: Progress,
) -> FewShotMeasurement:
    """Plays episodes on features [B, W], called `name`, of examples [B, *D], and on these as they are.

    `about` says in a few words what the examples are.
    """
    progress(f"features of {len(batch.x_1)} held-out examples")
    parts = [extract(part.to(device)).float().flatten(1).cpu() for part in batch.x_1.split(TOGETHER)]
    sets = {name: torch.cat(parts), "examples themselves": batch.x_1.float().flatten(1)}
    shares = {each: play(values, batch.labels, episodes, progress) for each, values in sets.items()}
    return FewShotMeasurement(checkpoint, about, len(batch.x_1), episodes, shares)


def in_words(data: AnyConfig) -> str:
    """Kind and place of data."""
    return " ".join(str(word) for word in (data.kind, getattr(data, "path", None)) if word is not None)
