"""The compiled kernels of the searches, which a package that was built without a compiler lacks."""

from importlib import import_module
from types import ModuleType

from netsim.foundation.refusal import Refusal


def kernels() -> ModuleType:
    """The module of `moe/placement/solver/core`; a `Refusal` where it is missing."""
    try:
        return import_module("moe.placement.solver._kernels")
    except ImportError as error:
        remedy = "install a C++ compiler and then flowfabric again"
        raise Refusal("", "", "this search needs the kernels, which are not compiled here", remedy) from error
