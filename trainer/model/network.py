"""What a run can train."""

from trainer.model.autoencoder import Autoencoder
from trainer.model.blockwise import Blockwise
from trainer.model.blockwise_mlp import BlockwiseMLP
from trainer.model.dit import DiT
from trainer.model.gpt import GPT
from trainer.model.mlp import MLP

Network = DiT | GPT | MLP | Autoencoder | Blockwise | BlockwiseMLP
"""What a run can train; its ``blocks`` are the layers of its traces."""
