"""Training with torch's fully sharded data parallelism (FSDP2): every rank keeps some rows of every parameter."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from trainer.config.layout import Layout
from trainer.config.run import RunConfig
from trainer.config.sections import FSDPConfig
from trainer.distributed.engine.protocol import (
    MOMENTS,
    STATE,
    StepOutcome,
    groups_of_equal_rate,
    set_learning_rate,
    sum_of_squares,
)
from trainer.distributed.groups import group_names
from trainer.model.network import Network
from trainer.model.parallel.state import NamedParameter, Region, Shard, StatePiece, named_parameters
from trainer.model.values import is_bare


class FSDPEngine:
    """FSDP2.

    A block gathers its parameters before its forward pass and, if it has released them, before its backward pass. After
    the backward pass it reduce-scatters their gradients. Each of these is one collective. Parameters outside the blocks
    are gathered first, kept, and reduced last. Weights, moments, gradient sums and the moving average are float32;
    under bf16 a block computes with rounded copies. Under tensor parallelism each part of a matrix is divided over its
    data ranks.

    Source: Zhao et al., "PyTorch FSDP: Experiences on Scaling Fully Sharded Data Parallel", 2023, section 3.
    """

    def __init__(self, module: Network, config: RunConfig, layout: Layout, device: torch.device) -> None:
        """The network, without experts, is float32 on the CPU, or its parameters are on the meta device."""
        from megatron.core import parallel_state

        assert isinstance(config.engine, FSDPConfig)
        group = parallel_state.get_data_parallel_group()
        assert isinstance(group, dist.ProcessGroup)
        self._group, self._accumulation, self._clip_norm = group, layout.accumulation, config.optim.clip_norm
        self._mesh = DeviceMesh.from_group(group, device.type)
        self._micro = 0
        self.module = module
        bare = is_bare(module)
        module._apply(lambda tensor: tensor if tensor.is_meta else tensor.to(device))
        self._units = self._divided(config.engine)
        if bare:
            module._apply(lambda tensor: torch.empty_like(tensor, device=device) if tensor.is_meta else tensor)
        self._named = named_parameters(module)
        self._parts_group = parallel_state.get_tensor_model_parallel_group() if layout.tensor_parallel > 1 else None
        self._optimizer = torch.optim.AdamW(
            groups_of_equal_rate(self._named, config.optim),
            lr=config.optim.lr,
            betas=config.optim.betas,
            weight_decay=config.optim.weight_decay,
            fused=True,
        )
        self.group_names = {**group_names(), group.group_name: "data"}

    @property
    def model(self) -> Network:
        return self.module

    def backward(self, loss: Tensor) -> None:
        self._micro += 1
        self._units[-1].set_requires_gradient_sync(self._micro == self._accumulation)
        (loss / self._accumulation).backward()

    def step(self, lr: float, objection: Callable[[float], str | None]) -> StepOutcome:
        gradients, norm = self._gradients()
        outcome = StepOutcome.judged(norm, objection)
        if outcome.taken:
            if self._clip_norm is not None and norm > self._clip_norm:
                torch._foreach_mul_(gradients, self._clip_norm / (norm + 1e-6))
            set_learning_rate(self._optimizer, lr)
            self._optimizer.step()
        self._optimizer.zero_grad()
        self._micro = 0
        return outcome

    def shards(self) -> list[Shard]:
        return [Shard(named.name, _rows(named.parameter.data), None, self._region(named)) for named in self._named]

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """While entered, parameters outside the blocks stay gathered, so that parts of the network can be called."""
        self._units[-1].unshard()
        self.module.eval()
        try:
            yield
        finally:
            self.module.train()
            for unit in self._units:
                unit.reshard()

    def state(self, kinds: Collection[str] = STATE) -> list[StatePiece]:
        pieces = []
        for named in self._named:
            region = self._region(named)
            for kind in kinds:
                tensor = named.parameter.data if kind == "weight" else self._moments(named.parameter)[kind]
                for offset, values in region.rectangles(_rows(tensor)):
                    pieces.append(StatePiece(named.name, kind, region.shape, offset, values))
        return pieces

    @property
    def updates(self) -> int:
        return max((int(state["step"]) for state in self._optimizer.state.values()), default=0)

    def state_loaded(self, updates: int) -> None:
        """Sets only AdamW's step count, since the parameters themselves were written to."""
        for named in self._named:
            self._moments(named.parameter)["step"].fill_(updates)

    def weights_written(self) -> None:
        """Does nothing, since the parameters themselves were written to."""

    def gathered(self, shard: Shard, pieces: Iterable[StatePiece]) -> Tensor:  # noqa: ARG002
        raise AssertionError(f"{shard.name}: the network has no experts")

    def expert_state(self, shard: Shard) -> dict[str, Tensor]:
        raise AssertionError(f"{shard.name}: the network has no experts")

    def set_expert_state(self, shard: Shard, state: Mapping[str, Tensor]) -> None:  # noqa: ARG002
        raise AssertionError(f"{shard.name}: the network has no experts")

    def slot_to_expert(self) -> NDArray[np.int64]:
        return np.array([], dtype=np.int64)

    def place(self, slot_to_expert: NDArray[np.int64]) -> None:
        assert not len(slot_to_expert), "the network has no experts"

    def _divided(self, config: FSDPConfig) -> list[FSDPModule]:
        """Shards each block and, last, the network with its remaining parameters; returns all of them."""
        policy = MixedPrecisionPolicy(
            param_dtype=torch.bfloat16 if config.precision == "bf16" else None,
            reduce_dtype=torch.float32,
            cast_forward_inputs=False,  # the network itself rounds its inputs, except times
        )
        settings: dict[str, Any] = {"mesh": self._mesh, "mp_policy": policy}
        blocks = [
            fully_shard(block, reshard_after_forward=config.reshard_after_forward, **settings)
            for block in self.module.blocks
        ]
        return [*blocks, fully_shard(self.module, reshard_after_forward=False, **settings)]

    def _gradients(self) -> tuple[list[Tensor], float]:
        """This rank's rows of the averaged gradients, and the norm of the whole gradient."""
        whole, parts = [], []
        for named in self._named:
            if named.parameter.grad is not None:
                (whole if named.part is None else parts).append(_rows(named.parameter.grad))
        none = torch.zeros((), device=self._mesh.device_type)
        of_whole, of_parts = sum_of_squares(whole, none), sum_of_squares(parts, none)
        if self._parts_group is not None:
            dist.all_reduce(of_parts, group=self._parts_group)
        squares = of_whole + of_parts
        dist.all_reduce(squares, group=self._group)
        return [*whole, *parts], float(squares.sqrt())

    def _region(self, named: NamedParameter) -> Region:
        """The region of this rank's rows; all ranks have as many, but the last may have fewer or none."""
        num_rows, *others = named.parameter.shape
        rows = -(-num_rows // self._group.size())
        first = min(self._group.rank() * rows, num_rows)
        sizes = (min(rows, num_rows - first), *others)
        whole = named.parameter.shape if named.part is None else named.part.shape
        return Region(tuple(whole), (first, *(0 for _ in others)), sizes, part=named.part)

    def _moments(self, parameter: Tensor) -> dict[str, Tensor]:
        """AdamW's state of a parameter; created with zeros, as its first step would, if there is none."""
        state = self._optimizer.state[parameter]
        if not state:
            state["step"] = torch.zeros((), device=parameter.device)
            state.update({kind: torch.zeros_like(parameter, requires_grad=False) for kind in MOMENTS})
        return state


def _rows(tensor: Tensor) -> Tensor:
    """This rank's rows of a divided tensor, as a view."""
    assert isinstance(tensor, DTensor)
    return tensor.to_local()
