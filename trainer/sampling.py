"""Drawing images from a network."""

from collections.abc import Callable

import torch
import torch.distributed as dist
from torch import Tensor

from moe.seed import derive_seed
from trainer.config import RunConfig
from trainer.flow import sampler
from trainer.model.dit import DiT
from trainer.model.head import guided_field
from trainer.task import FlowTask


@torch.no_grad()
def draw_samples(
    config: RunConfig,
    task: FlowTask,
    model: DiT,
    labels: Tensor,
    *,
    guidance: float,
    seed: int,
    progress: Callable[[int], None] | None = None,
) -> Tensor:
    """Draws one image for each label, the work divided over the ranks; collective.

    The starting noise of image i depends on the seed and on i alone.

    Args:
        config: names the sampler.
        task: knows what the network predicts.
        model: the network, in evaluation mode.
        labels: int64 [N], the same on every rank.
        guidance: scale of classifier-free guidance, 0 or more.
        seed: of the starting noise.
        progress: called after each evaluation of the field with their number so far.

    Returns:
        float32 [N, C, H, W] on the CPU, on every rank.
    """
    rank, world_size, device = dist.get_rank(), dist.get_world_size(), next(model.parameters()).device
    share = -(-len(labels) // world_size)
    own = torch.arange(rank * share, (rank + 1) * share) % len(labels)
    starts = [torch.Generator().manual_seed(derive_seed(seed, "start", image)) for image in own.tolist()]
    noise = torch.stack([torch.randn(config.data.shape, generator=start) for start in starts])
    field = guided_field(
        lambda x, t, condition: task.velocity(model, x, t, condition),
        labels[own].to(device),
        config.data.num_classes,
        guidance,
    )
    evaluations = 0

    def counted(x: Tensor, t: Tensor) -> Tensor:
        nonlocal evaluations
        evaluations += 1
        if progress is not None:
            progress(evaluations)
        return field(x, t)

    generator = torch.Generator().manual_seed(derive_seed(seed, "way", rank))
    drawn = sampler.build(config.sample.sampler).sample(
        counted, noise.to(device), sampler.times(config.sample.sampler), generator=generator
    )
    shares = [torch.empty_like(drawn.final) for _ in range(world_size)]
    dist.all_gather(shares, drawn.final.contiguous())
    return torch.cat(shares)[: len(labels)].cpu()
