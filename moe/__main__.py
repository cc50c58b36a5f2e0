"""The command line; `python -m moe --help` lists its verbs."""

import sys
from collections.abc import Sequence

from netsim.foundation.command import INTERRUPTED


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a verb and returns its exit status; the import is inside so that an early interrupt prints one line too."""
    try:
        from moe.command.program import PROGRAM

        return PROGRAM.main(argv)
    except KeyboardInterrupt:
        print("moe: interrupted", file=sys.stderr)
        return INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
