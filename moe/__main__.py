"""The command line; `python -m moe --help` lists its verbs."""

import sys
from collections.abc import Sequence

_INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb, which is loaded here so that an interrupt is answered with one line from the beginning.

    Args:
        argv: Arguments after `python -m moe`; those of the process by default.

    Returns:
        0 when done, 1 when it failed, 2 for wrong input, 130 after an interrupt; one line on stderr says why.
    """
    try:
        from moe.command.line import run

        return run(argv)
    except KeyboardInterrupt:
        print("moe: interrupted", file=sys.stderr)
        return _INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
