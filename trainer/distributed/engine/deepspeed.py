"""DeepSpeed as an engine: ZeRO stages 0 to 3 for dense networks, 0 to 2 with experts."""

import importlib
import logging
import math
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any
from unittest.mock import patch

import torch

os.environ.setdefault("DS_ACCELERATOR", "cuda" if torch.cuda.is_available() else "cpu")

import deepspeed
import numpy as np
import torch.distributed as dist
from deepspeed.moe.utils import split_params_into_different_moe_groups_for_optimizer
from deepspeed.runtime import engine as deepspeed_engine
from deepspeed.runtime.utils import combine_grad_norm_groups
from deepspeed.utils import groups
from numpy.typing import NDArray
from torch import Tensor

from moe.layer import PlacedMoELayer
from trainer.config.layout import Layout
from trainer.config.run import RunConfig
from trainer.config.sections import DeepSpeedConfig, OptimConfig
from trainer.distributed.engine.deepspeed_module import (
    MegatronGroups,
    expert_group_name,
    mark_moe_layers,
    prepare,
    without_copies,
)
from trainer.distributed.engine.deepspeed_state import (
    go_on,
    network_shards,
    set_expert_state,
    state_pieces,
    updates_taken,
    use_weights,
)
from trainer.distributed.engine.protocol import (
    STATE,
    StepOutcome,
    groups_of_equal_rate,
    set_learning_rate,
    sum_of_squares,
)
from trainer.distributed.groups import group_names
from trainer.model.network import Network
from trainer.model.parallel.state import NamedParameter, Shard, StatePiece, named_parameters
from trainer.model.values import is_bare

NO_LIMIT = 10**15


