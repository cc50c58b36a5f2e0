"""Drawing images and text from a network."""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

import trainer.data
from moe.files import replacing
from moe.seed import derive_seed
from trainer.config import ImageSample, PointSample, ReconstructionSample, RunConfig, TextSample
from trainer.engine.protocol import Network
from trainer.flow import Condition, sampler
from trainer.flow.features import Asked
from trainer.given import given
from trainer.model.autoencoder import Autoencoder
from trainer.model.generation import generate
from trainer.model.gpt import GPT
from trainer.observe.image_grid import image_grid
from trainer.observe.scatter import scatter_plot
from trainer.starts import starts
from trainer.task import FlowTask, Task

RULE = f"\n{'-' * 80}\n"


def write_sample(config: RunConfig, task: Task, model: Network, stem: Path) -> None:
    """Draws what the section ``sample`` asks for and writes it on rank 0; collective.

    Args:
        config: the run.
        task: what the network was trained for.
        model: the network, in evaluation mode.
        stem: the file without its ending: a grid or a scatter plot becomes a .png, texts become a .txt.
    """
    writes, seed = dist.get_rank() == 0, config.run.seed
    match config.sample:
        case ImageSample(per_class=per_class, guidance=guidance):
            assert isinstance(task, FlowTask)
            columns = config.data.num_classes or per_class
            wanted = given(config, task, columns * per_class, seed=seed)
            states = draw_samples(config, task, model, wanted.condition, guidance=guidance, seed=seed)
            if writes:
                images = wanted.completed(task.space.decode(states))
                image_grid(wanted.pictures(images, columns).numpy(), columns, stem.with_suffix(".png"))
        case PointSample(num=num, guidance=guidance):
            assert isinstance(task, FlowTask)
            wanted = given(config, task, num, seed=seed)
            points = draw_samples(config, task, model, wanted.condition, guidance=guidance, seed=seed)
            if writes:
                plot_points(config, points, wanted.labels, stem.with_suffix(".png"), seed=seed)
        case ReconstructionSample(num=num):
            assert isinstance(model, Autoencoder)
            images = reconstructions(config, model, num)  # on every rank: weights may be divided among them
            if writes:
                image_grid(images.numpy(), num, stem.with_suffix(".png"))
        case TextSample(prompts=prompts, num_bytes=num_bytes, temperature=temperature):
            starts = [prompt.encode() for prompt in prompts]
            texts = continue_texts(model, starts, num_bytes, temperature=temperature, seed=seed)
            if writes:
                with replacing(stem.with_suffix(".txt")) as temporary:
                    temporary.write_text(RULE.join(map(readable, texts)) + "\n", encoding="utf-8")


@torch.no_grad()
def reconstructions(config: RunConfig, model: Autoencoder, num: int) -> Tensor:
    """So many held-out images, then what an autoencoder makes of each, [2 num, C, H, W] (fewer if there are fewer)."""
    dataset = trainer.data.build(config.data)
    images = dataset.get(dataset.indices("held_out")[:num]).x_1
    mean, _ = model.encode(images.to(next(model.parameters()).device))
    return torch.cat([images, model.decode(mean).cpu()])


def plot_points(config: RunConfig, points: Tensor, labels: Tensor, path: Path, *, seed: int) -> None:
    """Plots drawn points beside as many of the data set's, those that were held out first, and those they started at.

    Args:
        config: the run.
        points: [N, D].
        labels: int64 [N], shown as colours where there are classes.
        path: PNG to write.
        seed: with which the points were drawn.
    """
    dataset = trainer.data.build(config.data)
    ids = torch.cat([dataset.data_points("held_out"), dataset.data_points("train")])
    real = dataset.get(ids[: len(points)])
    colours = None if real.labels is None else labels.numpy()
    panels = {
        "data": (real.x_1.numpy(), None if real.labels is None else real.labels.numpy()),
        "drawn": (points.numpy(), colours),
    }
    if config.starts_at is not None:
        panels = {"source": (starts(config, torch.arange(len(points)), seed=seed).numpy(), None), **panels}
    scatter_plot(panels, path, fitting=panels.keys() - {"drawn"})


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


def continue_texts(
    model: Network, prompts: Sequence[bytes], num_bytes: int, *, temperature: float, seed: int
) -> list[bytes]:
    """Continues prompts byte by byte; collective over the ranks that share experts.

    The first rank of each such group brings all prompts, so that the draws do not depend on the number of ranks.

    Args:
        model: a gpt, in evaluation mode.
        prompts: the same on every rank, at least one byte each.
        num_bytes: bytes to write after each; the longest prompt and they fit the network's context.
        temperature: what logits are divided by; 0: always the likeliest byte.
        seed: of the draws.

    Returns:
        Each prompt with its continuation; nothing on the other ranks of a group.
    """
    from megatron.core import parallel_state

    assert isinstance(model, GPT)
    own = list(prompts) if parallel_state.get_expert_model_parallel_rank() == 0 else []
    generator = torch.Generator().manual_seed(derive_seed(seed, "text"))
    written = generate(model, own, num_bytes, temperature=temperature, generator=generator)
    return [prompt + continuation for prompt, continuation in zip(own, written, strict=True)]


def readable(text: bytes) -> str:
    """A text for a terminal: what is no UTF-8, and control characters but line breaks and tabs, replaced."""
    decoded = text.decode("utf-8", errors="replace")
    return "".join(
        letter if letter.isprintable() or letter in "\n\t" else "\N{REPLACEMENT CHARACTER}" for letter in decoded
    )
