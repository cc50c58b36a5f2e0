"""Rules about samples that cannot be drawn, at all or while a run trains, and about what cannot be recorded."""

from collections.abc import Iterator

from netsim.foundation.refusal import Refusal
from trainer.config.derived import drawable
from trainer.config.model import GPTConfig
from trainer.config.rules.composition import open_at_the_data
from trainer.config.rules.objection import Objections
from trainer.config.rules.pairing import of_source
from trainer.config.rules.partners import advice
from trainer.config.rules.parts import composition_of, of_blocks, of_causal_network, of_composition, of_distillation
from trainer.config.run import RunConfig
from trainer.config.sample import (
    ExampleSample,
    FlowSample,
    ImageSample,
    ObjectSample,
    ReconstructionSample,
    SurfaceSample,
    TextSample,
)
from trainer.config.task import CorrespondenceTaskConfig, TrajectoryBalanceTaskConfig
from trainer.data import PairsConfig
from trainer.data.surfaces import SurfacesConfig
from trainer.data.text_windows import run_tokenizer
from trainer.flow import cost, sampler
from trainer.flow.control import CostGradientConfig
from trainer.flow.sampler.protocol import StepsFile


def of_samples(config: RunConfig, world_size: int) -> Objections:
    """Objects to samples that the model, the data or the division of the work do not allow while a run trains."""
    shared = config.parallel.expert * config.parallel.tensor > 1
    shared |= config.engine.shards_parameters and world_size > 1
    match config.sample, config.model:
        case (
            (ImageSample(every=int()) | ReconstructionSample(every=int()) | ExampleSample(every=int())),
            _,
        ) if not drawable(config):
            problem = f"{config.sample.every}, but examples of {config.decoded_shape[0]} channels are no picture"
            yield "sample.every", problem, "use null"
        case sample, _ if isinstance(sample, FlowSample) and sample.every and shared and _chooses_steps(sample.sampler):
            remedy = "use heun or euler, or sample.every=null and the sample verb afterwards"
            yield _steps_apart("weights", remedy)
        case ObjectSample(exponent=float(exponent)), _ if isinstance(config.task, TrajectoryBalanceTaskConfig):
            config.task.check_exponent(exponent, "sample.exponent")
        case TextSample(every=int(), prompts=prompts, num_tokens=num_tokens), GPTConfig(context=context):
            tokenizer = run_tokenizer(config.data)
            longest = max(len(tokenizer.encode(prompt.encode())) for prompt in prompts)
            if longest + num_tokens > context:
                yield (
                    "sample.num_tokens",
                    f"{num_tokens} tokens after a prompt of {longest} exceed model.context {context}",
                    f"use at most {context - longest}" if longest < context else "use shorter sample.prompts",
                )


def of_surfaces(config: RunConfig) -> Objections:
    """Objects to maps between surfaces that data, network or sample have no means for."""
    if not isinstance(config.task, CorrespondenceTaskConfig):
        return
    data, sample, model = config.data, config.sample, config.model
    if not isinstance(getattr(model, "features", None), int):
        problem = f"{model.kind} does not say how many values the feature of a point has"
        yield "model", problem, "use descriptor_mlp, or give the Config of your class a field features"
    if not isinstance(data, SurfacesConfig):
        yield "data.kind", f"{data.kind} data have no eigenfunctions", "use surfaces"
        return
    if not isinstance(sample, SurfaceSample):
        return
    if sample.first >= data.eigenfunctions:
        problem = f"{sample.first} of {data.eigenfunctions} eigenfunctions, to which none is added"
        yield "sample.first", problem, f"use {data.eigenfunctions - 1} or less"
    if sample.landmarks > data.points:
        yield "sample.landmarks", f"{sample.landmarks} of {data.points} points", f"use {data.points} or less"
    if sample.landmarks and data.path is not None and data.pairs is None:
        problem = f"{sample.landmarks} points are given where the correspondence is known, and it is for no pair"
        yield "sample.landmarks", problem, "use 0, or name known pairs in data.pairs"


def of_profile(config: RunConfig) -> Objections:
    """Objects to a profile that ends after the last step."""
    profile, steps = config.observe.profile, config.optim.steps
    if profile is not None and profile.steps[1] > steps:
        problem = f"{list(profile.steps)} ends after the last step, optim.steps {steps}"
        yield "observe.profile.steps", problem, f"end at {steps} at most"


def of_drawn(config: RunConfig, chosen: sampler.AnyConfig, guidance: float) -> Objections:
    """Objects to a sampler and a guidance that the configuration of the run itself would not allow."""
    assert isinstance(config.sample, FlowSample)
    sample = config.sample.model_copy(update={"sampler": chosen, "guidance": guidance})
    changed = config.model_copy(update={"sample": sample})
    yield from of_causal_network(changed)
    yield from of_composition(changed)
    yield from of_source(changed)
    yield from of_distillation(changed)
    yield from of_blocks(changed, changed.optim.global_batch)
    yield from of_guidance(changed)
    yield from of_grids(changed)
    yield from of_controls(changed)
    composition = composition_of(changed)
    if composition is not None:
        yield from advice(composition, (open_at_the_data,))


