"""Evaluation of the averaged weights on the held-out split."""

from typing import Any

import torch
from torch import Tensor

from trainer.config.layout import Layout
from trainer.config.run import RunConfig
from trainer.data import Dataset, Loader
from trainer.data.loader import BadExampleList
from trainer.training.generators import micro_batch_generator, seed_dropout
from trainer.training.reduction import held_out_means
from trainer.training.task import Networks, OfSources, Task
from trainer.training.weighting import weighted_mean

LOSS = "held_out_loss"


class HeldOut:
    """The held-out split, dealt out to the ranks."""

    def __init__(
        self, config: RunConfig, layout: Layout, rank: int, dataset: Dataset, bad_examples: BadExampleList
    ) -> None:
        """Divides the held-out split of a data set among the ranks."""
        self._seed, self._bad_examples = config.run.seed, bad_examples
        self._sources = () if dataset.mix is None else tuple(dataset.mix.sources)
        self._loader = Loader(
            dataset,
            global_batch=layout.micro_batch * layout.data_parallel,
            micro_batch=layout.micro_batch,
            rank=layout.data_rank(rank),
            world_size=layout.data_parallel,
            seed=config.run.seed,
            split="held_out",
            max_bad_share=config.data_loading.max_bad_share,
        )

    def figures(self, step: int, task: Task[Any], networks: Networks, device: torch.device) -> dict[str, float]:
        """Weighted means of the task's figures, each example counted once on every tensor rank; collective.

        The averaged weights are used. Of a mixture, the loss of each source is included.
        """
        examined: dict[str, list[Tensor]] = {}
        log_weights: list[Tensor | None] = []
        sources: list[Tensor] = []
        with networks.average() as module:
            for index in range(self._loader.steps_of_pass):
                number, counted = self._loader.counted(index, 0)
                place = self._seed, "held_out", number, 0
                batch = self._bad_examples.take(step, self._loader.batch(index, 0)).to(device)
                (drawn,) = task.draw([batch], [micro_batch_generator(*place)])
                seed_dropout(*place)
                own = slice(counted)
                for name, values in task.examine(module, drawn).items():
                    examined.setdefault(name, []).append(values[own])
                log_weights.append(None if drawn.log_weight is None else drawn.log_weight[own])
                if isinstance(drawn, OfSources) and drawn.sources is not None:
                    sources.append(drawn.sources[own])
        means = {name: weighted_mean(values, log_weights) for name, values in examined.items()}
        if self._sources and sources and LOSS in examined:
            means |= held_out_means(examined[LOSS], sources, log_weights, self._sources, LOSS)
        return {**means, **task.summarise(means)}
