"""Pages of plain PyTorch that rebuild exported networks: one file for each part of them, put together for a model card.

They import torch, safetensors, json and math alone.
"""