class DeepSpeedEngine:
    def __init__(self, module: Network, config: RunConfig, layout: Layout, device: torch.device) -> None:
        """The network is float32 on the CPU, or its parameters are on the meta device."""
        assert isinstance(config.engine, DeepSpeedConfig)
        self._stage = config.engine.zero_stage
        bare = is_bare(module)
        if bare:
            computes_in = torch.bfloat16 if config.engine.precision == "bf16" else torch.float32
            prepare(module, self._stage, computes_in, device)
        self.module = module.to(device)
        self._has_experts = config.moe is not None
        self._tensor_parallel = layout.tensor_parallel
        self._clip_norm = config.optim.clip_norm
        self._has_learned = False
        if self._has_experts:
            mark_moe_layers(module, layout.expert_parallel, layout.accumulation)
        self._moe_layers = [layer for layer in module.modules() if isinstance(layer, PlacedMoELayer)]
        self._named = named_parameters(module)
        os.environ.setdefault("LOCAL_RANK", str(device.index or 0))  # DeepSpeed requires it even without a launcher
        backend: Any = importlib.import_module("deepspeed.comm.torch")
        backend.build_shm_op = lambda: None  # would compile an extension at the first start, for half a minute
        logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
        deepspeed.init_distributed(dist.get_backend(), verbose=False)
        optimizer = torch.optim.AdamW(
            self._parameter_groups(config.optim),
            lr=config.optim.lr,
            betas=config.optim.betas,
            weight_decay=config.optim.weight_decay,
            fused=True,
        )
        # The optimiser is torch's without ZeRO, else DeepSpeed's; neither type declares its attributes.
        self._engine: Any
        self._optimizer: Any
        with zero_optimizer_in_every_stage(), without_copies() if bare else nullcontext():
            self._engine, self._optimizer, *_ = deepspeed.initialize(
                model=module,
                optimizer=optimizer,
                config=settings_of(config, config.engine, layout, sum(n.parameter.numel() for n in self._named)),
                dist_init_required=False,
                mpu=MegatronGroups(),
            )
        self.model = self._engine
        self.group_names = {**group_names(), **self._own_group_names(layout)}

    def backward(self, loss: Tensor) -> None:
        self._has_learned = True
        self._engine.backward(loss)
        if not self._engine.is_gradient_accumulation_boundary():
            self._engine.step()  # only counts the micro batch

    def step(self, lr: float, objection: Callable[[float], str | None]) -> StepOutcome:
        set_learning_rate(self._optimizer, lr)
        if self._stage > 0:
            return take_zero_step(self._engine, self._stage, objection)
        gradients, norm = self._gradients()
        outcome = StepOutcome.judged(norm, objection)
        if outcome.taken:
            if self._clip_norm is not None and norm > self._clip_norm:
                torch._foreach_mul_(gradients, self._clip_norm / (norm + 1e-6))
            self._engine.step()
        else:
            self._engine.zero_grad()
            self._engine.micro_steps += 1  # DeepSpeed's count, which determines the last micro batch of a step
        return outcome

    def shards(self) -> list[Shard]:
        return network_shards(self._named)

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        self.module.eval()
        try:
            with unordered(self._optimizer) if self._stage == 3 and not self._has_learned else nullcontext():
                yield
        finally:
            if self._stage == 3:  # ZeRO 3 keeps gathered weights for the next pass, when they may be outdated
                self._optimizer.empty_partition_cache()
            self.module.train()

    def state(self, kinds: Collection[str] = STATE) -> list[StatePiece]:
        return state_pieces(self._named, self._optimizer, self._stage, kinds)

    @property
    def updates(self) -> int:
        return updates_taken(self._optimizer, self._stage)

    def state_loaded(self, updates: int) -> None:
        go_on(self._optimizer, self._stage, updates)

    def weights_written(self) -> None:
        use_weights(self._optimizer, self._stage)

    def gathered(self, shard: Shard, pieces: Iterable[StatePiece]) -> Tensor:
        whole = torch.zeros(shard.shape, device=shard.tensor.device)
        for piece in pieces:
            piece.of(whole).copy_(piece.tensor)
        if self._stage > 0:  # each element is on one rank; summed as integers, since -0.0 + 0.0 would lose the sign
            name = vars(self._stack_of(shard).parameter)["group_name"]
            dist.all_reduce(whole.view(torch.int32), group=groups._get_expert_data_parallel_group(name))
        return whole

    def expert_state(self, shard: Shard) -> dict[str, Tensor]:
        pieces = state_pieces([self._stack_of(shard)], self._optimizer, self._stage, STATE)
        own = [piece for piece in pieces if piece.name == shard.name]
        return {kind: self.gathered(shard, [piece for piece in own if piece.kind == kind]) for kind in STATE}

    def set_expert_state(self, shard: Shard, state: Mapping[str, Tensor]) -> None:
        set_expert_state(self._stack_of(shard), shard.name, state, self._optimizer, self._stage)

    def slot_to_expert(self) -> NDArray[np.int64]:
        return np.array([layer.slot_to_expert for layer in self._moe_layers], dtype=np.int64)

    def place(self, slot_to_expert: NDArray[np.int64]) -> None:
        for layer, slots in zip(self._moe_layers, slot_to_expert, strict=True):
            layer.place(slots)
        self._named = named_parameters(self.module)

    def _stack_of(self, shard: Shard) -> NamedParameter:
        return next(named for named in self._named if named.stack is not None and shard.name in named.stack.names)

    def _parameter_groups(self, optim: OptimConfig) -> list[dict[str, Any]]:
        groups = groups_of_equal_rate(self._named, optim)
        if not self._has_experts:
            return groups
        everything = [{**group, "name": f"parameters {number}"} for number, group in enumerate(groups)]
        divided = split_params_into_different_moe_groups_for_optimizer(everything)
        return [group for group in divided if group["params"]]  # DeepSpeed leaves one empty before a large first stack

    def _own_group_names(self, layout: Layout) -> dict[str, str]:
        names: dict[str, str] = {_data_group().group_name: "data"}
        if self._has_experts:
            name = expert_group_name(layout.expert_parallel)
            names[groups._get_expert_parallel_group(name).group_name] = "expert"
            names[groups._get_expert_data_parallel_group(name).group_name] = "expert_data"
        return names

    def _gradients(self) -> tuple[list[Tensor], float]:
        """Averaged gradients and their norm; without ZeRO DeepSpeed clips experts by a wrong norm."""
        from megatron.core import parallel_state

        whole, experts, parts = [], [], []
        for named in self._named:
            if named.parameter.grad is not None:
                kind = experts if named.stack is not None else whole if named.part is None else parts
                kind.append(named.parameter.grad)
        gradients = [*whole, *experts, *parts]
        none = torch.zeros((), device=self._engine.device)
        of_whole, of_experts, of_parts = (sum_of_squares(kind, none) for kind in (whole, experts, parts))
        if self._has_experts:
            dist.all_reduce(of_experts, group=parallel_state.get_expert_model_parallel_group())
        if self._tensor_parallel > 1:
            dist.all_reduce(of_parts, group=_tensor_group())
        return gradients, float((of_whole + of_experts + of_parts).sqrt())


def _data_group() -> dist.ProcessGroup:
    group = groups._get_data_parallel_group()
    assert isinstance(group, dist.ProcessGroup)
    return group


