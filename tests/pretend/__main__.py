"""Prints where the host waits in a layer: `python -m tests.pretend [DISPATCH ...]`."""

import sys
from typing import get_args

from moe.config import MoEConfig
from tests.pretend.layers import passes
from tests.pretend.process import on_device


def main() -> None:
    """Prints a line for each router and dispatch, and one for each place where the host waits."""
    for dispatch in sys.argv[1:] or get_args(MoEConfig.model_fields["dispatch"].annotation):
        ranks, node = (4, 2) if dispatch == "hierarchical" else (2, None)
        for router, found in on_device(passes, ranks, dispatch, ranks, node)[0].items():
            said = f"refused ({found.refused})" if found.refused else f"{found.waits.total()} synchronisations"
            print(f"{dispatch}, {router}: {said}, {found.staged.total()} copies from pageable memory")
            for line, count in found.waits.most_common():
                print(f"    {count:3} {line}")


if __name__ == "__main__":
    main()
