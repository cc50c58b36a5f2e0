"""A rank whose stages are forked from it, which spares them the imports; DISTURB says what happens to them."""

import os
import runpy
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from trainer.__main__ import main
from trainer.distributed.process import children

DISTURBED = str(Path(__file__).parents[2] / "training" / "disturbed_run.py")


class Forked:
    """What is used of a started process."""

    def __init__(self, command: list[str], env: dict[str, str], **_: Any) -> None:
        python, *program = command
        assert (python, program[:2]) == (sys.executable, ["-m", "trainer"])
        self._pid = os.fork()
        if self._pid == 0:
            self._run(program[2:], env)

    def send_signal(self, number: int) -> None:
        with suppress(ProcessLookupError):
            os.kill(self._pid, number)

    def wait(self) -> int:
        return os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1])

    def _run(self, words: list[str], env: dict[str, str]) -> None:
        for number in children.HANDED_ON:
            signal.signal(number, signal.SIG_DFL)
        os.environ.update(env)
        sys.argv = ["trainer", *words]
        code = 1
        try:
            runpy.run_path(DISTURBED, run_name="__main__")
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 0
        sys.stderr.flush()
        os._exit(code)


children.subprocess.Popen = Forked  # pyright: ignore[reportAttributeAccessIssue]  of what is used
sys.exit(main())
