"""A run that writes down what each step learned from: RECORD names the folder; KILL_STEP the step that rank KILL_RANK
dies in, by kill -9."""

import json
import os
import signal
import sys
from pathlib import Path

from trainer.__main__ import main
from trainer.training.shares import Share, Shares

take_share = Shares.take
RECORD = Path(os.environ["RECORD"])
RANK = os.environ.get("RANK", "0")


def recorded(self: Shares, step: int) -> Share:
    share = take_share(self, step)
    ids = [number for examples in share.examples for number in examples.tolist()]
    with (RECORD / f"rank_{RANK}.jsonl").open("a") as file:
        file.write(json.dumps({"step": step, "ids": ids}) + "\n")
    if str(step) == os.environ.get("KILL_STEP") and os.environ["KILL_RANK"] == RANK:
        os.kill(os.getpid(), signal.SIGKILL)
    return share


Shares.take = recorded

if __name__ == "__main__":
    sys.exit(main())
