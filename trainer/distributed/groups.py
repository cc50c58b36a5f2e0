"""Process groups of a run, and the check of the network adapters that they need."""

import ctypes
import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

from moe.dispatch.node_groups import divide_nodes, node_groups, unite_nodes
from trainer.distributed.process.debug import record_flights
from trainer.distributed.process.exit_status import VARIABLE
from trainer.distributed.process.rendezvous_host import listener
from trainer.distributed.process.signals import STAGE

LIBRARY = "libibverbs.so.1"


def check_adapters(folder: Path = Path("/sys/class/infiniband")) -> None:
    """Refuses a node whose RDMA adapters NCCL would silently replace by TCP sockets, many times slower.

    Skipped if NCCL_IB_DISABLE=1 requests sockets or NCCL_NET names a network. `folder` is where the kernel lists
    adapters and their ports.
    """
    adapters = sorted(path.name for path in folder.glob("*"))
    if not adapters or os.environ.get("NCCL_IB_DISABLE", "0") not in ("", "0") or os.environ.get("NCCL_NET"):
        return
    states = [path.read_text(encoding="ascii") for path in folder.glob("*/ports/*/state")]
    if not any("ACTIVE" in state for state in states):
        fault = "none of their ports is active; bring the links up"
    else:
        fault = _library_fault()
    if fault is not None:
        raise ValueError(
            f"NCCL: would use TCP sockets beside the RDMA adapters of this node ({', '.join(adapters)}): {fault}, "
            "or ask for sockets by NCCL_IB_DISABLE=1"
        )


def _library_fault() -> str | None:
    """Why libibverbs, through which NCCL reaches RDMA adapters, lists none; None if it lists some."""
    try:
        library = ctypes.CDLL(LIBRARY)
    except OSError:
        return f"{LIBRARY} cannot be loaded; install rdma-core and ibverbs-providers"
    number = ctypes.c_int(0)
    library.ibv_get_device_list.restype = ctypes.c_void_p
    devices = library.ibv_get_device_list(ctypes.byref(number))
    if devices:
        library.ibv_free_device_list(ctypes.c_void_p(devices))
    if number.value:
        return None
    return "libibverbs opens none of them; give the container /dev/infiniband, and the image their providers"


TIMEOUT_S = 600.0
"""Timeout of collectives outside a run; a run has its own."""


@dataclass(frozen=True)
class Launch:
    """The launcher's variables: this process's rank in the run and on its node, and the numbers of processes there."""

    rank: int
    local_rank: int
    world_size: int
    local_world_size: int

    @classmethod
    def from_environment(cls) -> "Launch":
        """Reads torchrun's variables; without them there is one process. Raises ValueError for invalid ones."""
        values = []
        for name, default in (("RANK", "0"), ("LOCAL_RANK", "0"), ("WORLD_SIZE", "1"), ("LOCAL_WORLD_SIZE", "1")):
            text = os.environ.get(name, default)
            if not text.isdecimal() or (name.endswith("SIZE") and int(text) < 1):
                wanted = f"a whole number of {1 if name.endswith('SIZE') else 0} or more"
                raise ValueError(
                    f"environment: {name} is not {wanted} ({text}); unset it, or start the run with torchrun"
                )
            values.append(int(text))
        launch = cls(*values)
        for name, rank, size in (
            ("RANK", launch.rank, launch.world_size),
            ("LOCAL_RANK", launch.local_rank, launch.local_world_size),
        ):
            if rank >= size and f"{name.removesuffix('RANK')}WORLD_SIZE" in os.environ:
                raise ValueError(
                    f"environment: {name} is {rank}, and ranks are 0 to {size - 1}; start the ranks with torchrun"
                )
        port = os.environ.get("MASTER_PORT", "0")
        if launch.world_size > 1 and not (port.isdecimal() and int(port) < 2**16):
            raise ValueError(
                f"environment: MASTER_PORT is not a port ({port}); give a number below 65536, or start the run with "
                "torchrun"
            )
        if launch.world_size > 1 and not {"RANK", "MASTER_ADDR", "MASTER_PORT"} <= os.environ.keys():
            raise ValueError(
                f"environment: WORLD_SIZE is {launch.world_size}, but RANK, MASTER_ADDR or MASTER_PORT is not set; "
                "start the ranks with torchrun, or unset WORLD_SIZE to run one process"
            )
        return launch

    @property
    def device(self) -> torch.device:
        """The rank's own GPU, or the CPU without GPUs."""
        return torch.device("cuda", self.local_rank) if torch.cuda.is_available() else torch.device("cpu")


@contextmanager
def joined(
    launch: Launch,
    *,
    expert_parallel: int = 1,
    tensor_parallel: int = 1,
    relay_ranks: int | None = None,
    timeout_s: float = TIMEOUT_S,
) -> Iterator[None]:
    """Joins the run's process groups and leaves them in an order that never aborts a finished run.

    The default group is NCCL on GPUs and gloo on CPUs; the others are Megatron-Core's. Consecutive ranks form a
    tensor-parallel group; ranks at that distance see different data. Inside, ``torch.distributed`` and
    ``megatron.core.parallel_state`` are initialised; joining, and each collective, fails after `timeout_s`.
    """
    backend = "nccl" if launch.device.type == "cuda" else "gloo"
    if launch.device.type == "cuda":
        torch.cuda.set_device(launch.device)
    timeout = timedelta(seconds=timeout_s)
    store = launch_store(launch, timeout)
    record_flights()
    dist.init_process_group(backend, rank=launch.rank, world_size=launch.world_size, timeout=timeout, store=store)
    divide_ranks(expert_parallel, tensor_parallel, relay_ranks)
    yield
    gc.collect()
    dist.barrier()
    unite_ranks()
    dist.destroy_process_group()


