"""The configuration of a run, and the list of every kind of part that exists."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    model_validator,
)

import trainer.data
import trainer.flow.coupling
import trainer.flow.objective
import trainer.flow.path
import trainer.flow.sampler
import trainer.flow.target
import trainer.flow.time
from moe.config import MoEConfig
from moe.files import FileError, first_complaint
from trainer.model.config import DiTConfig
from trainer.model.gpt_config import GPTConfig

_Decay = Annotated[float, Field(ge=0, lt=1)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Run(_Section):
    """Where a run lives and what it draws."""

    dir: Path
    """Folder of the run; the same command again resumes from its newest complete checkpoint."""
    seed: NonNegativeInt = 0
    resume: Literal["auto", "never"] = "auto"
    """never: refuse a folder that already holds checkpoints."""
    allow_rng_loss: bool = False
    """Resume although a rank's own state file is missing; the run is then another one."""


class Flow(_Section):
    """The parts of a flow-matching method."""

    coupling: trainer.flow.coupling.Config = trainer.flow.coupling.IndependentConfig()
    time: trainer.flow.time.Config = trainer.flow.time.UniformConfig()
    path: trainer.flow.path.Config = trainer.flow.path.LinearConfig()
    target: trainer.flow.target.Config = trainer.flow.target.VelocityConfig()
    objective: trainer.flow.objective.Config = trainer.flow.objective.RegressionConfig()


class Optim(_Section):
    """AdamW, its schedule, clipping and the moving average of the weights."""

    steps: PositiveInt
    """Optimiser steps of the whole run."""
    global_batch: PositiveInt
    """Examples of one optimiser step over all ranks."""
    micro_batch: PositiveInt | None = None
    """Examples of one forward pass on one rank; null: no accumulation."""
    lr: PositiveFloat = 1e-3
    warmup_steps: NonNegativeInt = 0
    """Steps over which the learning rate rises from 0."""
    final_lr: float = Field(default=0.0, ge=0)
    """Learning rate at the end of the cosine."""
    betas: tuple[_Decay, _Decay] = (0.9, 0.99)
    weight_decay: float = Field(default=0.0, ge=0)
    clip_norm: PositiveFloat | None = 1.0
    """Largest norm of the gradient over all parameters and ranks; null: no clipping."""
    ema_decay: _Decay = 0.999
    """Decay of the moving average; at step s at most (1 + s) / (10 + s)."""


class DeepSpeed(_Section):
    """The DeepSpeed engine."""

    kind: Literal["deepspeed"] = "deepspeed"
    zero_stage: Literal[0, 1, 2, 3] = 1
    """What is sharded: 1 optimiser state, 2 and gradients, 3 and parameters. Experts: 0 to 2."""
    precision: Literal["fp32", "bf16"] = "fp32"
    bucket_elements: PositiveInt = 2_000_000
    """Elements of one gradient reduction and of one parameter gathering."""


class Parallel(_Section):
    """How the ranks divide the model; what is left over is data parallel."""

    expert: PositiveInt = 1
    """Ranks that share the experts of a layer."""
    tensor: Literal[1] = 1


class Checkpoint(_Section):
    """When the run is saved."""

    every: PositiveInt = 100
    """Steps between two checkpoints; the last step is always saved."""
    keep: PositiveInt = 2
    """Complete checkpoints that are kept, the newest ones."""


class Evaluate(_Section):
    """Loss on the held-out split, with the moving average of the weights and the same noise each time."""

    every: PositiveInt | None = 100
    """Steps between two evaluations; null: none."""


class ImageSample(_Section):
    """Grids of generated images, from the moving average of the weights and the same noise each time."""

    kind: Literal["images"] = "images"
    every: PositiveInt | None = None
    """Steps between two grids while training; null: none."""
    per_class: PositiveInt = 8
    guidance: float = Field(default=1.5, ge=0)
    """Classifier-free guidance: 0 unconditional, 1 conditional, larger: sharper and less varied."""
    sampler: trainer.flow.sampler.Config = trainer.flow.sampler.EulerConfig(steps=20)


class TextSample(_Section):
    """Prompts that are continued, with the moving average of the weights and the same draws each time."""

    kind: Literal["text"] = "text"
    every: PositiveInt | None = None
    """Steps between two texts while training; null: none."""
    prompts: Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Field(min_length=1)] = ("def ", "class ")
    num_bytes: PositiveInt = 100
    """Bytes written after each prompt."""
    temperature: float = Field(default=0.8, ge=0)
    """What the logits are divided by before a byte is drawn; 0: always the likeliest byte."""


class Trace(_Section):
    """Collectives and routing of some steps, written to traces/."""

    steps: tuple[PositiveInt, ...] = ()
    """Optimiser steps to record. The first two are not representative; give at least two in a row."""
    ranks_per_node: PositiveInt | None = None
    """Ranks on one node; null: the local world size."""


class Observe(_Section):
    """Where figures go besides metrics.jsonl."""

    log_every: PositiveInt = 10
    """Steps between two records."""
    tensorboard: bool = True
    port: int | None = Field(default=None, ge=0, le=65535)
    """Port of the Prometheus page, 0 for any free one; null: none."""
    host: str = "127.0.0.1"
    """Address that the page is bound to."""


_COMPANIONS = {"dit": {"data": "digits", "sample": "images"}, "gpt": {"data": "python_source", "sample": "text"}}
"""The kinds of the other sections that fit each kind of model."""


