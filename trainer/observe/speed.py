"""How fast a run learns, and how much of its devices it uses."""

from trainer.config.model import GPTConfig
from trainer.config.run import RunConfig
from trainer.model.flops import training_flops


class Speed:
    """Turns the time of a step into figures; model FLOP/s count what the model needs, not what the ranks repeat."""

    def __init__(self, config: RunConfig, world_size: int) -> None:
        """Counts the work of a step; `world_size` devices share it."""
        self._examples = config.optim.global_batch
        self._tokens = config.model.tokens(config.state_shape) if isinstance(config.model, GPTConfig) else None
        of_example = training_flops(config)
        self._flops = None if of_example is None else self._examples * of_example
        peak = config.observe.peak_flops
        self._peak_flops = None if peak is None else peak * world_size

    def figures(self, step_s: float) -> dict[str, float]:
        """``time.step_s``, ``time.samples_per_s``, of text ``time.tokens_per_s``, ``time.model_flops_per_s`` over all
        ranks.

        With ``observe.peak_flops`` also ``time.mfu``: model FLOP/s over the devices' peak (Chowdhery et al., "PaLM",
        2022, appendix B). A network whose multiply-adds are not known has the first two alone.
        """
        figures = {"time.step_s": step_s, "time.samples_per_s": self._examples / step_s}
        if self._tokens is not None:
            figures["time.tokens_per_s"] = self._tokens * figures["time.samples_per_s"]
        if self._flops is None:
            return figures
        figures["time.model_flops_per_s"] = self._flops / step_s
        if self._peak_flops is not None:
            figures["time.mfu"] = figures["time.model_flops_per_s"] / self._peak_flops
        return figures
