"""What DeepSpeed and FSDP2 must be told to compute on the pretend device."""

from collections.abc import Sequence
from typing import Any

import torch
from deepspeed.accelerator import set_accelerator
from deepspeed.accelerator.cpu_accelerator import CPU_Accelerator
from torch import Tensor, nn
from torch.distributed.fsdp._fully_shard import _fsdp_init
from torch.distributed.fsdp._fully_shard._fsdp_param import FSDPParam

from tests.pretend.device import NAME, PretendTensor, register


class PretendAccelerator(CPU_Accelerator):
    """DeepSpeed's accelerator for CPUs, whose tensors, streams and events are those of the pretend device."""

    def __init__(self) -> None:
        super().__init__()
        self._name = NAME
        self._runtime: Any = torch.get_device_module(NAME)

    def is_synchronized_device(self) -> bool:
        """It is not: DeepSpeed uses streams and events as on a GPU."""
        return False

    def device_name(self, device_index: int | None = None) -> str:
        """``pretend``, or ``pretend:0``."""
        return NAME if device_index is None else f"{NAME}:0"

    def device(self, device_index: int | None = None) -> Any:
        """A context in which the device is current."""
        return self._runtime.device(device_index)

    def current_device(self) -> int:
        """Number 0."""
        return 0

    def current_device_name(self) -> str:
        """``pretend:0``."""
        return f"{NAME}:0"

    def device_count(self) -> int:
        """One."""
        return 1

    def synchronize(self, device_index: int | None = None) -> None:  # noqa: ARG002
        """Makes the host wait."""
        self._runtime.synchronize()

    @property
    def Stream(self) -> Any:  # noqa: N802
        """Class of the streams."""
        return self._runtime.Stream

    @property
    def Event(self) -> Any:  # noqa: N802
        """Class of the events."""
        return self._runtime.Event

    def stream(self, stream: Any) -> Any:
        """A context in which a stream is current."""
        return self._runtime.stream(stream)

    def current_stream(self, device_index: int | None = None) -> Any:  # noqa: ARG002
        """The one stream."""
        return self._runtime.current_stream()

    def default_stream(self, device_index: int | None = None) -> Any:  # noqa: ARG002
        """The one stream."""
        return self._runtime.current_stream()

    def on_accelerator(self, tensor: torch.Tensor) -> bool:
        """Whether a tensor is on the device."""
        return tensor.device.type == NAME


def use() -> None:
    """Has DeepSpeed and FSDP2 compute on the pretend device in this process."""
    register()
    set_accelerator(PretendAccelerator())
    FSDPParam.reset_sharded_param = _reset_sharded_param  # pyright: ignore[reportAttributeAccessIssue]
    _fsdp_init._move_states_to_device = _move


_of_torch = FSDPParam.reset_sharded_param


def _reset_sharded_param(parameter: Any) -> None:
    """FSDP2 pads a rank's rows again at its first pass if they are of a subclass of Tensor, in new memory."""
    own = parameter._sharded_param_data
    current = getattr(parameter._module_info.module, parameter._module_info.param_name)._local_tensor
    if isinstance(own, PretendTensor) and 0 < own.data_ptr() == current.untyped_storage().data_ptr():
        parameter._sharding_spec = parameter.sharded_param._spec
    else:
        _of_torch(parameter)


def _move(parameters: Sequence[nn.Parameter], buffers: Sequence[Tensor], device: torch.device) -> None:
    """FSDP2 sets the data of a tensor of the CPU to those on a device, which are of another class here."""
    for tensor in (*parameters, *buffers):
        if tensor.device.type not in ("meta", device.type):
            moved = tensor.detach().to(device)
            is_parameter = isinstance(tensor, nn.Parameter)
            torch.utils.swap_tensors(tensor, nn.Parameter(moved, tensor.requires_grad) if is_parameter else moved)
