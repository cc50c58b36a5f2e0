"""The page beside averaged weights that says what they are."""

import math
from collections.abc import Iterable, Sequence

from trainer.config.run import RunConfig


def model_card(config: RunConfig, step: int, shapes: Iterable[Sequence[int]], *, routers: bool, weights: str) -> str:
    """Describes averaged weights to whoever finds them.

    Args:
        config: the run.
        step: optimiser steps done.
        shapes: of all parameters.
        routers: whether ``routers.safetensors`` lies beside the weights.
        weights: name of their file.

    Returns:
        Markdown: the same for the same run, wherever and whenever it is written.
    """
    model, moe = config.model, config.moe
    experts = (
        f"{moe.num_experts} experts a layer, {moe.top_k} of them for each token, {moe.router.kind} routing"
        if moe
        else "dense"
    )
    method = (
        f"flow matching: {config.flow.coupling.kind} coupling, {config.flow.path.kind} path, "
        f"{config.flow.target.kind} target; time 0 is the source and time 1 the data"
        if config.flow
        else "next byte"
    )
    heads = "" if model.heads is None else f", {model.heads} heads"
    beside = (
        "\nWhat the routers have learned besides their weights is in `routers.safetensors`; `init_from` takes it from "
        "there.\n"
        if routers
        else ""
    )
    parameters = sum(map(math.prod, shapes))
    return f"""# {model.kind}, {parameters:,} parameters

The moving average (largest decay {config.optim.ema_decay:g}) of the weights of a training run after {step} of
{config.optim.steps} optimiser steps.

| | |
| --- | --- |
| network | {model.kind}: {model.num_layers} layers of width {model.hidden}{heads}; {experts} |
| learned | {method} |
| data | {config.data.kind} |
| batch | {config.optim.global_batch} examples a step |
| weights | float32, {parameters:,} elements, in `{weights}` by the names of the parameters; expert ids are logical |

`config.yaml` holds the whole configuration.
{beside}
## Loading

```python
from safetensors.torch import load_file

weights = load_file("{weights}")
```

A run whose network has the same sizes starts from them with `model.init_from={weights}` and the folder before it.
"""
