"""How a run is laid out over its ranks, decided and checked before any process group exists."""

import math
from dataclasses import dataclass

import numpy as np

from moe.config import ExpertChoiceRouterConfig, MoEConfig, SparseOTRouterConfig, TopKRouterConfig
from moe.files import FileError
from moe.placement.placement import Placement
from trainer.config import ImageSample, PointSample, ReconstructionSample, RunConfig, TextSample
from trainer.data import PythonSourceConfig, ShardsConfig, accumulation_steps, read_index
from trainer.engine.legality import check_engine
from trainer.model.autoencoder_config import AutoencoderConfig
from trainer.model.config import DiTConfig
from trainer.model.gpt_config import GPTConfig
from trainer.model.mlp_config import MLPConfig


@dataclass(frozen=True)
class Layout:
    """The division of the work.

    Attributes:
        world_size: all ranks.
        expert_parallel: ranks that share the experts of a layer; consecutive ranks form such a group.
        expert_data_parallel: groups of that kind, each with its own copy of every expert.
        tensor_parallel: ranks that share the matrices of a block and see the same examples; consecutive ranks form
            such a group.
        micro_batch: examples of one forward pass on one rank.
        accumulation: forward passes of one rank in an optimiser step.
        placement: where each expert lives, None for a dense model.
    """

    world_size: int
    expert_parallel: int
    expert_data_parallel: int
    tensor_parallel: int
    micro_batch: int
    accumulation: int
    placement: Placement | None

    @property
    def data_parallel(self) -> int:
        """Ranks that see different examples."""
        return self.world_size // self.tensor_parallel

    def data_rank(self, rank: int) -> int:
        """Number of a rank among those that see different examples."""
        return rank // self.tensor_parallel

    def slot_to_expert(self, moe_layer: int) -> np.ndarray:
        """Logical expert of each slot of an expert-parallel group.

        Args:
            moe_layer: index among the MoE layers.

        Returns:
            int64 [num_experts].
        """
        assert self.placement is not None
        return self.placement.slot_to_expert(moe_layer)

    @property
    def hops(self) -> np.ndarray:
        """Cost of one token's move between two ranks of an expert-parallel group, [ranks, ranks]."""
        assert self.placement is not None
        return np.array(self.placement.cost_matrix)


def plan_layout(config: RunConfig, world_size: int) -> Layout:
    """Divides a run over its ranks.

    Args:
        config: the run.
        world_size: ranks, at least 1.

    Returns:
        The layout.

    Raises:
        ValueError: the ranks, the batch, the experts or the examples do not divide or fit, or parts of the run exclude
            each other; names field, value and remedy.
        FileError: the placement file is malformed, made for another model or group, or has replicas.
    """
    expert = config.parallel.expert
    _check_tensor(config, world_size)
    data_parallel = world_size // config.parallel.tensor
    if config.moe is None and expert > 1:
        raise ValueError(f"parallel.expert: {expert} ranks share experts that the model does not have; use 1")
    if world_size % expert:
        raise ValueError(
            f"parallel.expert: {expert} does not divide the {world_size} ranks; "
            f"use one of {_divisors(world_size)} or start a multiple of {expert} ranks"
        )
    if config.moe is not None and config.moe.num_experts % expert:
        raise ValueError(
            f"moe.num_experts: {config.moe.num_experts} experts do not divide among parallel.expert {expert} ranks; "
            f"use {expert * max(1, round(config.moe.num_experts / expert))}"
        )
    check_engine(config)
    _check_examples(config)
    _check_sample(config, world_size)
    _check_dispatch(config)
    _check_profile(config)
    micro_batch = config.optim.micro_batch
    if micro_batch is None:
        micro_batch = accumulation_steps(config.optim.global_batch, 1, data_parallel)
    return Layout(
        world_size=world_size,
        expert_parallel=expert,
        expert_data_parallel=data_parallel // expert,
        tensor_parallel=config.parallel.tensor,
        micro_batch=micro_batch,
        accumulation=accumulation_steps(config.optim.global_batch, micro_batch, data_parallel),
        placement=_placement(config),
    )


