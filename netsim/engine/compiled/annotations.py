"""Annotations for compiled functions. They are Any: to the type checker an entry of an array may be an array again."""

from typing import Any

Integer = Any
"""An int64."""
Unsigned = Any
"""A uint64."""
Record = Any
"""An entry of a structured array."""
Records = Any
"""A structured array."""
