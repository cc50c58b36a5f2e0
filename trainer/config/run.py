"""The configuration of a run, and the list of every kind of part that exists."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import yaml
from pydantic import Field, NonNegativeInt, SerializeAsAny, TypeAdapter, WrapValidator, model_validator

import trainer.data
import trainer.flow.context
import trainer.flow.coupling
import trainer.flow.objective
import trainer.flow.path
import trainer.flow.sampler
import trainer.flow.target
import trainer.flow.time
from moe.config import MoEConfig
from netsim.foundation.own_class import OwnClass
from netsim.foundation.settings import Section
from trainer.config.misspelt import OTHER_NAMES
from trainer.config.model import BY_KIND, AnyNetworkConfig, CausalTransitionConfig, listed_or_custom, network_settings
from trainer.config.sample import Sample
from trainer.config.sections import (
    CheckpointConfig,
    DeepSpeedConfig,
    Every,
    FSDPConfig,
    GuardConfig,
    ObserveConfig,
    OptimConfig,
    ParallelConfig,
    TraceConfig,
    counted_from_the_end,
)
from trainer.config.task import FLOW_TASKS, TaskConfig
from trainer.data.loader import DataLoadingConfig
from trainer.data.shards import LatentsConfig


class Run(Section):
    """The folder of a run, its seed, and how it resumes."""

    dir: Path
    """Folder of the run; the same command again resumes from its newest complete checkpoint."""
    seed: NonNegativeInt = 0
    """Seed of the initial weights, the order of examples and all noise."""
    resume: Literal["auto", "never"] = "auto"
    """auto: resume from a checkpoint in the folder of the run; never: refuse a folder that already holds
    checkpoints."""
    allow_rng_loss: bool = False
    """Resume although the state file of a rank is missing; the run then continues differently than with the file."""
    deterministic: bool = False
    """Make the same run give the same bytes on a GPU too. Operations whose result depends on the order in which threads
    add are replaced by slower ones; an operation without such a replacement ends the run. On a CPU results are the same
    in any case."""
    verify_data: Annotated[bool, Field(exclude_if=lambda verify: not verify)] = False
    """Read all data whole at the start, and refuse them if they differ from the data at the first start with this
    setting. Every start compares a sample of at most 64 MiB of 1,024 files in any case."""


class Flow(Section):
    """The parts of a flow-matching method."""

    data_scale: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    """Factor by which the data are multiplied before they are paired, and samples are divided. Above 1 the paths of
    different data points mix less and later."""
    latent: LatentsConfig | None = None
    """Makes states latents of images; left out: states are in the space of the data."""
    source: trainer.data.Config | None = None
    """Data set of the source points. In training each example gets one of its examples, in shuffled epochs of their
    own; samples start at its held-out examples. null: a standard normal, or the source points of data of kind pairs."""
    context: trainer.flow.context.Config | None = None
    """Information about an image that the network is conditioned on besides the class; null: none."""
    captions: trainer.data.CaptionsConfig | None = None
    """Vectors that a frozen text encoder made of the captions, one for each example, and that the network reads; null:
    it reads none."""
    coupling: trainer.flow.coupling.Config = trainer.flow.coupling.Independent()
    """How source points are paired with data points."""
    time: trainer.flow.time.Config = trainer.flow.time.Uniform()
    """How the times of training examples are drawn."""
    path: trainer.flow.path.Config = trainer.flow.path.LinearConfig()
    """The curve from the source point (t = 0) to the data point (t = 1)."""
    target: trainer.flow.target.Config = trainer.flow.target.Velocity()
    """What the network predicts at a state."""
    objective: trainer.flow.objective.Config = trainer.flow.objective.Regression()
    """The loss that the network is trained with."""


class Evaluate(Section):
    """Loss on the held-out split, with the moving average of the weights and the same noise each time."""

    every: Every | None = 100
    """Steps between two evaluations, or a share of the run such as 1/6; null: none."""


FLOWLESS = {kind: settings.flowless for kind, settings in BY_KIND.items() if settings.flowless is not None}
"""What each kind of model learns that learns no flow."""


def with_fitting_kinds(document: dict[str, Any]) -> dict[str, Any]:
    """A configuration whose sections without a kind have the one that fits its model; other mistakes are left alone."""
    model = document.get("model")
    kind = model.get("kind", "dit") if isinstance(model, dict) else getattr(model, "kind", "dit")
    settings = network_settings(model)
    fitting = {"data": settings.data_kinds, "sample": settings.sample_kinds, "task": settings.task_kinds or FLOW_TASKS}
    filled = {**{name: {} for name in fitting}, **document}
    filled["data"] = _with_kinds_of_sources(filled["data"], settings.data_kinds[0])
    for name, fitting_kinds in {"model": (kind,), **fitting}.items():
        if isinstance(filled.get(name), dict) and "class" not in filled[name]:
            filled[name] = {"kind": fitting_kinds[0], **filled[name]}
    if settings.flowless is None:
        flow = filled.get("flow") or {}
        if isinstance(flow, dict) and isinstance(flow.get("source"), dict) and "class" not in flow["source"]:
            flow = {**flow, "source": {"kind": fitting["data"][0], **flow["source"]}}
        objective = flow.get("objective", {}) if isinstance(flow, dict) else None
        if settings.objective_kinds and isinstance(objective, dict) and "class" not in objective:
            flow = {**flow, "objective": {"kind": settings.objective_kinds[0], **objective}}
        filled["flow"] = flow
    return filled


def _with_kinds_of_sources(data: Any, kind: str) -> Any:
    if not (isinstance(data, dict) and data.get("kind") == "mixture" and isinstance(data.get("sources"), dict)):
        return data
    return {
        **data,
        "sources": {
            name: {"kind": kind, **source} if isinstance(source, dict) and "class" not in source else source
            for name, source in data["sources"].items()
        },
    }


class RunConfig(Section):
    """Everything that defines a run.

    A section without a kind has the one that fits its model; a model's is dit.
    """

    other_names: ClassVar[Mapping[str, str]] = OTHER_NAMES
    run: Run
    """Folder, seed, and how the run resumes."""
    data: trainer.data.Config
    """The examples that the network learns from."""
    data_loading: DataLoadingConfig = DataLoadingConfig()
    """How examples are read ahead of the steps."""
    model: SerializeAsAny[Annotated[AnyNetworkConfig, Field(discriminator="kind"), WrapValidator(listed_or_custom)]]
    """The network."""
    moe: MoEConfig | None = None
    """Experts in place of the network's feed-forward layers; null: none."""
    task: TaskConfig
    """What the network learns."""
    flow: Flow | None = None
    """The flow-matching method. Present with every model that learns a flow; absent with gpt, autoencoder, policy_mlp,
    prototypes, contrastive and descriptor_mlp."""
    optim: OptimConfig
    """Optimiser, its schedule, and how many steps of how many examples."""
    engine: Annotated[DeepSpeedConfig | FSDPConfig, Field(discriminator="kind")] = DeepSpeedConfig()
    """The training engine, which takes the optimiser steps and divides weights and optimiser state over the ranks."""
    parallel: ParallelConfig = ParallelConfig()
    """How many ranks share experts or matrices."""
    checkpoint: CheckpointConfig = CheckpointConfig()
    """How often the run is saved."""
    evaluate: Evaluate = Evaluate()
    """Loss on held-out examples while training."""
    sample: Sample
    """What is drawn while training, and how the sample verb draws."""
    trace: TraceConfig = TraceConfig()
    """Steps whose collectives and routing are recorded, for simulation and placement."""
    observe: ObserveConfig = ObserveConfig()
    """Destinations of metrics besides metrics.jsonl."""
    guard: GuardConfig = GuardConfig()
    """Handling of loss spikes, gradients that are not finite, hangs and slow ranks."""

    @model_validator(mode="before")
    @classmethod
    def _kinds_follow_the_model(cls, document: Any) -> Any:
        return with_fitting_kinds(counted_from_the_end(document)) if isinstance(document, dict) else document

    @model_validator(mode="after")
    def _sections_fit_the_model(self) -> "RunConfig":
        data: dict[str, Any] = {"data": self.data}
        if isinstance(self.data, trainer.data.MixtureConfig):
            data = {f"data.sources.{name}": source for name, source in self.data.sources.items()}
        for sections, fitting in (
            (data, self.model.data_kinds),
            ({"sample": self.sample}, self.model.sample_kinds),
            ({"task": self.task}, self.model.task_kinds or FLOW_TASKS),
        ):
            for name, section in sections.items():
                if section.kind not in fitting and not isinstance(section, OwnClass):
                    raise ValueError(
                        f"{name}.kind: {section.kind} is not for a {self.model.kind} model; use {' or '.join(fitting)}"
                    )
        if self.model.flowless is not None and self.flow is not None:
            raise ValueError(f"flow: {self.model.flowless} and follows no flow; remove the section")
        if self.model.no_mixture is not None and self.moe is not None:
            raise ValueError(f"moe: {self.model.no_mixture}; remove the section")
        return self

    @model_validator(mode="after")
    def _the_model_knows_the_task(self) -> "RunConfig":
        fitted = self.model.fitted(self.task)
        return self if fitted is self.model else self.model_copy(update={"model": fitted})

    @model_validator(mode="after")
    def _the_sampler_knows_the_tokens(self) -> "RunConfig":
        """Writes the number of calls into the sampler, so that it can be priced and compared without the network."""
        chosen = getattr(self.sample, "sampler", None)
        if not isinstance(chosen, trainer.flow.sampler.CausalTransition) or chosen.tokens is not None:
            return self
        if not isinstance(self.model, CausalTransitionConfig) or len(self.state_shape) not in (1, 3):
            return self
        calls = self.model.transitions * self.model.state_tokens(self.state_shape)
        known = chosen.model_copy(update={"tokens": calls})
        return self.model_copy(update={"sample": self.sample.model_copy(update={"sampler": known})})

    @property
    def example_shape(self) -> tuple[int, ...]:
        """Shape of an example where paths end: the example of the data, or its latents."""
        latent = self.flow and self.flow.latent
        return tuple(latent.shape if latent else self.data.shape)

    @property
    def state_shape(self) -> tuple[int, ...]:
        """Shape of a state: of an example, and of what a coupling puts beside it."""
        coupling = self.flow and self.flow.coupling
        if not isinstance(coupling, trainer.flow.coupling.BuiltIn):
            return self.example_shape
        return coupling.state_shape(self.example_shape, self.data.num_classes)

    @property
    def labels_in_state(self) -> bool:
        """Whether the class of an example is part of its state."""
        return self.flow is not None and getattr(self.flow.coupling, "labels_in_state", False)

    @property
    def num_labels(self) -> int:
        """Number of classes that the network reads; 0 if it reads no class."""
        if self.encodes_captions:
            return 1  # any caption
        return 0 if self.labels_in_state else self.data.num_classes

    @property
    def frame_channels(self) -> int:
        """Channels of one frame if examples are clips, whose frames are stacked as channels; 0 for other examples."""
        return getattr(self.data, "frame_channels", 0)

    @property
    def species(self) -> tuple[int, ...]:
        """Atomic numbers of the atoms of reactions; empty for other data."""
        return getattr(self.data, "species", ())

    @property
    def alphabet(self) -> str:
        """Letters of sequences, one-hot in dimension 0 of an example; empty for other data."""
        return getattr(self.data, "alphabet", "")

    @property
    def encodes_captions(self) -> bool:
        """Whether paths begin at states that the network encodes from captions, which it reads nowhere else."""
        return self.flow is not None and getattr(self.flow.coupling, "encodes_captions", False)

    @property
    def source(self) -> trainer.data.AnyConfig | None:
        """The data set that training takes source points from; None if they are noise, in the data, or unused."""
        return None if self.flow is None or isinstance(self.data, trainer.data.PairsConfig) else self.flow.source

    @property
    def source_data(self) -> trainer.data.AnyConfig | None:
        """The data set whose examples samples start at; None if they start at standard normal noise."""
        if self.flow is not None and self.flow.path.kind == "mirror_interpolant":
            return self.data
        if isinstance(self.data, trainer.data.PairsConfig) and self.data.source is not None:
            return TypeAdapter(trainer.data.Config).validate_python(self.data.source)
        return self.flow and self.flow.source

    @property
    def decoded_shape(self) -> tuple[int, ...]:
        """Shape of an example as shown to a person: that of the example, or of the image whose latents it holds."""
        latent = self.flow and self.flow.latent
        return tuple(latent.image_shape if latent else self.data.shape)

    @property
    def context_shape(self) -> tuple[int, int, int] | None:
        """Shape of the condition that the network reads besides the class; None: there is none."""
        context = self.flow and self.flow.context
        if context is None:
            return None if self.flow is None or self.labels_in_state else self.data_context_shape
        return context.shape(example=tuple(self.data.shape), state=self.state_shape)

    @property
    def data_context_shape(self) -> tuple[int, int, int] | None:
        """Shape of the context that the data hold with each example, such as a mask; None: there is none."""
        return getattr(self.data, "context_shape", None)

    @property
    def context_channels(self) -> int:
        """Channels that the network reads besides those of the state: of the context, or of data made from it."""
        if self.flow is None or self.context_shape is None:
            return 0
        if self.flow.context is None:
            return self.context_shape[0]
        return self.flow.context.read_channels(self.state_shape, self.context_shape)

    @property
    def caption_width(self) -> int:
        """Width of the vectors of captions that the network reads; 0 if it reads no captions."""
        return 0 if self.flow is None or self.flow.captions is None else self.flow.captions.width

    @property
    def data_are_latents(self) -> bool:
        """Whether the examples are the latents in the folder of `flow.latent`, by its digest."""
        latent = self.flow and self.flow.latent
        return bool(latent) and isinstance(self.data, trainer.data.ShardsConfig) and self.data.digest == latent.digest

    @property
    def digest(self) -> str:
        """SHA-256 of all settings that a trace depends on, which the folder of the run is not."""
        return hashlib.sha256(self.model_copy(update={"run": None}).to_yaml().encode()).hexdigest()

    def to_yaml(self) -> str:
        """The resolved configuration, every default written out, as YAML that can be read back."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)
