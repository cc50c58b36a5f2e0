"""Data of several shapes, and the runs that can learn from them."""

from trainer.config.run import ImageSample, RunConfig
from trainer.data import ImageFolderConfig, ShardsConfig
from trainer.flow.coupling import IndependentConfig
from trainer.flow.objective import RegressionConfig

REMEDIES = {
    "buckets": "leave data.buckets out, so that all pictures are squares",
    "shapes": "write the shards again without --buckets",
}


def several_shapes(config: RunConfig) -> tuple[tuple[int, int, int], ...]:
    """The shapes (C, H, W) of a run's examples where there are several; empty where there is one.

    Args:
        config: the run.
    """
    shapes = getattr(config.data, "shapes", ())
    return tuple(shapes) if len(shapes) > 1 else ()


def with_shape(config: RunConfig, height: int, width: int) -> RunConfig:
    """A run whose examples have one of its shapes alone.

    Args:
        config: the run.
        height: pixels from top to bottom.
        width: pixels from left to right.

    Raises:
        ValueError: no example of the run has this shape.
    """
    shapes = several_shapes(config) or (tuple(config.data.shape),)
    if (height, width) not in [shape[1:] for shape in shapes]:
        known = ", ".join(f"{shape[1]},{shape[2]}" for shape in shapes if len(shape) == 3)
        raise ValueError(
            f"--shape: {height},{width} is not a shape that {config.run.dir} learns; use {known or 'none'}"
        )
    if not several_shapes(config):
        return config
    assert isinstance(config.data, ImageFolderConfig | ShardsConfig)
    return config.model_copy(update={"data": config.data.of_shape((shapes[0][0], height, width))})


def check_buckets(config: RunConfig) -> None:
    """Refuses examples of several shapes where a part of the run knows one alone.

    Args:
        config: the run.

    Raises:
        ValueError: names field, value and remedy.
    """
    flow, shapes = config.flow, several_shapes(config)
    name = "shapes" if isinstance(config.data, ShardsConfig) else "buckets"
    remedy = REMEDIES[name]
    if len(getattr(flow and flow.source, "shapes", ())) > 1:
        raise ValueError("flow.source: source points have one shape, and these have several; give squares")
    if not shapes:
        return
    if config.model.kind != "dit" or flow is None:
        kind = config.model.kind
        raise ValueError(f"data.{name}: a model of kind {kind} reads images of one shape; use dit, or {remedy}")
    for shape in shapes:
        try:
            config.model.check_states(shape)
        except ValueError as error:
            raise ValueError(f"data.{name}: {list(shape[1:])}: {error}") from error
    for field, value, fits in (
        ("flow.latent", "an autoencoder", flow.latent is None),
        ("flow.context", flow.context and flow.context.kind, flow.context is None),
        ("flow.source", flow.source and flow.source.kind, flow.source is None),
        ("flow.coupling.kind", flow.coupling.kind, isinstance(flow.coupling, IndependentConfig)),
        ("flow.objective.kind", flow.objective.kind, isinstance(flow.objective, RegressionConfig)),
        ("flow.path.kind", flow.path.kind, flow.path.kind != "mirror_interpolant"),
        ("sample.kind", config.sample.kind, isinstance(config.sample, ImageSample)),
        ("trace.steps", list(config.trace.steps), not config.trace.steps),
    ):
        if not fits:
            problem = f"{value} goes with images of one shape, and data.{name} gives {len(shapes)}"
            raise ValueError(f"{field}: {problem}; leave it out, or {remedy}")
