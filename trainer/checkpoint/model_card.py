"""The page beside averaged weights that says what they are."""

from trainer.config.run import RunConfig


def model_card(
    config: RunConfig,
    step: int | None,
    parameters: int,
    *,
    routers: bool,
    weights: str,
    parts: int = 0,
    origin: str | None = None,
) -> str:
    """Describes averaged weights to whoever finds them.

    Args:
        config: the run.
        step: optimiser steps done.
        parameters: elements of all of them.
        routers: whether ``routers.safetensors`` lies beside the weights.
        weights: name of their file, or of their index.
        parts: files that the index names; 0: there is one file and no index.

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
    inside = f"`{weights}`" if not parts else f"the {parts} files that `{weights}` names,"
    load = f'weights = load_file("{weights}")'
    imports = ""
    if parts:
        imports = "import json\nfrom pathlib import Path\n\n"
        load = f"""names = json.loads(Path("{weights}").read_text())["weight_map"].values()
weights = {{name: tensor for file in set(names) for name, tensor in load_file(file).items()}}"""
    return f"""# {model.kind}, {parameters:,} parameters

The moving average (largest decay {config.optim.ema_decay:g}) of the weights of a training run after {step} of
{config.optim.steps} optimiser steps.

| | |
| --- | --- |
| network | {model.kind}: {model.num_layers} layers of width {model.hidden}{heads}; {experts} |
| learned | {method} |
| data | {config.data.kind} |
| batch | {config.optim.global_batch} examples a step |
| weights | float32, {parameters:,} elements, in {inside} by the names of the parameters; expert ids are logical |

`config.yaml` holds the whole configuration.
{beside}
## Loading

```python
{imports}from safetensors.torch import load_file

{load}
```

A run whose network has the same sizes starts from them with `model.init_from={weights}` and the folder before it.
"""
