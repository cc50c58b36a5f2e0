"""The weights that a run starts with."""

from trainer.checkpoint.intact import weights_file
from trainer.checkpoint.modules import modules_weights
from trainer.config.run import RunConfig
from trainer.distributed.engine.protocol import Engine
from trainer.model.values import DrawnValues, SavedModules, SavedValues, fill, kept_weights, load_routers
from trainer.model.weight_files import open_weights


def write_initial_weights(engine: Engine, config: RunConfig) -> None:
    """Writes this rank's weights one parameter after the other; nothing is sent.

    They are drawn, or what the rank keeps of those in `model.init_from` is read. Routed adapters may begin with the
    modules of another run.
    """
    kept = kept_weights(engine.shards(), engine.state(("weight",)))
    drawn = DrawnValues(engine.module, config.run.seed)
    modules = modules_weights(config)
    if modules is not None:
        with open_weights(modules) as weights:
            fill(kept, SavedModules(weights, routing=drawn))
        return
    if config.model.init_from is None:
        fill(kept, drawn)
        return
    path = weights_file(config.model.init_from)
    with open_weights(path) as weights:
        fill(kept, SavedValues(weights, otherwise=drawn, new=config.model.new_parameters))
    load_routers(engine.module, path.parent)
