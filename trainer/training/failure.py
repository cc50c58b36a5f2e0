"""Runs that end before their last step."""


class RunFailed(RuntimeError):  # noqa: N818  it is what has happened
    """A run that cannot go on although its configuration was good; the message is the one line that a person needs."""
