"""The networks of the trainer compute what plain ones, written a second time, compute of the same weights."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from tests.oracle.plain_networks import plain_network
from tests.oracle.plain_networks.autoencoder import Autoencoder as PlainAutoencoder
from tests.oracle.small_networks import CASES, arguments, run_with_weights
from trainer.checkpoint.intact import newest_checkpoint
from trainer.checkpoint.pretrained import restore
from trainer.config.layout import Layout
from trainer.config.run import RunConfig
from trainer.distributed.groups import Launch, joined
from trainer.flow import Condition
from trainer.model.autoencoder import Autoencoder


@pytest.fixture(scope="module", autouse=True)
def alone() -> Iterator[None]:
    with joined(Launch(0, 0, 1, 1)):
        yield


def computed(config: RunConfig, network: nn.Module, plain: nn.Module) -> Iterator[tuple[Tensor, Tensor]]:
    """What the network and the plain one compute of the same inputs."""
    given = arguments(config)
    if isinstance(network, Autoencoder):
        assert isinstance(plain, PlainAutoencoder)
        yield from zip(network.encode(*given), plain.encode(*given), strict=True)
        latents, _ = network.encode(*given)
        yield network.decode(latents), plain.decode(latents)
    elif config.flow is None:
        yield network(*given), plain(*given)
    else:
        x, t, label = given
        yield network(x, t, Condition(label=label)), plain(x, t, label)


@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_a_network_computes_what_the_plain_one_does(case: str, tmp_path: Path) -> None:
    config = run_with_weights(tmp_path, CASES[case])
    folder = newest_checkpoint(tmp_path / "run")
    weights = load_file(folder / "ema.safetensors")
    if config.moe is not None:
        weights |= load_file(folder / "routers.safetensors")
    network = restore(config, Layout.single(config), folder)
    for expected, found in computed(config, network, plain_network(config, weights)):
        assert expected.std() > 0.01
        assert torch.equal(expected, found), float((expected - found).abs().max())