def _tensor_group() -> dist.ProcessGroup:
    from megatron.core import parallel_state

    group = parallel_state.get_tensor_model_parallel_group()
    assert isinstance(group, dist.ProcessGroup)
    return group


def settings_of(config: RunConfig, engine: DeepSpeedConfig, layout: Layout, elements: int) -> dict[str, Any]:
    """DeepSpeed's settings for a run.

    Under bf16 gradients are averaged over ranks in float32. Those of several micro batches are summed in float32; those
    of a single one keep the type in which they were computed. `elements` is the number of elements of this rank's
    parameters; no gradient bucket, whose memory is allocated, is larger.
    """
    bf16 = engine.precision == "bf16"
    bucket = engine.bucket_elements
    return {
        "train_micro_batch_size_per_gpu": layout.micro_batch,
        "gradient_accumulation_steps": layout.accumulation,
        "gradient_clipping": 0.0 if engine.zero_stage == 0 else config.optim.clip_norm or 0.0,
        "bf16": {"enabled": bf16},
        "communication_data_type": "fp32",
        "data_types": {"grad_accum_dtype": "fp32" if layout.accumulation > 1 else None},
        "zero_optimization": {
            "stage": engine.zero_stage,
            "overlap_comm": bf16,
            "reduce_bucket_size": min(bucket, elements),
            "allgather_bucket_size": bucket,
            "stage3_param_persistence_threshold": 0,
            "stage3_prefetch_bucket_size": bucket,
            "stage3_max_reuse_distance": bucket,
            "stage3_max_live_parameters": NO_LIMIT,  # the bucket limits what is prefetched and kept
        },
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "timers": {"throughput": {"enabled": False}},  # these would synchronize the device in every micro batch
    }


@contextmanager
def zero_optimizer_in_every_stage() -> Iterator[None]:
    """While entered, DeepSpeed uses the ZeRO optimiser also for stage 1 with bf16 weights and float32 gradient sums.

    Its own choice keeps the whole float32 gradient on every rank, and differs in step and state from other stages.
    """
    engine = deepspeed_engine.DeepSpeedEngine
    of_deepspeed = engine._do_optimizer_sanity_check

    def chosen(initialised: Any, optimizer: Any) -> Any:
        if initialised.zero_optimization():
            return deepspeed_engine.ZERO_OPTIMIZATION
        return of_deepspeed(initialised, optimizer)

    with patch.object(engine, "_do_optimizer_sanity_check", chosen):
        yield


INFINITE = Tensor([math.inf])[0]


def take_zero_step(engine: Any, stage: int, objection: Callable[[float], str | None]) -> StepOutcome:
    """Takes a step of DeepSpeed in ZeRO 1 to 3, unless there is an objection to the norm of the gradient.

    ZeRO computes the norm once, over all ranks and before it changes anything, and skips the step if the norm is not
    finite. An objection therefore replaces the norm by infinity: no collective is added, and the optimiser's state is
    unchanged.
    """
    optimizer = engine.optimizer
    method = "_get_norm_groups" if stage == 3 else "scaled_global_norm"
    of_deepspeed = getattr(optimizer, method)
    outcome: StepOutcome | None = None

    def norm_or_refusal() -> Any:
        nonlocal outcome
        norms = of_deepspeed()
        norm = float(combine_grad_norm_groups(norms) if stage == 3 else norms)
        outcome = StepOutcome.judged(norm, objection)
        if outcome.taken:
            return norms
        return [INFINITE] if stage == 3 else INFINITE

    setattr(optimizer, method, norm_or_refusal)
    try:
        engine.step()
    finally:
        delattr(optimizer, method)
    if outcome is None:  # DeepSpeed found a bf16 overflow before it computed the norm
        outcome = StepOutcome.judged(math.inf, objection)
    assert outcome.taken != bool(optimizer.overflow)
    return outcome


@contextmanager
def unordered(optimizer: Any) -> Iterator[None]:
    """While entered, ZeRO 3 records no order of modules; for passes before the first backward pass.

    Otherwise a pass in evaluation mode would record, for good, that no module's parameters are needed again after its
    forward pass. Every backward pass would then gather all parameters again, one module at a time.
    """
    coordinator = optimizer.parameter_offload.get_param_coordinator()
    vars(coordinator)["reset_step"] = lambda: None  # begins a pass and completes the record of the previous one
    try:
        yield
    finally:
        del vars(coordinator)["reset_step"]
