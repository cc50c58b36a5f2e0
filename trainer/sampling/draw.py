"""Drawing states from a trained flow."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
import torch.distributed as dist
from torch import Tensor

import trainer.data
from trainer.config.derived import with_controls
from trainer.config.run import RunConfig
from trainer.config.sample import FlowSample
from trainer.data import Split
from trainer.flow import Condition, control, sampler
from trainer.flow.control import ControlInputs, controlled
from trainer.flow.coupling import Encoded
from trainer.flow.coupling.protocol import gathered
from trainer.flow.question import FromTokens, OfToken, Question
from trainer.flow.reward import RewardInputs
from trainer.model.network import Network
from trainer.sampling.conditioning import Conditioning, conditioning_for, with_tasks
from trainer.sampling.flow import FlowParts, keys_of

LEARNED_FROM = 10_000
"""Most examples that a reward of a control learns from."""


@dataclass(frozen=True)
class TrainedFlow:
    """A flow and the network that gives its field, ready to draw.

    The start and the path noise of example i depend on the seed and on i alone. The controls of the section ``sample``
    change the field; :meth:`under` takes others or none.

    Attributes:
        config: the run, with the data that samples are measured against.
        model: the network, in evaluation mode.
        checkpoint: name of the checkpoint that its weights are from; empty while a run trains.
    """

    config: RunConfig
    parts: FlowParts
    model: Network
    checkpoint: str = ""

    @property
    def sample(self) -> FlowSample:
        """The section ``sample`` of the run."""
        assert isinstance(self.config.sample, FlowSample)
        return self.config.sample

    @property
    def device(self) -> torch.device:
        """The device of the network."""
        return next(self.model.parameters()).device

    def drawn_by(self, chosen: sampler.AnyConfig) -> TrainedFlow:
        """The same flow with `chosen` as its own sampler."""
        sample = self.sample.model_copy(update={"sampler": chosen})
        return replace(self, config=self.config.model_copy(update={"sample": sample}))

    def under(self, controls: Sequence[control.AnyConfig]) -> TrainedFlow:
        """The same flow with other controls, applied in this order; none if empty."""
        return replace(self, config=with_controls(self.config, controls))

    def conditioning(self, num: int, *, seed: int, classes: Sequence[int] = (), shown: bool = True) -> Conditioning:
        """Conditions of examples: the classes in turn, or the contexts of held-out images."""
        return conditioning_for(self.config, self.parts, num, seed=seed, classes=classes, shown=shown)

    def draw(
        self,
        condition: Condition,
        *,
        guidance: float,
        seed: int,
        progress: Callable[[int], None] | None = None,
        x_0: Tensor | None = None,
    ) -> Tensor:
        """Draws one state for each condition by the run's own sampler, shared out over the data ranks; collective.

        The conditions are the same on every rank; `x_0` [N, *shape] is where the paths begin, None: where the run's do.
        Returns float32 [N, *shape] on the CPU, on every rank: images or points, or latents of images.
        """
        from megatron.core import parallel_state

        group = parallel_state.get_data_parallel_group()
        assert isinstance(group, dist.ProcessGroup)
        assert condition.label is not None
        num = len(condition.label)
        share = -(-num // group.size())
        own = torch.arange(group.rank() * share, (group.rank() + 1) * share) % num
        begun = None if x_0 is None else x_0[own]
        trajectory = self.follow(
            condition, own, self.sample.sampler, guidance=guidance, seed=seed, progress=progress, x_0=begun
        )
        states = self.parts.data_of(trajectory.final)
        return gathered(states, group).flatten(0, 1)[:num].cpu()

    @torch.no_grad()
    def starts(self, condition: Condition, examples: Tensor, *, seed: int, split: Split = "held_out") -> Tensor:
        """States [B, *shape] at which the paths of examples begin, also where the network encodes captions."""
        drawn = self.parts.starts(condition, examples, seed=seed, split=split).to(self.device)
        coupling = self.parts.coupling
        return coupling.encode(self.model, drawn, condition.to(self.device)) if isinstance(coupling, Encoded) else drawn

    @torch.no_grad()
    def follow(
        self,
        condition: Condition,
        examples: Tensor,
        chosen: sampler.AnyConfig,
        *,
        guidance: float,
        seed: int,
        split: Split = "held_out",
        progress: Callable[[int], None] | None = None,
        x_0: Tensor | None = None,
    ) -> sampler.Trajectory:
        """Draws the examples with numbers int64 [B] on this rank alone, and keeps every state of their paths.

        `split` is the part of a finite source that paths begin at; `x_0` [B, *shape] where they begin, None: where the
        run's do. The trajectory counts all calls of the network, those of controls included.
        """
        device, controls = self.device, self.sample.controls
        evaluations = 0

        def counted(x: Tensor, t: Tensor, condition: Condition, *questions: Question) -> Tensor:
            nonlocal evaluations
            if not any(isinstance(one, FromTokens | OfToken) for one in questions):
                evaluations += 1
                if progress is not None:
                    progress(evaluations)
            return self.model(x, t, condition, *questions)

        own = with_tasks(self.config, self.parts.of_any_caption(condition.rows(examples)), examples).to(device)
        keys = keys_of(examples, "trajectory", seed=seed)
        inputs = ControlInputs(self.parts.path, own, counted, keys=keys, rewards=self._reward_inputs())
        field = self.parts.field(counted, own, guidance)
        field = controlled(field, [one.build(inputs) for one in controls])
        if x_0 is None:
            x_0 = self.starts(condition.rows(examples), examples, seed=seed, split=split)
        follows = chosen.build(self.parts.path)
        trajectory = follows.sample(field, x_0.to(device), chosen.grid(), keys=keys)
        return replace(trajectory, calls={**trajectory.calls, "network": evaluations}) if controls else trajectory

    def _reward_inputs(self) -> RewardInputs:
        config = self.config

        def labelled() -> tuple[Tensor, Tensor]:
            dataset = trainer.data.build(config.data)
            batch = dataset.get(trainer.data.first_data_points(dataset, "train", LEARNED_FROM))
            labels = torch.zeros(len(batch.ids), dtype=torch.int64) if batch.labels is None else batch.labels
            return batch.x_1, labels

        return RewardInputs(config.decoded_shape, config.data.num_classes, labelled, config.run.seed)

    def decode(self, states: Tensor, conditioning: Conditioning) -> Tensor:
        """The images or points [N, *shape] of drawn states, with the known pixels of the conditioning in place."""
        return conditioning.completed(self.parts.space.decode(states))
