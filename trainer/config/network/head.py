"""Settings of a head: a small network that draws, token by token, what a large one leaves open."""

from pydantic import PositiveInt

from netsim.foundation.settings import Section
from trainer.config.network.mlp import INPUT_WAVES
from trainer.config.network.sizes import Width


class HeadConfig(Section):
    """A perceptron that is called for each token with its features from the trunk."""

    hidden: Width = 64
    """Width."""
    layers: PositiveInt = 2
    """Hidden layers."""

    def multiply_adds(self, values: int, features: int, *, draws: int = 1) -> int:
        """Multiply-adds of one call for one token of `draws` states at once; the features are read once for all of
        them.
        """
        state = (values + 1) * (1 + 2 * INPUT_WAVES) * self.hidden
        behind = (self.layers - 1) * self.hidden**2 + self.hidden * values
        return features * self.hidden + draws * (state + behind)
