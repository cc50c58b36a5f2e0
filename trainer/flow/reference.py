"""The section that names another run, under the name that parts of a flow know it by.

It stands in a lower package, since settings of networks, which name runs, too, are read without torch.
"""

from moe.validation.run_reference import ReferenceConfig, RunReference

__all__ = ["ReferenceConfig", "RunReference"]
