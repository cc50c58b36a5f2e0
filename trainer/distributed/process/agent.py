"""torchrun for one node, as docker/launch.sh starts it: the nodes meet before, and the end is one line and a code."""

import argparse
import ctypes
import errno
import logging
import os
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from trainer.distributed.process.exit_status import VARIABLE, read_exit_status
from trainer.distributed.process.rendezvous import NotMet, Rendezvous, this_node
from trainer.distributed.process.rendezvous_host import ENDS_ALL, Host, Refused, hosted, listener
from trainer.distributed.process.signals import EX_TEMPFAIL, PR_SET_PDEATHSIG, SIGNALS, interruptible, spoken

if TYPE_CHECKING:
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

WRONG_INPUT = 2
LOOK_S = 0.3
"""Interval between checks of the reports of the ranks and of the other nodes."""
UNWIND_S = 20.0
"""Time for torchrun to end once its ranks have reported their end, or another node has left."""
LINGER_S = 3.0
"""Time for the other nodes to end before node 0 closes the store, for which torchrun there may wait in vain."""


class _Node:
    """This node's part of a run; `command` is that of each rank, as torchrun takes it.

    `status_file` is the file through which the ranks say how the run ended; `rendezvous` is None without other nodes.
    """

    def __init__(self, options: argparse.Namespace, command: Sequence[str], status_file: Path) -> None:
        self.options, self.command, self.status_file = options, command, status_file
        self.rendezvous: Rendezvous | None = None
        self._host: Host | None = None
        self._store: object = None
        self._kept: object = None
        self._ended = threading.Event()

    def run(self) -> tuple[int, str]:
        """Meets the other nodes, runs torchrun, and returns the exit code and its reason (may be empty).

        Raises:
            Refused: the input is wrong.
            NotMet: other nodes have not come.
        """
        options = self.options
        store = self._store_socket()
        port = store.getsockname()[1] if store is not None else 0
        if options.nodes > 1:
            own = this_node(options.node_rank, options.nodes, options.ranks_per_node, options.run_id)
            if store is not None:
                self._host = hosted(own, options.master, options.master_port, store)
            self.rendezvous = Rendezvous(own, options.master, options.master_port)
            self.rendezvous.meet()
            if self.rendezvous.left is not None:
                return self._of_others()
            port = self.rendezvous.store_port
        watching = threading.Thread(target=self._watch, name="watch", daemon=True)
        watching.start()
        try:
            return self._torchrun(store, port)
        finally:
            self._ended.set()
            watching.join()

    def leave(self, code: int, line: str) -> None:
        """Tells the other nodes how this one ended."""
        if self.rendezvous is not None:
            if self.rendezvous.left is None:
                self.rendezvous.leave(code, line)
            self.rendezvous.hang_up()
        if self._host is not None:
            if code == 0 or code in ENDS_ALL:
                self._host.linger(LINGER_S)
            self._host.close()

    def stopped(self, words: str, code: int) -> tuple[int, str]:
        """Exit code and line after a stop request: those of its ranks, else of a node that has left, else `code`."""
        said = read_exit_status(self.status_file)
        if said is not None:
            return said
        if self.rendezvous is not None and self.rendezvous.left is not None:
            return self._of_others()
        nodes = self.options.nodes
        again = "start it again" if nodes == 1 else f"start all {nodes} nodes again"
        return code, f"{words}; nothing new was saved; {again} to resume"

    def _store_socket(self) -> socket.socket | None:
        """Opens the socket of the agents' store on node 0, on one address, while torch's own stores listen on all."""
        options = self.options
        if options.node_rank > 0:
            return None
        try:
            return listener(options.master, 0 if options.nodes > 1 else options.master_port)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise Refused(f"--master-port: {options.master_port} is in use; give another, or none") from None
            if options.nodes == 1:
                raise Refused(f"--master: {options.master} cannot be used ({error.strerror}); leave it out") from None
            return listener("127.0.0.1", 0)  # the rendezvous says what is wrong with the address

    def _torchrun(self, listening: socket.socket | None, port: int) -> tuple[int, str]:
        quiet = "TORCH_CPP_LOG_LEVEL" not in os.environ
        if quiet:
            os.environ["TORCH_CPP_LOG_LEVEL"] = "ERROR"  # the store warns at length when another agent is gone
        from torch.distributed import TCPStore, run
        from torch.distributed.elastic.multiprocessing.api import SignalException
        from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
        from torch.distributed.elastic.rendezvous.api import RendezvousError

        if quiet:
            del os.environ["TORCH_CPP_LOG_LEVEL"]  # is read once, and the ranks may warn
        options = self.options
        _hush(self.status_file)
        if listening is not None:
            self._store = TCPStore(
                options.master, port, is_master=True, wait_for_workers=False, master_listen_fd=listening.detach()
            )
        try:
            try:
                run.main(
                    [
                        *("--nnodes", str(options.nodes), "--nproc-per-node", str(options.ranks_per_node)),
                        *("--rdzv-backend", "c10d", "--rdzv-id", options.run_id),
                        *("--rdzv-endpoint", f"{options.master}:{port}", "--rdzv-conf", "is_host=0"),
                        *("--local-addr", options.local_addr, "--max-restarts", str(options.max_restarts)),
                        *self.command,
                    ]
                )
            finally:
                for number in SIGNALS:  # the end is near; torchrun's handler would raise an error anywhere
                    signal.signal(number, lambda *_: None)
        except SignalException as error:
            self._kept = error  # with the rendezvous: torch's timer in it cannot be collected by its own thread
            return self.stopped(f"stopped by {spoken(error.sigval)}", 128 + error.sigval)
        except ChildFailedError as error:
            return read_exit_status(self.status_file) or (1, f"{_blamed(error)}; the lines above say more")
        except RendezvousError:
            return 1, f"node {options.node_rank} has lost the others; start it again as soon as they are back"
        return read_exit_status(self.status_file) or (0, "")

    def _watch(self) -> None:
        """Stops torchrun when its work is in vain: the ranks have refused the input, or another node has ended."""
        while not self._ended.wait(0.0 if self.rendezvous is not None else LOOK_S):
            if self.rendezvous is not None:
                self.rendezvous.hear(LOOK_S)
                self.rendezvous.remind()
            said = read_exit_status(self.status_file)
            refused = said is not None and said.code == WRONG_INPUT
            if refused or (self.rendezvous is not None and self.rendezvous.left is not None):
                os.kill(os.getpid(), signal.SIGTERM)
            elif said is None or said.code != EX_TEMPFAIL:
                continue
            if not self._ended.wait(UNWIND_S):  # torchrun waits minutes for agents that are gone, deaf to signals
                code, line = self.stopped("stopped", 128 + signal.SIGTERM)
                _say(line)
                self.leave(code, line)
                os._exit(code)
            return

    def _of_others(self) -> tuple[int, str]:
        assert self.rendezvous is not None
        assert self.rendezvous.left is not None
        node, code, line = self.rendezvous.left
        if code == EX_TEMPFAIL:  # it has saved, but the ranks here have not said so
            code = 128 + signal.SIGTERM
        return code, f"node {node} has ended: {line}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a node's part of a run.

    Returns:
        0 done, 1 failed, 2 wrong input, 75 stopped and saved, 128 + N stopped by signal N with nothing saved.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    own = words.index("--") if "--" in words else len(words)
    options = _parser().parse_args(words[:own])
    _stand_alone()
    with _status_file() as status_file:
        node = _Node(options, words[own + 1 :], status_file)

        def stopped(words: str, number: int) -> None:
            code, line = node.stopped(words, 128 + number)
            _say(line)
            node.leave(code, line)

        with interruptible(stopped):
            try:
                code, line = node.run()
            except Refused as error:
                code, line = WRONG_INPUT, str(error)
                node.leave(0, "")  # the others go on without it
            except NotMet as error:
                code, line = 1, str(error)
            if code != WRONG_INPUT or read_exit_status(status_file) is None:  # the ranks have said that themselves
                _say(line)
            node.leave(code, line)
            return code


