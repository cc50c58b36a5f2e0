"""The page beside averaged weights that says what they are."""

from trainer.checkpoint.recipe.choice import page, recipe_for
from trainer.config.model.protocol import AdaptersConfig
from trainer.config.run import RunConfig
from trainer.data.shard.index import listed


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
    """Describes averaged weights to whoever finds them, in Markdown: the same for the same run, wherever it is written.

    Its block of Python computes the same as the network here, from the files beside it, with torch and safetensors.

    Args:
        step: optimiser steps done; None if unknown.
        routers: whether ``routers.safetensors`` is beside the weights.
        weights: name of their file, or of their index.
        parts: files that the index names; 0: there is one file and no index.
        origin: the network of another package that they are from; None: they were trained here.
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
        else model.flowless or ""
        if config.task.kind != "next_token"
        else "next byte"
        if getattr(config.data, "tokenizer", None) is None
        else "next token of the tokenizer in `tokenizer.json`"
    )
    names = config.data.class_names
    classes = f"| classes | {listed(names)} |\n" if names else ""
    heads = "" if model.heads is None else f", {model.heads} heads"
    beside = (
        "\nWhat the routers have learned besides their weights is in `routers.safetensors`; `init_from` takes it from "
        "there.\n"
        if routers
        else ""
    )
    inside = f"`{weights}`" if not parts else f"the {parts} files that `{weights}` names,"
    adapters = model.adapters
    what = f"{model.kind}, {parameters:,} parameters" if adapters is None else f"Adapters of a {model.kind}"
    experts = experts if adapters is None else f"{experts}, frozen"
    beside += "" if adapters is None else _adapters(adapters, parameters)
    return f"""# {what}

{_history(config, step, origin)}

| | |
| --- | --- |
| network | {model.kind}: {model.num_layers} layers of width {model.hidden}{heads}; {experts} |
| learned | {method} |
| data | {config.data.kind} |
{classes}| batch | {config.optim.global_batch} examples a step |
| weights | float32, {parameters:,} elements, in {inside} by the names of the parameters; expert ids are logical |

`config.yaml` holds the whole configuration.
{beside}
{_recipe(config, weights)}
A run whose network has the same sizes starts from them with `model.init_from={weights}` and the folder before it.
"""


def _adapters(adapters: AdaptersConfig, parameters: int) -> str:
    digest = "" if adapters.base.digest is None else f", whose averaged weights have the SHA-256 {adapters.base.digest}"
    names = ", ".join(adapters.on) or "all inside the blocks"
    return f"""
These {parameters:,} parameters are adapters alone, of kind {adapters.kind} and rank {adapters.rank}, beside linear
layers ({names}). They are of no use without the weights that they were trained beside: those of the run
`{adapters.base.run}`{digest}.
"""


def _history(config: RunConfig, step: int | None, origin: str | None) -> str:
    if origin is not None:
        return f"The weights of a {origin}, under the names that they have here. `config.yaml` is of a run to come."
    done = "" if step is None else f" after {step} of\n{config.optim.steps} optimiser steps"
    return f"The moving average (largest decay {config.optim.ema_decay:g}) of the weights of a training run{done}."


def _recipe(config: RunConfig, weights: str) -> str:
    """How the network is rebuilt, or at least how the weights are read."""
    recipe = recipe_for(config, weights)
    notes = "".join(f"\n{note}\n" for note in recipe.notes)
    if recipe.program:
        return f"""## The network in plain PyTorch

Run this page in this folder, with torch and safetensors alone.
{notes}
```python
{recipe.program}```
"""
    return f"""## Loading
{notes}
```python
{page(["weights"])}

weights = read("{weights}")
```
"""
