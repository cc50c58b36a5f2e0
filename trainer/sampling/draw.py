"""Drawing states from a trained flow."""

from collections.abc import Callable

import torch
import torch.distributed as dist
from torch import Tensor

from moe.random.seed import derive_seed
from trainer.config.run import ImageSample, PointSample, RunConfig
from trainer.flow import Condition, sampler
from trainer.flow.question import Asked
from trainer.model.network import Network
from trainer.sampling.source import starts
from trainer.task import FlowTask


def draw_samples(
    config: RunConfig,
    task: FlowTask,
    model: Network,
    condition: Condition,
    *,
    guidance: float,
    seed: int,
    progress: Callable[[int], None] | None = None,
) -> Tensor:
    """Draws one state for each condition, the work divided over the ranks that see different data; collective.

    What is drawn for example i, its start and the noise on its way, depends on the seed and on i alone.

    Args:
        config: names the sampler.
        task: knows what the network predicts.
        model: the network, in evaluation mode.
        condition: of N examples, the same on every rank.
        guidance: scale of classifier-free guidance, 0 or more.
        seed: of all draws.
        progress: called at each evaluation of the network with their number so far.

    Returns:
        float32 [N, *shape] on the CPU, on every rank: images or points, or latents of images.
    """
    from megatron.core import parallel_state

    assert isinstance(config.sample, ImageSample | PointSample)
    group = parallel_state.get_data_parallel_group()
    assert isinstance(group, dist.ProcessGroup)
    assert condition.label is not None
    num = len(condition.label)
    share = -(-num // group.size())
    own = torch.arange(group.rank() * share, (group.rank() + 1) * share) % num
    chosen = config.sample.sampler
    drawn = follow(config, task, model, condition, own, chosen, guidance=guidance, seed=seed, progress=progress)
    states = task.data_of(drawn.final)
    shares = [torch.empty_like(states) for _ in range(group.size())]
    dist.all_gather(shares, states.contiguous(), group=group)
    return torch.cat(shares)[:num].cpu()


@torch.no_grad()
def follow(
    config: RunConfig,
    task: FlowTask,
    model: Network,
    condition: Condition,
    own: Tensor,
    chosen: sampler.AnyConfig,
    *,
    guidance: float,
    seed: int,
    progress: Callable[[int], None] | None = None,
) -> sampler.Trajectory:
    """Draws some of the examples of :func:`draw_samples` on this rank alone, and keeps their ways.

    Args:
        config: the run.
        task: knows what the network predicts.
        model: the network, in evaluation mode.
        condition: of all N examples.
        own: int64 [B], the numbers of those that are drawn.
        chosen: the sampler.
        guidance: scale of classifier-free guidance, 0 or more.
        seed: of all draws.
        progress: called at each evaluation of the network with their number so far.

    Returns:
        The trajectory of the B examples, on the device of the network.
    """
    device = next(model.parameters()).device
    evaluations = 0

    def counted(x: Tensor, t: Tensor, condition: Condition, *asked: Asked) -> Tensor:
        nonlocal evaluations
        evaluations += 1
        if progress is not None:
            progress(evaluations)
        return model(x, t, condition, *asked)

    field = task.field(counted, condition.rows(own).to(device), guidance)
    keys = keys_of(own, "way", seed=seed)
    x_0 = starts(config, own, seed=seed).to(device)
    return sampler.build(chosen, path=task.path).sample(field, x_0, sampler.times(chosen), keys=keys)


def keys_of(examples: Tensor, purpose: str, *, seed: int) -> Tensor:
    """Keys of what is drawn for examples, for each by its number alone.

    Args:
        examples: int64 [B] their numbers.
        purpose: what is drawn; ``way``: the noise of a sampler.
        seed: of the draws.

    Returns:
        int64 [B] on the CPU.
    """
    return torch.tensor([derive_seed(seed, purpose, example) for example in examples.tolist()])
