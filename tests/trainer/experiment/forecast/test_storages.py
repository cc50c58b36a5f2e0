"""The mode that follows storages, against closed forms and against torch's own tracker."""

from contextlib import nullcontext

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed._tools.mem_tracker import MemTracker
from torch.utils.checkpoint import checkpoint

from trainer.experiment.forecast.recording import Storages

WIDTH, ROWS, FLOAT32 = 16, 8, 4


def peak_of_training(*, fake: bool) -> list[int]:
    """Bytes held after every change while a layer learns."""
    held: list[int] = []
    storages = Storages(lambda _, size: held.append((held[-1] if held else 0) + size))
    with FakeTensorMode() if fake else nullcontext(), storages:
        layer = nn.Sequential(nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH))
        optimizer = torch.optim.AdamW(layer.parameters(), foreach=False)
        for _ in range(2):
            layer(torch.ones(ROWS, WIDTH)).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
    return held


def test_memory_is_counted_once_for_all_views_and_given_back_with_the_last() -> None:
    changes: list[int] = []
    with Storages(lambda _, size: changes.append(size)):
        whole = torch.zeros(10)
        view = whole.view(2, 5)
        del whole
        assert changes == [40]
        view.untyped_storage().resize_(0)
        view.untyped_storage().resize_(20)
        del view
    assert changes == [40, -40, 20, -20]


def test_tensors_without_values_hold_what_real_ones_do() -> None:
    assert peak_of_training(fake=True) == peak_of_training(fake=False)


def test_what_is_held_in_the_forward_pass_is_a_closed_form() -> None:
    changes: list[int] = []
    layer = nn.Linear(WIDTH, WIDTH)
    storages = Storages(lambda _, size: changes.append(size))
    storages.see([*layer.parameters()])
    changes.clear()
    with storages:
        output = layer(torch.ones(ROWS, WIDTH)).sigmoid()
        assert sum(changes) == FLOAT32 * 2 * ROWS * WIDTH  # the input and the sigmoid; what was in between is gone
        del output
        assert sum(changes) == 0


@pytest.mark.parametrize("checkpointed", [False, True])
def test_the_peak_is_that_of_mem_tracker(checkpointed: bool) -> None:
    held, layer = [0], nn.Sequential(*(nn.Linear(WIDTH, WIDTH) for _ in range(3)))
    tracker, storages = MemTracker(), Storages(lambda _, size: held.append(held[-1] + size))
    storages.see([*layer.parameters()])  # MemTracker finds them in the modules
    with tracker, storages:
        x = torch.ones(ROWS, WIDTH, requires_grad=True)
        y = checkpoint(layer, x, use_reentrant=False) if checkpointed else layer(x)
        y.square().mean().backward()
    assert max(held) == tracker.get_tracker_snapshot("peak")[torch.device("cpu")]["Total"]
