"""Whether NCCL uses the RDMA adapters of this node."""

import ctypes
import os
from pathlib import Path

LIBRARY = "libibverbs.so.1"


def check_adapters(folder: Path = Path("/sys/class/infiniband")) -> None:
    """Refuses a node with RDMA adapters that NCCL would pass over in silence for TCP sockets, many times slower.

    NCCL_IB_DISABLE=1 requests sockets, and NCCL_NET names any network: then nothing is checked. `folder` is where the
    kernel lists adapters and their ports.
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
    """Why libibverbs, through which NCCL reaches adapters, shows it none."""
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
