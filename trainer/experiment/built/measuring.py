"""Measurement of the true objectives of a batch of built objects, for stages of kind measure.

Shape suffixes: N objects, S integers of a state, K objectives.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from moe.seeds import derive_seed, fold_in
from trainer.checkpoint.intact import newest_checkpoint
from trainer.checkpoint.manifest import Manifest
from trainer.config.task.environment import MeasuredFile, MeasureRequest, OwnEnvironment
from trainer.config.task.trajectory_balance import SingleConfig
from trainer.distributed.groups import Launch, joined
from trainer.evaluation.pareto import front, hypervolume
from trainer.experiment.built.objects import TrainedPolicy, opened_policy
from trainer.task import environment as environments
from trainer.task.environment import Environment, check_laws
from trainer.task.environment.protocol import rollout
from trainer.task.rewards import dirichlet

_PREFERENCES = 1
TOGETHER = 512
"""Objects that are built at once."""


def weights_of(request: MeasureRequest) -> str | None:
    """Digest of the averaged weights of the policy that a request names; None if it names none."""
    return None if request.run is None else Manifest.read(newest_checkpoint(request.run)).weights_sha256()


def run(request: MeasureRequest, out: Path) -> int:
    """Builds objects, calls the objectives for new ones, and appends the results to the earlier ones.

    Only the first rank of a launch works, so that each object costs one call; the others wait.
    """
    before = _before(request)
    environment = environments.build(request.environment)
    if isinstance(request.environment, OwnEnvironment):
        check_laws(environment, name=request.environment.class_path)
    made_by = request.what_decides(weights_of(request))
    with _policy(request) as policy:
        first = dist.get_rank() == 0
        if first:
            known = () if before is None else before.objects
            batch = new_objects(request, environment, policy, known)
            rewards = measured(environment, batch)
            file = MeasuredFile(
                environment=request.environment,
                objectives=tuple(environment.objectives),
                objects=(*known, *map(tuple, batch.tolist())),
                rewards=(*(() if before is None else before.rewards), *map(tuple, rewards.tolist())),
                rounds=(*(() if before is None else before.rounds), len(batch)),
                made_by=made_by,
            )
            file.write(out)
            points = np.array(file.rewards)
            missing = f" ({request.num} were asked for; more tries find more)" if len(batch) < request.num else ""
            print(
                f"{out}: {len(batch)} new objects{missing}, {len(points)} calls of the objectives in "
                f"{len(file.rounds)} rounds; hypervolume {hypervolume(points):.4f}, {len(front(points))} on the front"
            )
        dist.barrier()  # whoever reads the file next finds it
    return 0


def new_objects(
    request: MeasureRequest, environment: Environment, policy: TrainedPolicy | None, known: Sequence[tuple[int, ...]]
) -> Tensor:
    """Draws at most `request.num` objects not in `known`, int64 [N, S]; without a policy, by uniform choices."""
    seen, objects = set(known), []
    key = torch.tensor(derive_seed(request.seed, "measured objects"))
    for some in torch.arange(request.num * request.tries).split(TOGETHER):
        for row in map(tuple, _built(environment, policy, fold_in(key, some)).tolist()):
            if row not in seen and len(objects) < request.num:
                seen.add(row)
                objects.append(row)
        if len(objects) == request.num:
            break
    if not objects:
        raise ValueError(
            f"tries: none of {request.num * request.tries} objects is new beside the {len(known)} measured ones; raise "
            "tries, or task.log_reward.deviations of the run that builds them"
        )
    return torch.tensor(objects)


def measured(environment: Environment, objects_NS: Tensor) -> Tensor:
    """Values float64 [N, K] of the true objectives for objects, each from 0 to 1; one call each."""
    rewards = environment.rewards(objects_NS).double()
    if rewards.shape != (len(objects_NS), len(environment.objectives)):
        raise ValueError(
            f"environment.rewards: gives {list(rewards.shape)} numbers for {len(objects_NS)} objects; give one for "
            f"each of {', '.join(environment.objectives)}"
        )
    wrong = ~((rewards >= 0) & (rewards <= 1))
    if bool(wrong.any()):
        place, objective = wrong.nonzero()[0].tolist()
        described = environment.described(objects_NS[place : place + 1])[0]
        raise ValueError(
            f"environment.rewards: {environment.objectives[objective]} of {described} is "
            f"{float(rewards[place, objective]):g}; give a number from 0 to 1"
        )
    return rewards


def _built(environment: Environment, policy: TrainedPolicy | None, keys: Tensor) -> Tensor:
    """Builds objects, int64 [N, S], each a function of its key."""
    if policy is None:
        num = environment.num_actions
        return rollout(environment, lambda features: torch.zeros(len(features), num), keys).objects
    keys = keys.to(next(policy.model.parameters()).device)
    match policy.task.settings.preferences:
        case SingleConfig(weights=single):
            weights = torch.tensor(single, dtype=torch.float64, device=keys.device).expand(len(keys), -1)
        case _:
            weights = dirichlet(fold_in(keys, _PREFERENCES), len(environment.objectives), 1.0)
    walks = policy.task.walked(policy.model, policy.task.wanted(keys, weights)).walks
    assert walks is not None
    return walks.objects.cpu()


@contextmanager
def _policy(request: MeasureRequest) -> Iterator[TrainedPolicy | None]:
    """The policy that a request names, None if it names none; inside, process groups are joined."""
    if request.run is None:
        with joined(Launch.from_environment()):
            yield None
        return
    with opened_policy(request.run) as policy:
        if policy.task.settings.environment != request.environment:
            raise ValueError(
                f"run: {request.run} builds objects in another environment; give the environment of that run"
            )
        yield policy


def _before(request: MeasureRequest) -> MeasuredFile | None:
    """The file of objects measured in earlier rounds; a ValueError if they are of another environment."""
    if request.measured is None:
        return None
    file = MeasuredFile.read(request.measured)
    if file.environment != request.environment:
        raise ValueError(f"measured: {request.measured} holds objects of another environment; give its environment")
    return file
