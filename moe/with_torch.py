"""Imported before all else by what needs torch: without it, the error names the extra that brings it."""

import importlib.util

if importlib.util.find_spec("torch") is None:
    raise ModuleNotFoundError("this part of moe needs torch; pip install 'flowfabric[train]'", name="torch")