def describe(config: RunConfig, layout: Layout) -> str:
    """One line for a person: how the run is divided."""
    ranks = f"{layout.world_size} rank{'s' * (layout.world_size > 1)}"
    experts = ""
    if layout.tensor_parallel > 1:
        experts = f" = tensor {layout.tensor_parallel} x data {layout.data_parallel}"
    if config.moe is not None:
        experts = (
            f" = expert {layout.expert_parallel} x expert data {layout.expert_data_parallel}, "
            f"{config.moe.num_experts // layout.expert_parallel} of {config.moe.num_experts} experts a rank and layer, "
            f"{config.moe.dispatch} dispatch"
        )
    return (
        f"{ranks}{experts}; batch {config.optim.global_batch} = {layout.micro_batch} x {layout.accumulation} micro "
        f"x {layout.data_parallel}; {config.engine.label}"
    )


def cautions(config: RunConfig, layout: Layout) -> list[str]:
    """Lines for a person about what is allowed and probably not meant.

    Args:
        config: the run.
        layout: how it is laid out.

    Returns:
        At most one line for each such thing.
    """
    moe, placement = config.moe, layout.placement
    if moe is None or placement is None or placement.dispatch == moe.dispatch:
        return []
    return [
        f"moe.placement: {moe.placement} was made for {placement.dispatch} dispatch, and what it saves there says "
        f"nothing about {moe.dispatch}; place with --objective {moe.dispatch}, or set moe.dispatch={placement.dispatch}"
    ]


def _check_examples(config: RunConfig) -> None:
    shape: tuple[int, ...] = tuple(config.data.shape)
    match config.data, config.model:
        case _, DiTConfig() if len(shape) != 3:
            raise ValueError(f"data.path: its examples have shape {list(shape)}, which is no image; use an mlp model")
        case _, DiTConfig(patch_size=patch_size) if shape[1] % patch_size or shape[2] % patch_size:
            pixels = " x ".join(map(str, sorted(set(shape[1:]))))
            raise ValueError(
                f"model.patch_size: {patch_size} does not divide images of {pixels} pixels; "
                f"use one of {_divisors(math.gcd(*shape[1:]))}"
            )
        case _, AutoencoderConfig() if len(shape) != 3:
            raise ValueError(f"data.path: its examples have shape {list(shape)}, which is no image; give images")
        case _, AutoencoderConfig(factor=factor) if shape[1] % factor or shape[2] % factor:
            pixels = " x ".join(map(str, sorted(set(shape[1:]))))
            raise ValueError(
                f"model.factor: {factor} does not divide images of {pixels} pixels; "
                f"use one of {_divisors(math.gcd(*shape[1:], 16))}"
            )
        case _, MLPConfig() if len(shape) != 1 or shape[0] < 2:
            raise ValueError(
                f"data.path: its examples have shape {list(shape)}, and an mlp takes vectors of 2 values or more; "
                "use a dit model for images"
            )
        case PythonSourceConfig(context=context), GPTConfig(context=longest) if context > longest:
            raise ValueError(
                f"data.context: {context} exceeds model.context {longest}, the longest sequence of the network; "
                f"use at most {longest}"
            )


def _check_sample(config: RunConfig, world_size: int) -> None:
    shared = config.parallel.expert * config.parallel.tensor > 1
    shared |= config.engine.shards_parameters and world_size > 1
    match config.sample, config.model:
        case ((ImageSample(every=int()) | ReconstructionSample(every=int())), _) if not drawable(config):
            raise ValueError(
                f"sample.every: {config.sample.every}, but examples of {config.data.shape[0]} channels are no picture; "
                "use null"
            )
        case ImageSample(every=int(), sampler=sampler) | PointSample(every=int(), sampler=sampler), _ if (
            shared and sampler.kind == "dopri5"
        ):
            raise ValueError(
                "sample.sampler.kind: dopri5 takes another number of steps on each rank, and ranks that share weights "
                "must take them together; use heun or euler, or sample.every=null and the sample verb afterwards"
            )
        case TextSample(every=int(), prompts=prompts, num_bytes=num_bytes), GPTConfig(context=context):
            longest = max(len(prompt.encode()) for prompt in prompts)
            if longest + num_bytes > context:
                raise ValueError(
                    f"sample.num_bytes: {num_bytes} bytes after a prompt of {longest} exceed model.context {context}; "
                    + (f"use at most {context - longest}" if longest < context else "use shorter sample.prompts")
                )