def of_drawn_together(config: RunConfig, chosen: sampler.AnyConfig) -> Objections:
    """Objects to a sampler whose steps ranks that share experts cannot take together."""
    if config.parallel.expert > 1 and _chooses_steps(chosen):
        yield _steps_apart("experts", "start one process")


def _steps_apart(shared: str, remedy: str) -> tuple[str, str, str]:
    return (
        "sample.sampler.kind",
        f"dopri5 takes another number of steps on each rank, and ranks that share {shared} must take them together",
        remedy,
    )


def _chooses_steps(chosen: sampler.AnyConfig) -> bool:
    match chosen:
        case sampler.Segmented(within=inner) | sampler.Transition(head=inner):
            return isinstance(inner, sampler.Dopri5)
    return isinstance(chosen, sampler.Dopri5)


def of_guidance(config: RunConfig) -> Objections:
    """Objects to guidance of a network that was never trained without classes."""
    scale = getattr(config.sample, "guidance", 1)
    if scale != 1:
        yield from of_no_class(config, "sample.guidance", scale, remedy="use 1, or a model.label_dropout such as 0.1")


def of_no_class(
    config: RunConfig, field: str, value: object, *, network: str = "network", sees: str = "sees", remedy: str
) -> Iterator[tuple[str, str, str]]:
    """Objects to a setting with which a network is called without a class, although its run hides none."""
    if config.num_labels and getattr(config.model, "label_dropout", None) == 0:
        problem = f"{value} asks the {network} about no class, which it never {sees} with model.label_dropout 0"
        yield field, problem, remedy


def of_grids(config: RunConfig) -> Objections:
    """Objects to a file of searched grids that is missing, or that was searched for other samples than are drawn."""
    if not isinstance(config.sample, FlowSample):
        return
    chosen, scale = config.sample.sampler, config.sample.guidance
    path = chosen.steps_file
    if path is None:
        return
    chosen.grid()
    made_for = StepsFile.read(path).guidance
    if made_for != scale and not learns_steps(config):
        problem = f"is {made_for:g}, and the samples are drawn with {scale:g}"
        remedy = f"search with --guidance {scale:g}, or draw with {made_for:g}"
        yield Refusal(path, "guidance", problem, remedy)


def learns_steps(config: RunConfig) -> bool:
    """Whether a run learns the steps between nodes; these already contain the guidance of its teacher."""
    return isinstance(config.data, PairsConfig) and config.data.nodes is not None


def of_controls(config: RunConfig) -> Objections:
    """Objects to controls whose costs need values that the network does not compute."""
    for number, one in enumerate(getattr(config.sample, "controls", ())):
        if isinstance(one, CostGradientConfig):
            yield from of_cost(config, one.cost, f"sample.controls.{number}.cost")


def of_cost(config: RunConfig, chosen: cost.AnyConfig, field: str) -> Objections:
    """Objects to a cost of states, written in a field, that cannot be computed with the network of a run."""
    network = config.model
    if not isinstance(chosen, cost.AttentionConfig):
        return
    if not network.returns_attention:
        problem = f"attention is that of a dit between its patches, and a network of kind {network.kind} reports none"
        yield f"{field}.kind", problem, "use a dit, or a cost of your own by class"
        return
    try:
        network.check_states(config.state_shape)
    except ValueError:  # which the rule about examples says
        return
    num_patches = network.tokens(config.state_shape)
    for name, numbers, num, whole in (
        ("subjects", [patch for subject in chosen.subjects for patch in subject], num_patches, "patches of a state"),
        ("blocks", chosen.blocks or (), network.num_layers, "blocks of the network"),
    ):
        if numbers and max(numbers) >= num:
            problem = f"{max(numbers)} is not among the {num} {whole}"
            yield f"{field}.{name}", problem, f"use numbers from 0 to {num - 1}"


def of_pictures(config: RunConfig, verb: str) -> Objections:
    """Objects to a run whose examples are no pictures, for a request that does something with pictures."""
    shape = config.decoded_shape
    pictures = isinstance(config.sample, ImageSample) and len(shape) == 3 and drawable(config)
    if not pictures or config.flow is None:
        problem = f"the run draws examples of shape {list(shape)}, which are no pictures"
        yield "run_dir", problem, f"{verb} pictures with a run that draws some"


def of_start_at_noise(config: RunConfig, consequence: str) -> Objections:
    """Objects to a run whose paths begin at other data, for a request that needs the noise of a picture."""
    if config.source_data is not None:
        problem = f"paths of the run begin at other data, not at noise, so that {consequence}"
        yield "run_dir", problem, "use a run without flow.source"
