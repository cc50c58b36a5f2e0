"""Pages that rebuild a network: which modules of this folder, and what they cannot do."""

import ast
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moe.config import (
    BaseAssignmentRouterConfig,
    MoEConfig,
    SinkhornRouterConfig,
    SparseOTRouterConfig,
    TopKRouterConfig,
)
from moe.router import ROUTERS as ROUTER_CLASSES
from trainer.config.model import AutoencoderConfig, DiTConfig, GPTConfig, MLPConfig
from trainer.config.model.mlp import INPUT_WAVES
from trainer.config.run import RunConfig
from trainer.config.sample import FlowSample
from trainer.flow import target
from trainer.model.build import NETWORKS
from trainer.model.values import ROUTERS

PACKAGE = "trainer"
_STANDARD = ("import json", "import math")
_NOTE = re.compile(r"  # noqa.*$")


def page(modules: Iterable[str]) -> str:
    """The source of modules of this folder as one program, without their docstrings and their imports of each other.

    Those that others use come first; no two define the same name.
    """
    imports: set[str] = set()
    definitions = []
    for module in modules:
        source = Path(__file__).with_name(f"{module}.py").read_text(encoding="utf-8")
        nodes = ast.parse(source).body[1:]  # behind the docstring
        lines = source.splitlines()
        for node in nodes:
            match node:
                case ast.ImportFrom(module=str(name)) if name.partition(".")[0] == PACKAGE:
                    continue
                case ast.Import() | ast.ImportFrom():
                    imports.add(ast.unparse(node))
                case ast.ClassDef() | ast.FunctionDef():
                    first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
                    definitions.append("\n".join(_NOTE.sub("", line) for line in lines[first - 1 : node.end_lineno]))
    groups = ([line for line in imports if (line in _STANDARD) == standard] for standard in (True, False))
    blocks = ("\n".join(sorted(group, key=lambda line: (line.startswith("from"), line))) for group in groups if group)
    return "\n\n".join(blocks) + "\n\n\n" + "\n\n\n".join(definitions) + "\n"


SAMPLES, TOKENS, TEMPERATURE = 4, 50, 0.8
"""What a page draws: examples of a flow, tokens of a language model, at this temperature."""
_SOLVED = ("velocity", "data", "noise")


@dataclass(frozen=True)
class Recipe:
    """A page of Python that rebuilds a network, empty if absent, and sentences about what it does not do."""

    program: str
    notes: tuple[str, ...] = ()


def recipe_for(config: RunConfig, weights: str) -> Recipe:
    """The page for the network of a run; `weights` names their file, or their index, beside the page."""
    lacking = _lacking(config)
    if lacking is not None:
        return Recipe("", (f"No page of plain PyTorch rebuilds this network: {lacking}.",))
    mixture = [] if config.moe is None else ["mixture"]
    layer = "Mixture" if config.moe else "FeedForward"
    match config.model:
        case GPTConfig():
            modules, settings = ["weights", *mixture, "gpt"], _gpt_settings(config.model)
            built, use, notes = f"GPT(settings, {layer})", _text_use(config.model), ()
        case AutoencoderConfig():
            modules, settings = ["weights", "autoencoder"], _autoencoder_settings(config.model, config)
            built, use, notes = "Autoencoder(settings)", _autoencoder_use(config.model, config), ()
        case DiTConfig() | MLPConfig():
            dit = isinstance(config.model, DiTConfig)
            modules = ["weights", *mixture, "flow", "dit" if dit else "mlp"]
            settings = (
                _dit_settings(config.model) if isinstance(config.model, DiTConfig) else _mlp_settings(config.model)
            )
            settings |= _flow_settings(config)
            built = f"{'DiT' if dit else 'MLP'}(settings, {layer})"
            use, notes = _flow_use(config)
        case _:
            raise AssertionError("a network without a page lacks something")
    if config.moe is not None:
        settings |= _mixture_settings(config.moe)
    literal = "".join(f"    {json.dumps(name)}: {_literal(value)},\n" for name, value in settings.items())
    read = f'weights = read("{weights}")'
    everything = f'weights | read("{ROUTERS}")' if config.moe is not None else "weights"
    lines = [f"settings = {{\n{literal}}}", read, f"network = load({built}, {everything})", *use]
    return Recipe(page(modules) + "\n\n" + "\n".join(lines) + "\n", notes)


def _literal(value: Any) -> str:
    return json.dumps(value) if isinstance(value, str) else repr(value)