class RunConfig(_Section):
    """Everything that defines a run. A section without a kind has the one that fits its model; a model's is dit."""

    run: Run
    data: trainer.data.Config
    model: Annotated[DiTConfig | GPTConfig, Field(discriminator="kind")]
    moe: MoEConfig | None = None
    flow: Flow | None = None
    """Present with a dit alone: a gpt learns by predicting the next byte."""
    optim: Optim
    engine: DeepSpeed = DeepSpeed()
    parallel: Parallel = Parallel()
    checkpoint: Checkpoint = Checkpoint()
    evaluate: Evaluate = Evaluate()
    sample: Annotated[ImageSample | TextSample, Field(discriminator="kind")]
    trace: Trace = Trace()
    observe: Observe = Observe()

    @model_validator(mode="before")
    @classmethod
    def _kinds_follow_the_model(cls, document: Any) -> Any:
        if not isinstance(document, dict):
            return document
        model = document.get("model")
        kind = model.get("kind", "dit") if isinstance(model, dict) else getattr(model, "kind", "dit")
        fitting = _COMPANIONS.get(str(kind), _COMPANIONS["dit"])
        filled = {**{name: {} for name in fitting}, **document}
        for name, fitting_kind in {"model": kind, **fitting}.items():
            if isinstance(filled.get(name), dict):
                filled[name] = {"kind": fitting_kind, **filled[name]}
        if kind != "gpt" and filled.get("flow") is None:
            filled["flow"] = {}
        return filled

    @model_validator(mode="after")
    def _sections_fit_the_model(self) -> "RunConfig":
        kind = self.model.kind
        for name, found in (("data", self.data.kind), ("sample", self.sample.kind)):
            if found != _COMPANIONS[kind][name]:
                raise ValueError(f"{name}.kind: {found} is not for a {kind} model; use {_COMPANIONS[kind][name]}")
        if kind == "gpt" and self.flow is not None:
            raise ValueError("flow: a gpt model predicts the next byte and follows no flow; remove the section")
        return self

    def to_yaml(self) -> str:
        """The resolved configuration, every default written out, as YAML that :func:`load_config` reads back."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)


def load_config(path: Path | str, overrides: Sequence[str] = ()) -> RunConfig:
    """Reads and validates a configuration.

    Args:
        path: YAML file.
        overrides: ``dotted.key=value`` with the value in YAML, applied in order.

    Returns:
        The configuration; what depends on the number of ranks is checked by :func:`trainer.layout.plan_layout`.

    Raises:
        FileError: the file is missing or malformed, a key is unknown or a value is out of range; names file, field,
            value and remedy.
    """
    path = Path(path)
    try:
        document = yaml.load(path.read_text(encoding="utf-8"), _UniqueKeys)
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        remedy = "give a YAML file such as those in configs/runs"
        raise FileError(path, "file", f"cannot be read ({reason})", remedy) from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}" if mark else "document"
        raise FileError(
            path, where, f"is not YAML ({getattr(error, 'problem', error)})", "correct the syntax"
        ) from error
    except ValueError as error:
        raise FileError(path, "document", f"holds an impossible date ({error})", "quote it") from error
    if not isinstance(document, dict):
        found = "is empty" if document is None else f"is a {type(document).__name__}"
        raise FileError(path, "document", found, "write sections such as run, model, optim")
    for override in overrides:
        _apply(path, document, override)
    try:
        return RunConfig.model_validate(document)
    except ValidationError as error:
        field, reason = first_complaint(error, document)
        reason, _, remedy = reason.partition("; ")
        raise FileError(path, _without_kind(field), reason, remedy or _remedy(error)) from error


class _UniqueKeys(yaml.SafeLoader):
    """Refuses a key that is written twice, where YAML would silently keep the last one."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """See yaml.SafeLoader."""
        keys = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in keys:
                raise yaml.constructor.ConstructorError(None, None, f"{key.value} is written twice", key.start_mark)
            keys.add(key.value)
        return super().construct_mapping(node, deep)


def _without_kind(field: str) -> str:
    """Drops the kind that pydantic puts behind the name of a section which is chosen by its kind."""
    kinds = {*_COMPANIONS, *(kind for fitting in _COMPANIONS.values() for kind in fitting.values())}
    section, *inner = field.split(".")
    return ".".join([section, *(inner[1:] if inner and inner[0] in kinds else inner)])


def _remedy(error: ValidationError) -> str:
    kinds = {"missing": "add it", "extra_forbidden": "correct its name or remove it"}
    return kinds.get(error.errors()[0]["type"], "correct the value")


def _apply(path: Path, document: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not all(key.split(".")):
        raise FileError(path, override, "is no override", "write dotted.key=value, for example optim.steps=200")
    try:
        value = yaml.load(text, _UniqueKeys)
    except (yaml.YAMLError, ValueError) as error:
        raise FileError(path, key, f"its value is not YAML ({text})", "quote it") from error
    *sections, last = key.split(".")
    node = document
    for depth, section in enumerate(sections, start=1):
        child = {} if node.get(section) is None else node[section]
        if not isinstance(child, dict):
            parent = ".".join(sections[:depth])
            raise FileError(path, key, f"{parent} is no section ({child})", f"write {parent}=VALUE")
        node[section] = node = dict(child)
    node[last] = value
