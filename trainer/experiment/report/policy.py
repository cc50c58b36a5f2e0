"""The part about a policy: a run that goes on from this one and learns from the reward of what it draws."""

from __future__ import annotations

from pathlib import Path

from moe.report.page import Block, Figure, Section
from netsim.foundation.refusal import Refusal
from netsim.foundation.run_reference import ReferenceConfig
from trainer.experiment.report.curves import reward_curves
from trainer.experiment.report.part import Part
from trainer.experiment.report.run_files import RunFiles, shown
from trainer.sampling.reference import Reference, references_of

BASE = "task.base"


def policy_part(files: RunFiles, policy: RunFiles) -> Part:
    """Rise of the reward, its costs, and samples before and after."""
    _check_base(files, policy)
    told = [record for record in policy.records if "reward" in record.values]
    if not told:
        path = policy.folder / "metrics.jsonl"
        raise Refusal(path, "reward", "is in no record", "give a run that learns from a reward")
    first, last = told[0].values, told[-1].values
    rise = f"{first['reward']:.2f} to {last['reward']:.2f}"
    cost = ""
    if {"reward_calls", "network_calls", "path_kl"} <= last.keys():
        cost = (
            f" It asked for {last['reward_calls']:,.0f} rewards and called the network for "
            f"{last['network_calls']:,.0f} states; its paths are {last['path_kl']:.1f} nats from those of the base."
        )
    text = (
        "The run goes on as a policy: it draws, is told how good each example is, and makes more likely what led to "
        f"better ones. The mean reward of what it draws with noise went from {rise}.{cost}"
    )
    blocks: list[Block] = [
        Figure(
            reward_curves(policy.records),
            "Grey: examples that the policy learned from, drawn with noise on the way. Blue: examples of the averaged "
            "weights for held-out prompts, drawn without. Right: the same reward against the divergence that it cost.",
        )
    ]
    drawn = sorted((policy.folder / "samples").glob("*.png"))
    if drawn:
        caption = f"From the same noise: the base, and the policy ({drawn[-1].name}), with the reward of each example."
        blocks.append(Figure(drawn[-1].read_bytes(), caption))
    rows = [("reward of what the policy draws", rise)]
    facts = [("Reward", f"{last['reward']:.2f}", f"of the policy; {first['reward']:.2f} when it began")]
    return Part(rows, facts, [Section("Reinforcement", blocks, text)])


def _check_base(files: RunFiles, policy: RunFiles) -> None:
    path, base = policy.folder / "config.yaml", references_of(policy.config).get(BASE)
    if base is None:
        raise Refusal(path, BASE, "is missing", f"give a run that goes on from {files.folder}")
    digest = Reference.of_run(ReferenceConfig(run=Path(files.folder))).digest
    if base.digest != digest:
        problem = f"is {shown(base.digest)} and not the weights of {files.folder} ({shown(digest)})"
        raise Refusal(path, f"{BASE}.digest", problem, "give a policy that began as this run")
