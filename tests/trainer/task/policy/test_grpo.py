"""The objective of group relative policies against its definition, and what a task of such a policy is made of."""

import copy
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.each import each
from trainer.config.file import resolve
from trainer.config.run import RunConfig
from trainer.data import Batch
from trainer.flow import Condition
from trainer.flow.sampler import Euler
from trainer.model.network import Network
from trainer.sampling.trained import Reference
from trainer.task.policy.grpo import Compared, GRPOTask, Prompts, ValuedChoices
from trainer.task.policy.policy import with_words
from trainer.training.task import TrainedNetworks


class Field(Network):
    """A network for points in the plane, whose every call is counted."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.blocks = nn.ModuleList([nn.Linear(4, 16), nn.Linear(16, 2)])
        self.rows: list[int] = []

    def forward(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        self.rows.append(len(x_t))
        label = torch.zeros(len(x_t)) if condition.label is None else condition.label.float()
        return self.blocks[1](torch.tanh(self.blocks[0](torch.cat([x_t, t[:, None], label[:, None]], dim=1))))


class Frozen(Reference):
    """A network in the place of another run."""

    def __init__(self, network: Network) -> None:
        self.network = network

    def model(self, device: torch.device) -> Network:  # noqa: ARG002
        return self.network


def task_of(network: Field, **changes: Any) -> GRPOTask:
    """A task on points, with a copy of the network as its base."""
    chosen = {"kind": "grpo", "reward": {"kind": "distance", "target": [1.0, 0.0]}, "steps": 4, "group": 6, **changes}
    document: dict[str, Any] = {
        "run": {"dir": "unused"},
        "model": {"kind": "mlp"},
        "data": {"kind": "toy", "name": "eight_gaussians"},
        "optim": {"steps": 2, "global_batch": 2},
        "task": chosen,
    }
    task = GRPOTask(RunConfig.model_validate(resolve(document).document))
    task.reference = Frozen(copy.deepcopy(network))
    return task


def collected(task: GRPOTask, network: Field, num: int = 3, seed: int = 0) -> list[ValuedChoices]:
    batch = Batch(torch.zeros(num, 2), None, torch.arange(num))
    drawn = task.draw([batch], [torch.Generator().manual_seed(seed)])
    return task.collect(drawn, TrainedNetworks(network))


FORMS = [
    {"rollout": "full_sde"},
    {"rollout": "branch", "branches": 3},
    {"rollout": "branch", "branches": 3, "groups": "seed", "weight": "noise_mean_one"},
    {"rollout": "full_sde", "branches": 2, "groups": "seed", "weight": "noise_scaled"},
]


@each("form", FORMS)
def test_before_anything_is_learned_the_gradient_is_the_policy_gradient(form: dict[str, Any]) -> None:
    network = Field()
    task = task_of(network, **form, kl=0.5)
    for chosen in collected(task, network):
        computed = task.loss(network, chosen)
        assert float(computed.terms["ratio_deviation"]) == 0.0
        assert float(computed.terms["kl"]) == float(computed.terms["path_kl"]) == 0.0
        found = torch.autograd.grad(computed.mean(), list(network.parameters()))
        mean, std = task.steps.moments(task.parts.field(network, chosen.condition, 1.0), chosen.choice.x, chosen.number)
        each = mean[:, None].expand_as(chosen.choice.y)
        density = torch.distributions.Normal(each, std).log_prob(chosen.choice.y).mean(-1)
        gain = task.steps.weights[chosen.number] * (chosen.advantage * density).mean()
        expected = torch.autograd.grad(-gain, list(network.parameters()))
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


@each("form", FORMS)
def test_the_loss_is_its_definition_choice_by_choice(form: dict[str, Any]) -> None:
    network, moved = Field(), Field(seed=1)
    task = task_of(network, **form, kl=0.5, clip=0.02)
    shares = []
    for chosen in collected(task, network):
        computed = task.loss(moved, chosen)
        x, y = chosen.choice.x, chosen.choice.y
        own, base = (task.parts.field(one, chosen.condition, 1.0) for one in (moved, network))
        (mean, std), (base_mean, _) = (task.steps.moments(one, x, chosen.number) for one in (own, base))
        clipped = 0
        for n, m in np.ndindex(*y.shape[:2]):
            new, old = (torch.distributions.Normal(one[n], std).log_prob(y[n, m]).mean() for one in (mean, base_mean))
            ratio, advantage = float((new - old).exp()), float(chosen.advantage[n, m])
            gain = min(ratio * advantage, min(max(ratio, 0.98), 1.02) * advantage)
            clipped += gain < ratio * advantage
            divergence = torch.distributions.kl_divergence(
                torch.distributions.Normal(mean[n], std), torch.distributions.Normal(base_mean[n], std)
            ).mean()
            expected = -task.steps.weights[chosen.number] * gain + 0.5 * float(divergence)
            assert float(computed.values[n, m]) == pytest.approx(expected, rel=2e-3, abs=2e-4)
        shares.append(float(computed.terms["clipped_share"]))
        assert shares[-1] == pytest.approx(clipped / chosen.advantage.numel(), abs=1e-9)
    assert max(shares) > 0


@pytest.mark.parametrize("among", ["prompt", "seed"])
def test_advantages_are_deviations_within_a_group(among: Any) -> None:
    rewards = torch.randn(3, 2, 4, generator=torch.Generator().manual_seed(0))
    rewards[1] = 5.0
    found = Compared.of(rewards, among=among, limit=1.2)
    spreads = []
    for prompt, seed, branch in np.ndindex(3, 2, 4):
        group = rewards[prompt].numpy().ravel() if among == "prompt" else rewards[prompt, seed].numpy()
        advantage = (float(rewards[prompt, seed, branch]) - group.mean()) / (group.std() + 1e-4)
        assert float(found.advantage[prompt, seed, branch]) == pytest.approx(np.clip(advantage, -1.2, 1.2), abs=1e-5)
        assert bool(found.counts[prompt, seed, branch]) == (prompt != 1)
        spreads.append(group.std())
    assert float(found.spread) == pytest.approx(np.mean(spreads), abs=1e-6)


@each("form", FORMS)
def test_groups_of_equal_rewards_leave_the_count(form: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    network = Field()
    task = task_of(network, **form, kl=0.0)
    plain: Any = task.reward

    def equal_for_one(examples: Tensor, condition: Condition) -> Tensor:
        rewards = plain(examples, condition).clone()
        rewards[: task.settings.group] = -3.0
        return rewards

    monkeypatch.setattr(task, "reward", equal_for_one)
    for chosen in collected(task, network):
        of_a_prompt = task.settings.states
        weights = chosen.log_weight.softmax(0) * len(chosen.log_weight)
        assert weights[:of_a_prompt].tolist() == [0.0] * of_a_prompt
        assert weights[of_a_prompt:].unique().tolist() == pytest.approx([1.5])
        computed = task.loss(Field(seed=1), chosen)
        assert float(computed.mean(weights)) == pytest.approx(float(computed.values[of_a_prompt:].mean()), abs=1e-6)


@each("guidance", [1.0, 2.0])
@each("form", FORMS)
def test_the_calls_are_those_that_the_settings_name(form: dict[str, Any], guidance: float) -> None:
    network = Field()
    task = task_of(network, **form, guidance=guidance)
    base = cast(Field, cast(Frozen, task.reference).network)
    chosen = collected(task, network, num=2)
    told = {True: base.rows, False: network.rows}
    for reference, rows in told.items():
        calls = [one for one in task.settings.calls if one.phase == "rollout" and one.reference == reference]
        assert rows == [2 * call.rows for call in calls for _ in range(call.count)]
    network.rows.clear()
    task.loss(network, chosen[0])
    (learned,) = (call for call in task.settings.calls if call.phase == "learn")
    assert network.rows == [2 * learned.rows]
    assert len(chosen) == task.passes == 3


def test_what_was_spent_is_counted_and_kept() -> None:
    network = Field()
    task = task_of(network, rollout="branch", branches=3)
    chosen = collected(task, network, num=2)
    rollouts = 3 * 2 + (3 + 2 + 1) * 6
    assert task.state() == {"reward_calls": 2 * 3 * 6, "network_calls": 2 * (rollouts + 3 * 2 + 3 * 2)}
    terms = task.loss(network, chosen[0]).terms
    assert float(terms["reward_calls"]) == 36
    resumed = task_of(network)
    resumed.load(task.state())
    assert resumed.state() == task.state()
    resumed.load(None)
    assert resumed.state() == {"reward_calls": 0, "network_calls": 0}


def test_figures_are_those_of_the_rewards() -> None:
    network = Field()
    task = task_of(network, rollout="branch", branches=6, groups="seed")
    chosen = collected(task, network)
    spreads = [float(chosen[0].figures[f"reward_spread_{number}"]) for number in range(3)]
    field = task.parts.field(network, Condition(), 1.0)
    for one, spread in zip(chosen, spreads, strict=True):
        ends = task.steps.follow(field, one.choice.y.flatten(0, 1), one.number + 1, 4)
        rewards = -(ends - torch.tensor([1.0, 0.0])).norm(dim=1).view(3, 6)
        assert spread == pytest.approx(float(rewards.std(1, correction=0).mean()), rel=1e-4)
    assert float(chosen[0].figures["reward_spread"]) == pytest.approx(np.mean(spreads))


def test_held_out_rewards_are_of_examples_without_noise_on_the_way() -> None:
    network = Field()
    task = task_of(network)
    (prompts,) = task.draw([Batch(torch.zeros(5, 2), None, torch.arange(5))], [torch.Generator().manual_seed(1)])
    assert isinstance(prompts, Prompts)
    with torch.no_grad():
        found, again = (task.examine(network, prompts)["held_out_reward"] for _ in range(2))
        assert torch.equal(found, again)
        assert len(found.unique()) == 5
        chosen = task.collect([prompts], TrainedNetworks(network))[0]
        field = task.parts.field(network, Condition(), 1.0)
        starts = chosen.choice.x.view(5, 6, 2)[:, 0]
        ends = Euler().sample(lambda x, t: field(x, t.clamp(min=1e-3)), starts, torch.linspace(0, 1, 5)).final
    torch.testing.assert_close(found, -(ends - torch.tensor([1.0, 0.0])).norm(dim=1))


def test_a_few_groups_that_differ_are_told() -> None:
    task = task_of(Field())
    assert task.cautions({"effective_share": 0.5}) == {}
    assert "only 5.0% of the groups" in task.cautions({"effective_share": 0.05})["effective_share"]


def test_words_are_written_below_images_in_strips_of_one_height() -> None:
    images = torch.linspace(-1, 1, 3 * 64).view(3, 1, 8, 8)
    shown = with_words(images, ["now 0.25", "a line that is far too wide for one", "base -3.00"])
    assert shown.shape[:2] == (3, 1)
    assert shown.shape[3] == 64
    assert torch.equal(shown[:, :, 4:64:8, 4::8], images)
    strips = shown[:, :, 64:]
    assert float(strips.max()) == 1.0
    assert float(strips.flatten(1).amin(1).max()) < 0, "each has dark letters"