def launch_store(launch: Launch, timeout: timedelta) -> dist.Store:
    """The rendezvous store of the ranks; where rank 0 serves it, it lives as long as the returned object.

    torchrun's store outlives a restart of the ranks, which would then find addresses of dead ranks. On one node the
    agent's restart count separates the starts. Agents of several nodes count differently, so there the store must not
    be torchrun's (TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1).
    """
    if "MASTER_ADDR" not in os.environ:
        return dist.HashStore()
    return _of_this_start(_served(launch, timeout, wait_for_workers=True))


def early_store(launch: Launch, timeout: timedelta) -> dist.Store:
    """Like :func:`launch_store`, but rank 0 does not wait for the other ranks, so that it can name missing ones."""
    if "MASTER_ADDR" not in os.environ:
        return dist.HashStore()
    return _of_this_start(_served(launch, timeout, wait_for_workers=False))


def _served(launch: Launch, timeout: timedelta, *, wait_for_workers: bool) -> dist.Store:
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    serves = launch.rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    listening = None
    if serves and VARIABLE in os.environ:  # launch.sh gave one address; torch would listen on all of the machine's
        with suppress(OSError):  # this process serves it already, or torch reports the error
            listening = listener(address, port).detach()
    return dist.TCPStore(
        address,
        port,
        launch.world_size,
        serves,
        timeout=timeout,
        wait_for_workers=wait_for_workers,
        multi_tenant=True,
        master_listen_fd=listening,
    )


def _of_this_start(store: dist.Store) -> dist.Store:
    if os.environ.get("GROUP_WORLD_SIZE") != "1":
        return store
    starts, stage = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"), os.environ.get(STAGE, "")
    return dist.PrefixStore(f"start_{starts}_{stage}", store)


def divide_ranks(expert_parallel: int, tensor_parallel: int, relay_ranks: int | None = None) -> None:
    """Makes Megatron-Core's process groups out of all ranks, until :func:`unite_ranks`; collective.

    `relay_ranks` is the number of consecutive ranks of an expert-parallel group on one node, for hierarchical dispatch,
    where tokens cross to a node once; None if dispatch ignores nodes.
    """
    from megatron.core import parallel_state

    parallel_state.initialize_model_parallel(
        tensor_model_parallel_size=tensor_parallel,
        expert_model_parallel_size=expert_parallel,
        expert_tensor_parallel_size=1,
        create_gloo_process_groups=False,
    )
    if relay_ranks is not None:
        divide_nodes(expert_parallel, relay_ranks)


def unite_ranks() -> None:
    """Destroys the groups of :func:`divide_ranks` and their threads; Megatron-Core alone only drops its references."""
    from megatron.core import parallel_state

    groups = parallel_state._global_process_group_list or []
    parallel_state.destroy_model_parallel()
    unite_nodes()
    for group in groups:
        if group is not None:  # the default group is None
            dist.destroy_process_group(group)


def data_ranks() -> dist.ProcessGroup:
    """The data-parallel group: this rank, and the ranks that see other examples."""
    from megatron.core import parallel_state

    group = parallel_state.get_data_parallel_group()
    assert isinstance(group, dist.ProcessGroup)
    return group


def limit_collectives(timeout_s: float) -> None:
    """Gives every process group of this rank the same timeout, whatever created it."""
    groups = dist.distributed_c10d._world.pg_map  # torch has no public list of them
    for group in groups:
        dist.distributed_c10d._set_pg_timeout(timedelta(seconds=timeout_s), group)


def group_names() -> dict[str, str]:
    """Meaning of each process group of this rank, by torch's name of the group.

    The meanings are ``world``, ``data``, ``tensor``, ``expert``, ``expert_data``, ``expert_rail`` (one rank per node
    of an expert-parallel group) and ``expert_node`` (its ranks on one node).
    """
    from megatron.core import parallel_state

    groups = {
        "world": dist.group.WORLD,
        "data": parallel_state.get_data_parallel_group(),
        "tensor": parallel_state.get_tensor_model_parallel_group(),
        "expert": parallel_state.get_expert_model_parallel_group(),
        "expert_data": parallel_state.get_expert_data_parallel_group(),
    }
    parts = node_groups()
    if parts is not None:
        groups |= {"expert_rail": parts.rail, "expert_node": parts.node}
    named = {group.group_name: name for name, group in groups.items() if group is not None}
    routers = parallel_state.get_tensor_and_data_parallel_group(with_context_parallel=True)
    model = parallel_state.get_model_parallel_group()
    assert isinstance(routers, dist.ProcessGroup)
    assert isinstance(model, dist.ProcessGroup)
    return {routers.group_name: "data", model.group_name: "tensor", **named}