def _lacking(config: RunConfig) -> str | None:
    """What no page does of a run's network, and which module of the package does it; None: a page does everything."""
    model = config.model
    if model.adapters is not None:
        exported = "`python -m trainer export RUN --merged --out DIR` makes one network of both"
        return f"these are adapters beside frozen weights, and {exported}"
    if type(model) not in (DiTConfig, MLPConfig, GPTConfig, AutoencoderConfig):
        built_by = NETWORKS.get(type(model), type(model).network)
        module = getattr(built_by, "__self__", built_by).__module__
        if config.encodes_captions:
            vectors = "`network(noise, t, Condition(caption=vectors), Encode())` of standardised vectors"
            told = f"samples begin at {vectors} of `trainer.model.text_encoder`, and label 1 stands for no caption"
            return f"{told}; `{module}` builds it, from `config.yaml`"
        return f"a {model.kind} is built by `{module}`, from `config.yaml`"
    if isinstance(model, DiTConfig) and (model.waves, model.embeddings) != ("plain", "shared"):
        exported = "`python -m trainer export FOLDER --to diffusers --out DIR` writes it for `DiTTransformer2DModel`"
        return f"it computes as the one of diffusers does, and {exported}"
    if isinstance(model, DiTConfig) and model.predicts_variance:
        return "its last layer has outputs for the variance; `trainer.model.dit` builds it, from `config.yaml`"
    if config.context_channels:
        return f"it reads a context; `trainer.model.{model.kind}` builds it, and `trainer.flow.context` what it reads"
    if config.caption_width:
        return (
            f"it reads captions; `trainer.model.{model.kind}` builds it, and `trainer.model.text_encoder` encodes them"
        )
    return None if config.moe is None else _router_lacking(config.moe)


def _router_lacking(moe: MoEConfig) -> str | None:
    """Why a page cannot route as a mixture does; None: every token is routed by itself."""
    match moe.router:
        case TopKRouterConfig(capacity_factor=None) | SinkhornRouterConfig() | BaseAssignmentRouterConfig():
            return None
        case SparseOTRouterConfig(gate="prob", inference_capacity_factor=None, hop_cost=0.0):
            return None
        case TopKRouterConfig():
            why = (
                "its router drops what exceeds the capacity of an expert, which depends on the other tokens of a batch"
            )
        case SparseOTRouterConfig():
            why = f"its router uses gate {moe.router.gate}, a capacity at inference or the distance of experts"
        case _:
            why = f"a {moe.router.kind} router looks at all tokens of a batch at once"
    routing = ROUTER_CLASSES[type(moe.router)].__module__
    return f"{why}; `{routing}` routes, and `trainer.model.build` builds the network"


def _gpt_settings(model: GPTConfig) -> dict[str, Any]:
    return {
        "hidden": model.hidden,
        "num_layers": model.num_layers,
        "num_heads": model.num_heads,
        "num_kv_heads": model.key_value_heads,
        "inner": model.inner,
        "vocabulary": model.vocabulary,
        "context": model.context,
        "norm": model.norm,
        "norm_epsilon": model.norm_epsilon,
        "feed_forward": model.feed_forward,
        "bias": model.bias,
        "parallel_residual": model.parallel_residual,
        "rotary_base": model.rotary_base,
        "rotary_width": model.rotary_width,
        "tied": model.tied,
    }


def _dit_settings(model: DiTConfig) -> dict[str, Any]:
    return {
        "patch_size": model.patch_size,
        "hidden": model.hidden,
        "num_layers": model.num_layers,
        "num_heads": model.num_heads,
        "inner": model.inner,
        "feed_forward": model.feed_forward,
        "feed_forward_norm_epsilon": model.feed_forward_norm_epsilon,
    }


def _mlp_settings(model: MLPConfig) -> dict[str, Any]:
    return {
        "hidden": model.hidden,
        "num_layers": model.num_layers,
        "inner": model.inner,
        "feed_forward": "gelu",
        "input_waves": INPUT_WAVES,
    }


def _autoencoder_settings(model: AutoencoderConfig, config: RunConfig) -> dict[str, Any]:
    return {
        "shape": tuple(config.state_shape),
        "hidden": model.hidden,
        "num_layers": model.num_layers,
        "latent_channels": model.latent_channels,
        "factor": model.factor,
    }


