"""What a policy cannot learn from whose rewards are those of a regression."""

from netsim.foundation.refusal import Refusal
from trainer.config.run import RunConfig
from trainer.config.task import TrajectoryBalanceTaskConfig


def check_surrogate(config: RunConfig) -> None:
    """Refuses measured objects of another environment.

    Args:
        config: the run.

    Raises:
        Refusal: the file is missing or malformed, or its objects are of another environment.
    """
    task = config.task
    if not isinstance(task, TrajectoryBalanceTaskConfig) or task.log_reward is None:
        return
    file = task.log_reward.read()
    if file.environment != task.environment:
        made, own = (one.model_dump(mode="json") for one in (file.environment, task.environment))
        differing = next((name for name in made | own if made.get(name) != own.get(name)), "kind")
        raise Refusal(
            task.log_reward.measured,
            f"environment.{differing}",
            f"is {made.get(differing)}, and task.environment.{differing} of the run is {own.get(differing)}",
            "measure objects of the run's environment, or use theirs",
        )
