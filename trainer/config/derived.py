"""Values that follow from the settings of a run: shapes, experts, adapters and their tasks."""

import math
from collections.abc import Sequence
from typing import Any

from netsim.foundation.run_reference import ReferenceConfig
from trainer.config.model.protocol import RoutedAdaptersConfig
from trainer.config.run import RunConfig
from trainer.config.sample import FlowSample
from trainer.data import ImageFolderConfig, ShardsConfig
from trainer.flow import control, sampler


def of_base(config: RunConfig) -> RunConfig:
    """Returns the configuration without adapters, that of the base network; unchanged if there are none."""
    if config.model.adapters is None:
        return config
    return config.model_copy(update={"model": config.model.model_copy(update={"adapters": None})})


def with_controls(config: RunConfig, controls: Sequence[control.AnyConfig]) -> RunConfig:
    """Returns the configuration of a flow with its samples' controls replaced by those given, which may be none."""
    sample = config.sample.model_copy(update={"controls": tuple(controls)})
    return config.model_copy(update={"sample": sample})


def sampler_of(config: RunConfig) -> sampler.AnyConfig:
    """The sampler of a run that follows a flow."""
    assert isinstance(config.sample, FlowSample)
    return config.sample.sampler


def drawable(config: RunConfig) -> bool:
    """Whether the samples of an image model can be shown: grey or RGB images, or latents of such images."""
    return len(config.decoded_shape) == 3 and config.decoded_shape[0] in (1, 3)


def states_of(config: RunConfig) -> dict[str, Any]:
    """Returns the settings that a run must share with another whose frozen flow it calls, by name in messages."""
    flow = config.flow
    assert flow is not None
    return {
        "states of shape": list(config.state_shape),
        "flow.latent": flow.latent and flow.latent.digest,
        "flow.data_scale": flow.data_scale,
        "flow.path": flow.path.model_dump(mode="json"),
        "a source": config.source_data and config.source_data.model_dump(mode="json"),
        "flow.context": flow.context and flow.context.model_dump(mode="json"),
        "contexts of shape": config.context_shape and list(config.context_shape),
        "classes": config.data.num_classes,
    }


def tokens_per_example(config: RunConfig) -> int:
    return config.model.tokens(config.state_shape)


def expert_shapes(config: RunConfig) -> dict[str, tuple[int, ...]]:
    """Shapes of the parameters of one expert by name; empty without a mixture."""
    if config.moe is None:
        return {}
    hidden, inner = config.model.hidden, config.moe.expert_hidden
    return {"linear_fc1.weight": (inner, hidden), "linear_fc2.weight": (hidden, inner)}


def expert_parameters(config: RunConfig) -> int:
    """Elements of one expert: two matrices between model width and expert width, no biases."""
    return sum(math.prod(shape) for shape in expert_shapes(config).values())


def several_shapes(config: RunConfig) -> tuple[tuple[int, int, int], ...]:
    """The shapes (C, H, W) of a run's examples where there are several; empty where there is one."""
    shapes = getattr(config.data, "shapes", ())
    return tuple(shapes) if len(shapes) > 1 else ()


def with_shape(config: RunConfig, height: int, width: int) -> RunConfig:
    """A run whose examples have one of its shapes alone; refuses a shape that no example has."""
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


def routed_adapters(config: RunConfig) -> RoutedAdaptersConfig | None:
    """The section of the adapters of a run that read the task of each row."""
    adapters = config.model.adapters
    return adapters if isinstance(adapters, RoutedAdaptersConfig) and adapters.mode != "mean" else None


def frozen_modules(config: RunConfig) -> ReferenceConfig | None:
    """Returns the run from which routed adapters take their frozen modules; None: they train their own."""
    adapters = routed_adapters(config)
    return adapters.init_from if adapters is not None and adapters.mode == "routing" else None


def sources_of(config: RunConfig) -> tuple[str, ...]:
    return tuple(getattr(config.data, "sources", ()))


def task_names(config: RunConfig) -> tuple[str, ...]:
    """Names of the tasks that routed adapters tell apart, sources of data first, then numbers; empty without any."""
    adapters, sources = routed_adapters(config), sources_of(config)
    if adapters is None:
        return ()
    num = adapters.tasks or len(sources) or 1
    return (*sources[:num], *map(str, range(len(sources), num)))
