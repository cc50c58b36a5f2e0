"""What the engines compiled with numba share: draws, and the fabric as arrays."""
