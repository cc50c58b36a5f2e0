"""How well the averaged weights do on what they have not seen."""

from typing import Any

import torch
from torch import Tensor

from trainer.config.layout import Layout
from trainer.config.run import RunConfig
from trainer.data import Dataset, Loader
from trainer.data.bad_examples import BadExampleList
from trainer.training.generators import micro_batch_generator, seed_dropout
from trainer.training.task import Networks, Task
from trainer.training.weighting import weighted_mean


class HeldOut:
    """The held-out split, dealt out to the ranks."""

    def __init__(
        self, config: RunConfig, layout: Layout, rank: int, dataset: Dataset, bad_examples: BadExampleList
    ) -> None:
        """Deals it out.

        Args:
            config: the run.
            layout: how it is laid out.
            rank: this process.
            dataset: whose held-out split is evaluated.
            bad_examples: takes note of what cannot be read.
        """
        self._seed, self._bad_examples = config.run.seed, bad_examples
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
        """Means of what a task examines, each example once a tensor rank and by its weight; collective.

        Args:
            step: optimiser steps done.
            task: what the run learns.
            networks: the run's network, whose averaged weights are examined.
            device: where this rank computes.

        Returns:
            The mean of each figure by its name in the metrics.
        """
        examined: dict[str, list[Tensor]] = {}
        log_weights = []
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
        means = {name: weighted_mean(values, log_weights) for name, values in examined.items()}
        return {**means, **task.summarise(means)}
