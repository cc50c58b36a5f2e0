"""The model card: a page in Markdown that describes averaged weights."""

from collections.abc import Iterator, Sequence

from trainer.checkpoint.program import unsuited
from trainer.config.model import AutoencoderConfig, GPTConfig
from trainer.config.model.protocol import AdaptersConfig
from trainer.config.run import RunConfig
from trainer.data.shard.index import listed

SAMPLES, STEPS = 4, 20
"""Examples of a flow that a card draws, in so many steps where the sampler of the run has none."""
BYTES = 256
"""Tokens of a vocabulary of bytes."""


def model_card(
    config: RunConfig,
    step: int | None,
    parameters: int,
    *,
    routers: bool,
    weights: str,
    parts: int = 0,
    origin: str | None = None,
    programs: Sequence[str] = (),
) -> str:
    """Returns a description of averaged weights, in Markdown: the same for the same run, wherever it is written.

    Its blocks of Python read the files beside it, with torch and safetensors alone.

    Args:
        step: optimiser steps done; None if unknown.
        routers: whether ``routers.safetensors`` is beside the weights.
        weights: name of their file, or of their index.
        parts: files that the index names; 0: there is one file and no index.
        origin: the network of another package that they are from; None: they were trained here.
        programs: files beside the weights that :func:`trainer.checkpoint.program.write_programs` wrote.
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
{_loading(weights, parts)}
{_program(config, programs)}
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


def _loading(weights: str, parts: int) -> str:
    if not parts:
        lines = ["from safetensors.torch import load_file", "", f'weights = load_file("{weights}")']
    else:
        lines = [
            "import json",
            "from pathlib import Path",
            "",
            "from safetensors.torch import load_file",
            "",
            f'index = json.loads(Path("{weights}").read_text())',
            'parts = sorted(set(index["weight_map"].values()))',
            "weights = {name: tensor for part in parts for name, tensor in load_file(part).items()}",
        ]
    return f"## The weights\n\n{_block(lines)}"


def _program(config: RunConfig, programs: Sequence[str]) -> str:
    if not programs:
        reason = unsuited(config)
        if reason is not None:
            return f"No program of torch.export computes this network: {reason}.\n"
        return "`python -m trainer export RUN --program --out DIR` writes the network as a program of torch.export.\n"
    notes = "".join(f"{note}\n" for note in _notes(config))
    lines = ["import torch", "", *_use(config)]
    return f"## The network\n\nRun this in this folder, with torch alone.\n{notes}\n{_block(lines)}"


def _block(lines: Sequence[str]) -> str:
    return "\n".join(["```python", *lines, "```", ""])


def _use(config: RunConfig) -> list[str]:
    """Returns lines of Python that draw samples with the exported programs of a network, or call them."""
    match config.model:
        case AutoencoderConfig():
            shape = ", ".join(map(str, config.state_shape))
            return [
                'encode, decode = (torch.export.load(f"{name}.pt2").module() for name in ("encode", "decode"))',
                "with torch.no_grad():",
                f"    mean, log_variance = encode(torch.zeros(1, {shape}))",
                "    images = decode(mean)",
            ]
        case GPTConfig() as model:
            return _text(model)
    if config.flow is not None:
        return _samples(config)
    inputs = ", ".join(f"[B, {', '.join(map(str, one.shape))}]" for one in config.model.inputs(config.state_shape))
    return [f'network = torch.export.load("program.pt2").module()  # of inputs {inputs}']


def _text(model: GPTConfig) -> list[str]:
    of_bytes = model.vocabulary == BYTES
    prompt, written = ('list(b"def ")', "bytes(tokens[0].tolist())") if of_bytes else ("[1]", "tokens[0].tolist()")
    return [
        'network = torch.export.load("program.pt2").module()',
        "generator = torch.Generator().manual_seed(0)",
        f"tokens = torch.tensor([{prompt}])",
        "for _ in range(50):",
        "    with torch.no_grad():",
        f"        logits = network(tokens[:, -{model.context}:])[:, -1]",
        "    following = torch.multinomial((logits / 0.8).softmax(dim=1), 1, generator=generator)",
        "    tokens = torch.cat([tokens, following], dim=1)",
        f"print({written})",
    ]


def _samples(config: RunConfig) -> list[str]:
    """Returns lines of Python that draw a flow's samples by Euler's method, under the guidance of the run."""
    assert config.flow is not None
    classes = config.num_labels
    sampler, guidance = getattr(config.sample, "sampler", None), getattr(config.sample, "guidance", 1.0)
    inputs, given = ["x", "t.expand(len(x))"], []
    if not config.labels_in_state:
        labels = f"torch.arange({SAMPLES}) % {classes}" if classes else f"torch.zeros({SAMPLES}, dtype=torch.int64)"
        given.append(f"label = {labels}  # {classes} stands for none")
        inputs.append("label")
    for name, shape in (("context", config.context_shape), ("caption", (config.caption_width,))):
        if shape and shape[0]:
            given.append(f"{name} = torch.zeros({SAMPLES}, {', '.join(map(str, shape))})  # yours")
            inputs.append(name)
    called = ", ".join(inputs)
    moves = [f"        speed = velocity({called})"]
    if classes and guidance != 1:
        given.append(f"nothing = torch.full_like(label, {classes})")
        unlabelled = called.replace("label", "nothing")
        moves.append(f"        speed += {guidance - 1:g} * (speed - velocity({unlabelled}))  # guidance")
    return [
        'velocity = torch.export.load("program.pt2").module()',
        "generator = torch.Generator().manual_seed(0)",
        f"x = torch.randn({SAMPLES}, {', '.join(map(str, config.state_shape))}, generator=generator)",
        *given,
        f"times = torch.linspace(0, 1, {getattr(sampler, 'steps', STEPS) + 1})",
        "for t, t_next in zip(times[:-1], times[1:]):",
        "    with torch.no_grad():",
        *moves,
        "    x = x + (t_next - t) * speed",
        "samples = x" if config.flow.data_scale == 1 else f"samples = x / {config.flow.data_scale:g}",
    ]


def _notes(config: RunConfig) -> Iterator[str]:
    """Sentences about a flow whose samples need more than its velocity."""
    if config.flow is None:
        return
    if config.source_data is not None or config.species:
        yield "Paths begin at examples of another data set: put them in place of `x`."
    if config.alphabet:
        yield f"Channels are the letters {config.alphabet}; where paths begin, the path in `config.yaml` says."
    if config.labels_in_state:
        yield "A state has a code of the class behind the image."
    if config.flow.latent is not None:
        yield "Samples are latents, shifted and scaled as the index.json of `flow.latent.path` says."
