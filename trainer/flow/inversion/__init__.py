"""Ways from an image back to the noise that a flow leads to it."""
