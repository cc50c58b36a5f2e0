"""What of a run would come after its last step."""

from trainer.config.run import RunConfig

_OUTCOMES = {
    "evaluate": "nothing is evaluated",
    "sample": "nothing is drawn",
}


def beyond_the_end(config: RunConfig) -> str | None:
    """A line about settings of a user that have no effect because the run ends before; None: there are none.

    Args:
        config: the run.
    """
    steps, lost = config.optim.steps, []
    outside = [step for step in config.trace.steps if not 1 <= step <= steps]
    if outside:
        lost.append(f"trace.steps {', '.join(map(str, outside))} (not recorded)")
    for name, outcome in _OUTCOMES.items():
        section = getattr(config, name)
        if "every" in section.model_fields_set and section.every is not None and section.every > steps:
            lost.append(f"{name}.every {section.every} ({outcome})")
    if not lost:
        return None
    return (
        f"optim.steps: {steps} ends before {'; '.join(lost)}; a share of the run, such as every=1/2, and "
        "trace.steps=[-2,-1] follow its end"
    )
