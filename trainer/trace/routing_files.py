"""Where the ranks' routing lies, and joining it to one trace."""

import zipfile
from pathlib import Path

import numpy as np
from numpy.lib import format as npy

from moe.routing_trace import ARRAYS, RoutingHeader, RoutingTrace
from netsim.foundation.files import replacing
from netsim.foundation.refusal import Refusal

_REMEDY = "record the step again on every rank"


def rank_path(folder: Path, rank: int) -> Path:
    """Where a rank's own routing lies until it is merged."""
    return folder / f"routing.rank_{rank:05d}.npz"


def merge_routing(folder: Path, world_size: int) -> None:
    """Joins the ranks' files to ``routing.npz``, in the order of ranks; one of them is in memory at a time."""
    paths = [rank_path(folder, rank) for rank in range(world_size)]
    header, forms = _form(paths[0])
    for path in paths[1:]:
        other, of_rank = _form(path)
        if other != header:
            raise Refusal(path, "header", "differs from rank 0's", _REMEDY)
        if of_rank.keys() != forms.keys():
            raise Refusal(path, "arrays", f"must be {', '.join(forms)} ({', '.join(of_rank)})", _REMEDY)
        for name, (dtype, shape) in of_rank.items():
            known, (tokens, *inner) = forms[name]
            forms[name] = np.promote_types(known, dtype), (tokens + shape[0], *inner)
    with replacing(folder / "routing.npz") as unfinished, zipfile.ZipFile(unfinished, "w", allowZip64=True) as archive:
        with archive.open("header.npy", "w", force_zip64=True) as member, np.load(paths[0]) as first:
            npy.write_array(member, first["header"])
        for name, (dtype, shape) in forms.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                described = {"descr": npy.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
                npy.write_array_header_1_0(member, described)
                for path in paths:
                    with np.load(path) as arrays:
                        member.write(np.ascontiguousarray(arrays[name], dtype).data)


def _form(path: Path) -> tuple[RoutingHeader, dict[str, tuple[np.dtype, tuple[int, ...]]]]:
    """Header of a rank's file, and the types and shapes of its arrays, all of it checked."""
    trace = RoutingTrace.read(path)
    arrays = {name: getattr(trace, name) for name in ARRAYS}
    return trace.header, {name: (array.dtype, array.shape) for name, array in arrays.items() if array is not None}
