"""A hop has a price by default where the potentials of all ranks are one, and nowhere else."""

import pytest
from pydantic import ValidationError

from moe.config import MoEConfig, SparseOTRouterConfig


def test_the_default_depends_on_the_potentials() -> None:
    assert SparseOTRouterConfig().hop_cost == 0
    assert SparseOTRouterConfig(potentials="rank").hop_cost == 0
    assert SparseOTRouterConfig(potentials="global").hop_cost == 0.1


def test_a_given_cost_is_kept() -> None:
    for cost in (0.0, 0.1, 0.5):
        assert SparseOTRouterConfig(potentials="global", hop_cost=cost).hop_cost == cost


def test_a_resolved_configuration_reads_back_the_same() -> None:
    for potentials in ("rank", "global"):
        section = {"num_experts": 4, "expert_hidden": 8, "router": {"kind": "sparse_ot", "potentials": potentials}}
        config = MoEConfig.model_validate(section)
        assert MoEConfig.model_validate(config.model_dump()) == config
        assert MoEConfig.model_validate_json(config.model_dump_json()) == config


def test_a_cost_that_is_wrong_is_refused_as_before() -> None:
    with pytest.raises(ValidationError, match="hop_cost"):
        SparseOTRouterConfig(potentials="global", hop_cost=-0.1)
    with pytest.raises(ValidationError, match=r"hop_cost: 0\.1 with potentials rank is cancelled"):
        SparseOTRouterConfig(hop_cost=0.1)
