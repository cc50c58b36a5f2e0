"""What passes keep and work with, found by running the network on tensors without values."""
