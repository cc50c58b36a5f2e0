"""The parts of a step that talk to the host: they queue, and read where the host has waited anyway."""

from collections.abc import Callable
from statistics import fmean
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist

from moe.host_copies import to_device
from tests.pretend import runtime
from tests.pretend.process import on_device
from tests.pretend.synchronisation import Watch
from tests.ranks import run_ranks
from trainer.distributed.engine.protocol import sum_of_squares
from trainer.flow import UNCONDITIONAL, Condition
from trainer.flow.reward import CheckedReward
from trainer.observe.speed import OwnWork, Stragglers
from trainer.training.reduction import Agreement, Exchange


def pretend() -> torch.device:
    return torch.device("pretend", 0)


def losses_of(rank: int) -> list[torch.Tensor]:
    return [torch.tensor(0.1 + rank), torch.tensor(torch.inf if rank else 0.7)]


def exchanged() -> Agreement:
    """On the CPU, where the result is there at once."""
    rank = dist.get_rank()
    return Exchange(losses_of(rank), own_s=0.25 * rank, stop=rank == 1).result()


def exchanged_on_the_device() -> Agreement:
    """The host waits for nothing but what it reads in any case, and for the exchange alone where it reads nothing."""
    rank = dist.get_rank()
    losses = [loss.to(pretend()) for loss in losses_of(rank)]
    norm = losses[0].square()
    with Watch() as watch:
        exchange = Exchange(losses, own_s=0.25 * rank, stop=rank == 1)
    assert not watch.waits
    norm.item()
    with Watch() as watch:
        agreed = exchange.result()
        assert exchange.result() == agreed
    assert not watch.waits
    alone = Exchange(losses, own_s=0.25 * rank, stop=rank == 1)
    with Watch() as watch:
        assert alone.result() == agreed
    assert watch.kinds() == {"event": 1}
    return agreed


def own_work_on_the_device() -> None:
    """The seconds of a step are told in the next one, without a wait; the first has none."""
    clock = [0.0]
    runtime.time = SimpleNamespace(perf_counter=lambda: clock[0])  # pyright: ignore[reportAttributeAccessIssue]
    work = OwnWork(pretend())
    told = []
    for seconds in (2.0, 3.0, 5.0):
        with Watch() as watch:
            for _ in range(2):
                with work.measured():
                    clock[0] += seconds
                clock[0] += 100.0
            told.append(work.take())
        assert not watch.waits
        torch.ones((), device=pretend()).item()  # the norm
    assert told == pytest.approx([0.0, 4.0, 6.0])


def copies() -> None:
    """Values arrive as they are, from pinned memory and without a wait; what is there stays."""
    values = torch.arange(6.0).view(2, 3)
    with Watch() as watch:
        there = to_device(values, pretend())
        assert to_device(there, pretend()) is there
        pinned = values.pin_memory()
        to_device(pinned, "pretend")
    assert not watch.waits
    assert not watch.staged
    assert there.cpu().equal(values)
    assert to_device(values, torch.device("cpu")) is values


def norms() -> None:
    """The norm of many tensors takes as many operations as that of one, and no wait."""
    tensors = [torch.randn(3, 4, device=pretend()) for _ in range(50)]
    like = torch.zeros((), device=pretend())
    with Watch() as watch:
        sum_of_squares(tensors, like)
    assert not watch.waits
    assert watch.operations.total() < 10


def rewards() -> None:
    """A reward that is not finite is told by the first call after the host has waited anyway, or at last."""

    def of(examples: torch.Tensor, _: Condition) -> torch.Tensor:
        return examples.sum(1)

    good = torch.ones(3, 2, device=pretend())
    bad = torch.tensor([[1.0, torch.nan], [0.0, 1.0], [torch.inf, 0.0]]).to(pretend())
    told = r"^reward mine is not finite for 2 of 3 examples; return"
    for settles in (False, True):
        reward = CheckedReward(of, "mine", differentiable=True)
        with Watch() as watch:
            for examples in (good, bad, good):
                reward(examples, UNCONDITIONAL)
        assert not watch.waits
        if settles:
            with pytest.raises(ValueError, match=told):
                reward.settle()
        else:
            torch.ones((), device=pretend()).item()  # the norm
            with Watch() as watch, pytest.raises(ValueError, match=told):
                reward(good, UNCONDITIONAL)
            assert not watch.waits


@pytest.mark.parametrize("case", [own_work_on_the_device, copies, norms, rewards])
def test_on_the_device(case: Callable[[], None]) -> None:
    on_device(case, 1)


def test_every_rank_learns_of_every_rank() -> None:
    for agreed in (*run_ranks(_plain, 2), *on_device(exchanged_on_the_device, 2)):
        assert agreed.losses == (fmean([float(torch.tensor(0.1)), float(torch.tensor(0.7))]), torch.inf)
        assert agreed.own_s == (0.0, 0.25)
        assert agreed.stop


def _plain(_rank: int, _world_size: int) -> Agreement:
    return exchanged()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_sum_of_squares(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    tensors = [torch.randn(shape, generator=generator).to(dtype) for shape in ((3, 5), (), (7,), (0, 2))]
    wanted = sum(float(value) ** 2 for tensor in tensors for value in tensor.flatten())
    assert float(sum_of_squares(tensors, torch.zeros(()))) == pytest.approx(wanted, rel=1e-6)
    assert float(sum_of_squares([], torch.zeros(()))) == 0


@pytest.mark.parametrize("broken", [torch.inf, torch.nan])
def test_sum_of_squares_is_not_finite_where_an_element_is_not(broken: float) -> None:
    tensors = [torch.ones(4), torch.tensor([1.0, broken])]
    assert not torch.isfinite(sum_of_squares(tensors, torch.zeros(())))


def test_ranks_without_seconds_are_alike() -> None:
    stragglers = Stragglers(2.0)
    stragglers.take([0.0, 0.0])
    assert stragglers.figures(1) == {"time.step_spread": 1.0}
