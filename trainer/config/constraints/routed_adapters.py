"""The tasks that routed adapters tell apart."""

from netsim.foundation.run_reference import ReferenceConfig
from trainer.config.model import AutoencoderConfig, BlockwiseConfig, BlockwiseMLPConfig, GPTConfig
from trainer.config.network.adapters import RoutedAdaptersConfig
from trainer.config.run import RunConfig
from trainer.data.own import OwnDataset


def routed_adapters(config: RunConfig) -> RoutedAdaptersConfig | None:
    """The section of the adapters of a run, if these read the task of each row."""
    adapters = config.model.adapters
    return adapters if isinstance(adapters, RoutedAdaptersConfig) and adapters.mode != "mean" else None


def frozen_modules(config: RunConfig) -> ReferenceConfig | None:
    """The run whose modules the routed adapters of another have and do not train; None: they train their own."""
    adapters = routed_adapters(config)
    return adapters.init_from if adapters is not None and adapters.mode == "routing" else None


def task_names(config: RunConfig) -> tuple[str, ...]:
    """Names of the tasks 0, 1, ... of a run: those of the sources of its data, as far as there are some, or numbers.

    Args:
        config: the run.

    Returns:
        As many as there are tasks; empty where nothing reads a task.
    """
    adapters, sources = routed_adapters(config), _sources(config)
    if adapters is None:
        return ()
    num = adapters.tasks or len(sources) or 1
    return (*sources[:num], *map(str, range(len(sources), num)))


def check_routed(config: RunConfig) -> None:
    """Refuses routed adapters that cannot know the task of a row.

    Args:
        config: the run.

    Raises:
        ValueError: names field, value and remedy.
    """
    adapters, sources = routed_adapters(config), _sources(config)
    if adapters is None:
        return
    if config.flow is None or isinstance(config.model, AutoencoderConfig | GPTConfig):
        raise ValueError(
            f"model.adapters.kind: routed, and a network of kind {config.model.kind} reads no task; use low_rank"
        )
    if isinstance(config.model, BlockwiseConfig | BlockwiseMLPConfig):
        raise ValueError(
            f"model.adapters.kind: routed, and the blocks of kind {config.model.kind} see the rows of a segment alone; "
            "use low_rank"
        )
    num = len(task_names(config))
    if len(sources) > num:
        raise ValueError(
            f"model.adapters.tasks: {num} for the {len(sources)} sources of data; leave it out, or use {len(sources)}"
        )
    if num > 1 and not sources and not isinstance(config.data, OwnDataset):
        raise ValueError(
            f"model.adapters.tasks: {num}, and data of kind {config.data.kind} do not say of which task an example is; "
            "use data of kind mixture, or 1"
        )


def _sources(config: RunConfig) -> tuple[str, ...]:
    """Names of the sources of data of kind mixture."""
    return tuple(getattr(config.data, "sources", ()))