def _check_tensor(config: RunConfig, world_size: int) -> None:
    tensor, model = config.parallel.tensor, config.model
    if tensor == 1:
        return
    if world_size % tensor:
        raise ValueError(
            f"parallel.tensor: {tensor} does not divide the {world_size} ranks; "
            f"use one of {_divisors(world_size)} or start a multiple of {tensor} ranks"
        )
    if not isinstance(model, DiTConfig | GPTConfig):
        raise ValueError(f"parallel.tensor: {tensor} ranks share attention heads, which {model.kind} lacks; use 1")
    widths = {"model.num_heads": model.num_heads}
    if isinstance(model, GPTConfig):
        widths["model.num_kv_heads"] = model.key_value_heads
    if config.moe is None:
        widths["model.feed_forward_hidden"] = model.feed_forward_hidden or 4 * model.hidden
    for field, width in widths.items():
        if width % tensor:
            raise ValueError(
                f"parallel.tensor: {tensor} ranks do not divide {field} {width} among them; use one of "
                f"{_divisors(math.gcd(*widths.values()))}, or another {field}"
            )
    if config.moe is not None:
        raise ValueError(
            f"parallel.tensor: {tensor} ranks would send the same tokens to the experts {tensor} times; "
            "use 1 with a moe section, and parallel.expert to divide the experts"
        )


def drawable(config: RunConfig) -> bool:
    """Whether what an image model draws can be shown: grey, or red, green and blue, or latents of such images."""
    if config.data.shape[0] in (1, 3):
        return True
    return isinstance(config.data, ShardsConfig) and read_index(config.data.path).autoencoder is not None


def _check_dispatch(config: RunConfig) -> None:
    if config.moe is None or config.moe.dispatch != "coherent":
        return
    if not isinstance(config.model, GPTConfig):
        raise ValueError(
            f"moe.dispatch: coherent keeps a token on the rank of its expert, and attention in a {config.model.kind} "
            "needs all patches of an image on one rank; use home or copies, or a gpt model"
        )
    drops = _drops(config.moe)
    if drops is not None:
        raise ValueError(
            f"{drops} leaves tokens without an expert, and in coherent dispatch a token is where its expert is; "
            "use a router that drops none, such as top_k without capacity_factor, or dispatch home"
        )


def _check_profile(config: RunConfig) -> None:
    profile = config.observe.profile
    if profile is not None and profile.steps[1] > config.optim.steps:
        raise ValueError(
            f"observe.profile.steps: {list(profile.steps)} ends after the last step, optim.steps {config.optim.steps}; "
            f"end at {config.optim.steps} at most"
        )


def _drops(moe: MoEConfig) -> str | None:
    """What makes a router drop tokens, as field and value; None if it drops none."""
    match moe.router:
        case TopKRouterConfig(capacity_factor=float() as factor):
            return f"moe.router.capacity_factor: {factor}"
        case ExpertChoiceRouterConfig(kind=kind):
            return f"moe.router.kind: {kind}"
        case SparseOTRouterConfig(inference_capacity_factor=float() as factor):
            return f"moe.router.inference_capacity_factor: {factor}"
    return None


def _placement(config: RunConfig) -> Placement | None:
    if config.moe is None:
        return None
    num_layers, num_experts, ranks = config.model.num_layers, config.moe.num_experts, config.parallel.expert
    path = config.moe.placement
    if path is None:
        return Placement.contiguous(num_layers, num_experts, 1, ranks, dispatch=config.moe.dispatch)
    placement = Placement.read(path)
    for field, found, wanted in (
        ("num_layers", placement.num_layers, num_layers),
        ("num_experts", placement.num_experts, num_experts),
        ("num_nodes x ranks_per_node", placement.num_ranks, ranks),
    ):
        if found != wanted:
            raise FileError(
                path,
                field,
                f"is {found} where the run has {wanted}",
                "place this run's own trace (python -m moe place)",
            )
    if placement.has_replicas:
        raise FileError(
            path,
            "rank_experts",
            f"has replicas ({placement.slots_per_rank * ranks} slots for {num_experts} experts)",
            "training keeps each expert on one rank: place without replicas",
        )
    return placement


def _divisors(number: int) -> str:
    return ", ".join(str(d) for d in range(1, number + 1) if number % d == 0)
