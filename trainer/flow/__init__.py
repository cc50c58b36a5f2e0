"""The parts of a flow-matching method: coupling, time, path, target, objective and sampler.

Each folder or file holds one part: its protocol, its implementations and the union `Config` of their settings. A
coupling and a sampler of times are their settings; `build` makes the other parts of theirs.
`Condition` is the input of a network besides the state and the time.
Everywhere t = 0 is the source, t = 1 is the data, and shapes are [B, *D] for states and [B] for times and weights.
"""

from trainer.flow.condition import UNCONDITIONAL, Condition

__all__ = ["UNCONDITIONAL", "Condition"]
