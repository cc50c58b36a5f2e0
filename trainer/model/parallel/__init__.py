"""Parameters and layers that are divided among ranks."""
