"""Command line: ``python -m netsim VERB``."""

import sys
from collections.abc import Sequence

from netsim.foundation.command import INTERRUPTED


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command and returns its exit code; imports it inside, so that any interrupt is answered with one line."""
    try:
        from netsim.command.program import PROGRAM

        return PROGRAM.main(argv)
    except KeyboardInterrupt:
        print("netsim: interrupted", file=sys.stderr)
        return INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
