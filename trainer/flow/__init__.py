"""The parts of a flow-matching method: coupling, time, path, target, objective and sampler.

Each folder holds one part: its protocol, its implementations, the union `Config` of their configurations and `build`.
The folder `composition` holds the rules about which parts can be combined.
`Condition` is the input of a network besides the state and the time.
Everywhere t = 0 is the source, t = 1 is the data, and shapes are [B, *D] for states and [B] for times and weights.
"""

from trainer.flow.condition import UNCONDITIONAL, Condition

__all__ = ["UNCONDITIONAL", "Condition"]
