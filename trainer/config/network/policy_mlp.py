"""Settings of a network that chooses actions."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import PrivateAttr

from trainer.config.network.protocol import Input, NetworkConfig
from trainer.config.network.sizes import Layers, Width


@dataclass(frozen=True)
class PolicySizes:
    """Sizes of a policy's input and output.

    Attributes:
        states: on the longest path to an object, all of which a loss reads.
        features: of a state.
        condition: numbers of the condition of an object.
        actions: the stop included.
        backward: whether it also learns the probabilities of backward actions.
    """

    states: int
    features: int
    condition: int
    actions: int
    backward: bool


class PolicyMLPConfig(NetworkConfig):
    """Residual blocks over the features of a state and a condition, that choose the next action."""

    kind: Literal["policy_mlp"] = "policy_mlp"
    hidden: Width = 96
    """Width."""
    num_layers: Layers = 2
    """Residual blocks."""
    init_from: Path | None = None
    """An ema.safetensors whose weights this run starts with, or the folder of the run that has it."""

    data_kinds = ("numbers",)
    sample_kinds = ("objects",)
    task_kinds = ("trajectory_balance",)
    flowless = "a policy_mlp learns to build objects"
    no_mixture = "a policy_mlp has no feed-forward layers to make experts of"
    no_division = "share attention heads, which policy_mlp lacks"

    _sizes: PolicySizes | None = PrivateAttr(default=None)

    @property
    def sizes(self) -> PolicySizes:
        """The sizes that the task of the run needs."""
        if self._sizes is None:
            raise ValueError(
                f"model.kind: {self.kind} needs to know the environment, which a task of kind trajectory_balance "
                "names; use one, or a network of your own"
            )
        return self._sizes

    def fitted(self, task: Any) -> "PolicyMLPConfig":
        """It takes over the `policy_sizes` of its task."""
        sizes = getattr(task, "policy_sizes", None)
        if sizes is None or sizes == self._sizes:
            return self
        fitted = self.model_copy()
        fitted._sizes = sizes
        return fitted

    def inputs(self, state_shape: tuple[int, ...]) -> tuple[Input, ...]:
        """Features of all states on the way to an object, and its condition."""
        del state_shape
        return Input((self.sizes.states, self.sizes.features)), Input((self.sizes.condition,))

    def multiply_adds(
        self, state_shape: tuple[int, ...], *, context_channels: int = 0, mixture: int | None = None
    ) -> int:
        """Of all states on the way to an object."""
        del state_shape, context_channels, mixture
        sizes, width = self.sizes, self.hidden
        answers = sizes.actions + (sizes.actions - 1) * sizes.backward
        state = width * (sizes.features + self.num_layers * width + answers)
        return sizes.states * state + width * (2 * sizes.condition + 1)
