"""The pretend device itself: it computes as the CPU does, refuses what a GPU refuses, and counts what makes it wait."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from tests.pretend.device import GeneratorsOfTheDevice, PretendGenerator, PretendTensor
from tests.pretend.process import on_device
from tests.pretend.synchronisation import Watch

DEVICE = "pretend"


def factories() -> None:
    """Everything that makes a tensor puts it on the device that it is told."""
    made = [
        torch.zeros(2, device=DEVICE),
        torch.full((2,), 1.0, device=DEVICE),
        torch.arange(1, 7, 2, device=DEVICE),
        torch.tensor([1, 2], device=DEVICE),
        torch.randn(2, device=DEVICE),
        torch.empty_like(torch.ones(2), device=DEVICE),
        torch.ones(2).to(DEVICE),
        torch.eye(2, device=DEVICE).new_zeros(3),
        torch.as_tensor([1.0], device=DEVICE),
    ]
    for tensor in made:
        assert isinstance(tensor, PretendTensor)
        assert tensor.device == torch.device(DEVICE, 0)
    assert made[2].tolist() == [1, 3, 5]
    assert not isinstance(torch.ones(2, device=DEVICE).cpu(), PretendTensor)


def memory() -> None:
    """Views share memory, in-place changes of shape and of `data` are seen, copies of modules are whole."""
    whole = torch.zeros(4, 3, device=DEVICE)
    whole[1:3].copy_(torch.ones(2, 3, device=DEVICE))
    whole.view(-1)[0] = 7.0
    assert whole.cpu().tolist() == [[7, 0, 0], [1, 1, 1], [1, 1, 1], [0, 0, 0]]
    turned = torch.ones(2, 3, device=DEVICE)
    turned.t_()
    assert turned.shape == (3, 2)
    product = torch.empty(0, device=DEVICE)
    torch.mm(turned, turned.T, out=product)
    assert product.cpu().equal(torch.full((3, 3), 2.0))
    parameter = nn.Parameter(torch.zeros(2, device=DEVICE))
    parameter.data = torch.ones(3, device=DEVICE)
    assert parameter.shape == (3,)
    assert parameter.sum().item() == 3
    module = nn.Linear(2, 2).to(DEVICE)
    twin = copy.deepcopy(module)
    twin.load_state_dict({name: value + 1 for name, value in module.state_dict().items()})
    assert isinstance(twin.weight, nn.Parameter)
    assert twin.weight.cpu().equal(module.weight.cpu() + 1)


def training() -> None:
    """A network trains to the same bits as on the CPU, with every form of AdamW."""
    for form in ("fused", "foreach", "neither"):
        networks = []
        for device in ("cpu", DEVICE):
            torch.manual_seed(0)
            attention = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.1, batch_first=True, activation="gelu")
            network, rows = attention.to(device), torch.randn(3, 5, 8).to(device)
            optimizer = torch.optim.AdamW(network.parameters(), fused=form == "fused", foreach=form == "foreach")
            for step in range(3):
                torch.manual_seed(step)
                optimizer.zero_grad()
                network(rows).square().mean().backward()
                optimizer.step()
            networks.append(network)
        for of_cpu, of_device in zip(*(network.state_dict().values() for network in networks), strict=True):
            assert isinstance(of_device, PretendTensor)
            assert of_device.cpu().equal(of_cpu), form


def inference() -> None:
    """Without gradients, and in inference mode, everything is as before."""
    for without in (torch.no_grad, torch.inference_mode):
        with without(), Watch() as watch:
            rows = torch.tensor([[3.0, 1.0]]).to(DEVICE, non_blocking=True)
            assert isinstance(rows, PretendTensor)
            assert nn.functional.linear(rows, rows).tolist() == [[10.0]]
            assert not isinstance(rows.cpu(), PretendTensor)
            assert float(rows.sum()) == 4.0
        assert watch.kinds() == {"to host": 2, "item": 1}


def refusals() -> None:
    """What CUDA refuses raises, and what it takes does not."""
    rows, foreign = torch.ones(2, 3, device=DEVICE), torch.ones(2, 3)
    refused: list[Callable[[], Any]] = [
        lambda: rows + foreign,
        lambda: rows @ foreign.T,
        lambda: torch.cat([rows, foreign]),
        lambda: torch.stack([rows.sum(), foreign.sum()]),
        lambda: torch.where(rows > 0, foreign, rows),
        lambda: rows.index_select(0, torch.tensor([0])),
        lambda: rows.add_(foreign),
        lambda: foreign.add_(rows),
        lambda: nn.Linear(3, 3)(rows),
        lambda: torch._foreach_add([rows], [foreign]),
    ]
    for operation in refused:
        with pytest.raises(RuntimeError, match="two devices"):
            operation()
    scalar = torch.tensor(2.0)
    for allowed in (rows * scalar, rows.masked_fill(rows > 0, scalar), torch.where(rows > 0, rows, scalar)):
        assert isinstance(allowed, PretendTensor)
    assert rows[torch.tensor([1])].shape == (1, 3)  # CUDA takes indices of the CPU, and waits for their copy


def generators() -> None:
    """A generator draws on its own device alone."""
    own, foreign = PretendGenerator(), torch.Generator()
    assert own.device.type == DEVICE
    torch.randn(2, generator=own, device=own.device)
    torch.empty(2, device=DEVICE).normal_(generator=own)
    for draw in (
        lambda: torch.randn(2, generator=foreign, device=DEVICE),
        lambda: torch.empty(2, device=DEVICE).uniform_(generator=foreign),
        lambda: torch.rand(2, device=DEVICE).bernoulli(generator=foreign),
        lambda: nn.init.xavier_uniform_(torch.empty(2, 2, device=DEVICE), generator=foreign),
    ):
        with pytest.raises(RuntimeError, match="Expected a 'pretend' device type for generator but found 'cpu'"):
            draw()
    own_refused = pytest.raises(RuntimeError, match="Expected a 'cpu' device type for generator but found 'pretend'")
    with own_refused, GeneratorsOfTheDevice():
        torch.randn(2, generator=own)


def waiting() -> None:
    """Each way to make the host wait is counted once, with its kind and its line; nothing else is."""
    rows = torch.tensor([[3.0, 0.0], [1.0, 2.0]]).to(DEVICE)
    counts = torch.tensor([1, 2]).to(DEVICE)
    foreign = torch.ones(2)
    ways: dict[str, list[Callable[[], Any]]] = {
        "item": [rows.sum().item, lambda: float(rows[0, 0]), lambda: bool(rows[0, 0] > 0)],
        "to host": [rows.cpu, rows.tolist, lambda: foreign.copy_(rows[0])],
        "to device": [
            lambda: foreign.to(DEVICE),
            lambda: rows.new_tensor([1.0]),
            lambda: torch.tensor([1.0], device=DEVICE),
            lambda: rows[0].copy_(foreign),
            lambda: foreign.pin_memory().to(DEVICE),
            lambda: rows[torch.tensor([0])],
        ],
        "nonzero": [rows.nonzero, lambda: torch.where(rows > 0)],
        "boolean index": [lambda: rows[rows > 1], lambda: rows.index_put_((rows > 1,), rows[rows > 1])],
        "masked_select": [lambda: rows.masked_select(rows > 1)],
        "bincount": [lambda: torch.bincount(counts)],
        "unique": [counts.unique, counts.unique_consecutive],
        "equal": [lambda: torch.equal(rows, rows)],
        "repeat_interleave": [lambda: counts.repeat_interleave(counts)],
        "event": [lambda: torch.get_device_module(DEVICE).Event().synchronize()],
        "device": [torch.get_device_module(DEVICE).synchronize],
    }
    for kind, calls in ways.items():
        for number, call in enumerate(calls):
            with Watch() as watch:
                call()
            expected = 2 if (kind, number) == ("boolean index", 1) else 1
            assert watch.kinds() == {kind: expected}, (kind, number, watch.waits)
            assert watch.waits[0].line.startswith("tests/"), watch.waits

    def quiet() -> None:
        rows.masked_fill_(rows > 5, 0.0)
        rows[rows > 5] = 0.0
        counts.repeat_interleave(counts, output_size=3)
        foreign.pin_memory().to(DEVICE, non_blocking=True)
        rows.to("cpu", non_blocking=True)
        rows.topk(1)
        counts.cumsum(0).sort()
        torch.full((2,), 1.0, device=DEVICE)
        rows.new_zeros(3).scatter(0, counts - 1, rows[0] * 2.0)

    with Watch() as watch:
        quiet()
    assert not watch.waits
    passed = torch.get_device_module(DEVICE).Event()
    rows.sum().item()
    with Watch() as watch:
        passed.synchronize()
    assert not watch.waits  # the host has waited for what was queued later
    with Watch() as watch:
        foreign.to(DEVICE, non_blocking=True)
    assert not watch.waits
    assert watch.staged.total() == 1  # pageable memory: the driver may wait


def collectives() -> None:
    """Collectives come from the library of the CPU, with the same values, and are counted apart."""
    rank, world_size = dist.get_rank(), dist.get_world_size()
    own = torch.full((2,), float(rank + 1), device=DEVICE)
    every = torch.zeros(2 * world_size, device=DEVICE)
    parts: list[Tensor] = [torch.zeros_like(own) for _ in range(world_size)]
    swapped, scattered = torch.zeros_like(own), torch.zeros(1, device=DEVICE)
    total = own.clone()
    with Watch() as watch:
        dist.all_reduce(total)
        getattr(dist, "all_gather_single", dist.all_gather_into_tensor)(every, own)
        dist.all_gather(parts, own)
        dist.all_to_all_single(swapped, own)
        dist.reduce_scatter_tensor(scattered, own)
        dist.broadcast(own, 0)
    assert not watch.waits
    assert watch.collectives.total() == 6
    assert total.tolist() == [3.0, 3.0]
    assert every.tolist() == [1.0, 1.0, 2.0, 2.0] == torch.cat(parts).tolist()
    assert swapped.tolist() == [1.0, 2.0]
    assert scattered.tolist() == [3.0]
    assert own.tolist() == [1.0, 1.0]


@pytest.mark.parametrize("case", [factories, memory, training, inference, refusals, generators, waiting])
def test_the_device(case: Callable[[], None]) -> None:
    on_device(case, 1)


def test_collectives_are_those_of_the_cpu() -> None:
    on_device(collectives, 2)