@contextmanager
def _status_file() -> Iterator[Path]:
    """The file for the exit status of the ranks: that of launch.sh, which outlives this process, or one of its own."""
    with tempfile.TemporaryDirectory(prefix="flowfabric_") if VARIABLE not in os.environ else nullcontext("") as folder:
        status_file = Path(os.environ.setdefault(VARIABLE, f"{folder}/exit_status"))
        status_file.unlink(missing_ok=True)  # of an earlier start
        yield status_file


def _stand_alone() -> None:
    """Gets Ctrl-C from launch.sh alone, and on Linux ends with launch.sh, so that no run outlives it."""
    if os.getpid() != os.getpgrp():
        os.setsid()
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def _hush(status_file: Path) -> None:
    """Reduces torchrun's log to one line for each error, and to nothing once the ranks have written an exit status."""
    logger = logging.getLogger("torch.distributed.elastic")
    handler = logging.StreamHandler()
    handler.setLevel(logging.ERROR)
    handler.addFilter(lambda _: read_exit_status(status_file) is None)
    handler.setFormatter(_FirstLine("launch.sh: torchrun: %(message)s"))
    logger.handlers, logger.propagate = [handler], False


class _FirstLine(logging.Formatter):
    """Formats a record as one line, without the traceback."""

    def format(self, record: logging.LogRecord) -> str:
        return super().format(logging.makeLogRecord({**record.__dict__, "exc_info": None})).splitlines()[0]


def _blamed(error: "ChildFailedError") -> str:
    rank, failure = error.get_first_failure()
    code = failure.exitcode
    how = f"was killed by {spoken(-code)}" if code < 0 else f"ended with {code}"
    return f"rank {rank} {how}"


def _say(line: str) -> None:
    if line:
        print(line if line.startswith("launch.sh: ") else f"launch.sh: {line}", file=sys.stderr, flush=True)


def _parser() -> argparse.ArgumentParser:
    usage = "%(prog)s [OPTION VALUE ...] -- -m MODULE [ARGUMENT ...]"
    parser = argparse.ArgumentParser(
        prog="python -m trainer.distributed.process.agent", usage=usage, description=__doc__
    )
    parser.add_argument("--nodes", type=int, default=1)
    parser.add_argument("--node-rank", type=int, default=0)
    parser.add_argument("--master", default="127.0.0.1", help="address of node 0")
    parser.add_argument("--master-port", type=int, default=0, help="where the nodes meet on node 0; 0: any free one")
    parser.add_argument("--local-addr", default="127.0.0.1", help="where the other nodes reach this one")
    parser.add_argument("--ranks-per-node", type=int, default=1)
    parser.add_argument("--run-id", default="flowfabric")
    parser.add_argument("--max-restarts", type=int, default=3)
    return parser


if __name__ == "__main__":
    try:
        ended_with = main()
    except SystemExit as end:
        ended_with = end.code if isinstance(end.code, int) else 1
    sys.stderr.flush()
    os._exit(ended_with)  # all is tidy but torch's threads, which complain of the interpreter's end
