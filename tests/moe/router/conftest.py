from collections.abc import Iterator

import pytest

from trainer.distributed.groups import Launch, joined


@pytest.fixture(scope="module", autouse=True)
def _one_rank() -> Iterator[None]:
    """Megatron's process groups, of this process alone."""
    with joined(Launch(rank=0, local_rank=0, world_size=1, local_world_size=1), expert_parallel=1):
        yield
