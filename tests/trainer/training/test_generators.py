"""Operations that add in a fixed order, as long as they are asked for."""

from typing import Any

import pytest
import torch

from trainer.training.generators import deterministic_operations

MEMORY: Any = torch.utils.deterministic


def test_they_are_demanded_while_entered_and_never_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    with deterministic_operations(wanted=True):
        assert torch.are_deterministic_algorithms_enabled()
        assert not MEMORY.fill_uninitialized_memory
    assert not torch.are_deterministic_algorithms_enabled()
    assert MEMORY.fill_uninitialized_memory


def test_they_are_left_alone_otherwise() -> None:
    with deterministic_operations(wanted=False):
        assert not torch.are_deterministic_algorithms_enabled()
