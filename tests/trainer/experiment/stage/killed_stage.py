"""A rank that runs stages, of which the one that KILL_STAGE names dies; killed_run.py says when."""

import subprocess
import sys
from pathlib import Path
from typing import Any

from trainer.__main__ import main
from trainer.distributed.process import children
from trainer.distributed.process.signals import STAGE

start = subprocess.Popen


def dying(command: list[str], env: dict[str, str], **streams: Any) -> Any:
    _, _, _, *words = command  # python -m trainer
    mortal = [sys.executable, str(Path(__file__).parents[2] / "training" / "killed_run.py"), *words]
    return start(mortal if env[STAGE] == env["KILL_STAGE"] else command, env=env, **streams)


children.subprocess.Popen = dying
sys.exit(main())