def _flow_settings(config: RunConfig) -> dict[str, Any]:
    assert config.flow is not None
    return {
        "shape": tuple(config.state_shape),
        "num_classes": config.num_labels,
        "num_fields": target.num_fields(config.flow.target),
        "predicts": config.flow.target.kind,
        "data_scale": config.flow.data_scale,
    }


def _mixture_settings(moe: MoEConfig) -> dict[str, Any]:
    settings: dict[str, Any] = {
        "num_experts": moe.num_experts,
        "top_k": moe.top_k,
        "expert_hidden": moe.expert_hidden,
        "shared_expert_hidden": moe.shared_expert_hidden,
        "router": moe.router.kind,
        "biased": False,
    }
    match moe.router:
        case TopKRouterConfig(score=score, normalise_over=normalise_over, bias_rate=bias_rate):
            settings |= {"score": score, "normalise_over": normalise_over, "biased": bias_rate > 0}
        case SparseOTRouterConfig(gamma=gamma):
            settings |= {"gamma": gamma, "most_choices": moe.most_choices}
    return settings


def _text_use(model: GPTConfig) -> list[str]:
    prompt = 'torch.tensor([list(b"def ")])' if model.vocabulary == 256 else "torch.tensor([[1]])"
    read = "print(bytes(text[0].tolist()))" if model.vocabulary == 256 else "print(text[0].tolist())"
    what = "bytes" if model.vocabulary == 256 else "numbers of tokens"
    return [
        "",
        f"# A text, continued; tokens are {what}.",
        "generator = torch.Generator().manual_seed(0)",
        f"prompt = {prompt}",
        "text = continued(",
        f"    network, prompt, settings, num={TOKENS}, temperature={TEMPERATURE}, generator=generator",
        ")",
        read,
    ]


def _autoencoder_use(model: AutoencoderConfig, config: RunConfig) -> list[str]:
    del model
    shape = ", ".join(map(str, config.state_shape))
    return [
        "",
        "# Images in the units of the data, to latents and back.",
        "import torch",
        "",
        "with torch.no_grad():",
        f"    mean, log_variance = network.encode(torch.zeros(1, {shape}))",
        "    images = network.decode(mean)",
    ]


def _flow_use(config: RunConfig) -> tuple[list[str], tuple[str, ...]]:
    """How samples are drawn, or a note on what draws them."""
    assert config.flow is not None
    if config.labels_in_state:
        return [], ("A state has a code of the class beside the image: `trainer.sampling.draw` draws and reads it.",)
    if config.species:
        return [], (
            f"States are positions of atoms in angstrom between ends in the context, of the atomic numbers "
            f"{', '.join(map(str, config.species))}; `trainer.sampling.draw` draws transition states.",
        )
    if config.alphabet:
        along = f"it predicts {config.flow.target.kind} on a {config.flow.path.kind} path"
        return [], (
            f"Channels are the letters {config.alphabet}, one-hot less their mean; {along}, whose settings are in "
            "`config.yaml`: `trainer.sampling.draw` draws sequences.",
        )
    kind, straight = config.flow.target.kind, config.flow.path.kind == "linear"
    if kind not in _SOLVED or (kind != "velocity" and not straight):
        solves = "`trainer.sampling.draw` draws samples"
        return [], (f"It predicts {kind.replace('_', ' ')} on a {config.flow.path.kind} path: {solves}.",)
    assert isinstance(config.sample, FlowSample)
    steps = getattr(config.sample.sampler, "steps", 20)
    shape, classes = ", ".join(map(str, config.state_shape)), config.data.num_classes
    notes = []
    if config.source_data is not None:
        notes.append("Paths start at examples of another data set, see `config.yaml`: give them as `x`.")
    if config.flow.latent is not None:
        notes.append(
            "Samples are latents of images, shifted and scaled as the index.json of `flow.latent.path` says; "
            "the page of the autoencoder decodes them."
        )
    label = f"torch.arange({SAMPLES}) % {classes}" if classes else f"torch.zeros({SAMPLES}, dtype=torch.int64)"
    guidance = config.sample.guidance if classes else 1.0
    if classes:
        named = f"classes 0 to {classes - 1}; {classes} stands for none"
    else:
        named = "there are no classes: label 0 stands for none"
    return [
        "",
        f"# Samples in the units of the data; {named}.",
        "generator = torch.Generator().manual_seed(0)",
        f"x = torch.randn({SAMPLES}, {shape}, generator=generator)",
        f"samples = sample(network, x, {label}, settings, steps={steps}, guidance={guidance})",
    ], tuple(notes)
