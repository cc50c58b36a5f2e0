"""Runs that end before their last step."""

from netsim.foundation.refusal import Failure


class RunFailed(Failure):
    """A run that cannot go on although its configuration was good."""
