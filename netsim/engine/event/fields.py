"""Types of fields of the event engine's records, and how fields become records."""

import numpy as np

from netsim.engine.compiled.lines import LINE_BYTES

INDEX, WHOLE, REAL, YES = np.int32, np.int64, np.float64, np.uint8


def record(**fields: type | np.dtype) -> np.dtype:
    """A record of fields in their order, each at its natural alignment."""
    return np.dtype([*fields.items()], align=True)


def lines(**fields: type | np.dtype) -> np.dtype:
    """A record that fills whole lines of the cache, for arrays of `netsim.engine.compiled.lines.zeros`."""
    packed = record(**fields)
    formats, offsets = zip(*(packed.fields[name] for name in packed.names), strict=True)  # type: ignore[index]
    size = -(-packed.itemsize // LINE_BYTES) * LINE_BYTES
    names = list(packed.names or ())
    return np.dtype({"names": names, "formats": list(formats), "offsets": list(offsets), "itemsize": size})
