"""docker/launch.sh: what it starts, what it refuses, how it ends."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.docker.scripts import LAUNCH, OPTIONS, ROOT, SLURM, environment, interpreter, launch

WAITS = "note.with_name('waits').touch(); [time.sleep(0.05) for _ in range(1000)]"
"""Says that it waits, and does so in short sleeps: a signal just before one long sleep is handled behind it."""
STOPS = f"signal.signal(signal.SIGINT, lambda *_: sys.exit(75)); {WAITS}"
"""Ends with 75 at SIGINT, and is killed by SIGTERM."""


def starts(folder: Path) -> list[tuple[list[str], dict[str, str | None]]]:
    """What the stand-in was started with: words and variables."""
    return [json.loads(line) for line in (folder / "starts").read_text().splitlines()]


def option(words: list[str], name: str) -> str:
    return words[words.index(name) + 1]


def test_one_node_listens_on_itself_alone(tmp_path: Path) -> None:
    result = launch(interpreter(tmp_path), "--ranks-per-node", "2", "a.yaml", "run.dir=x y")
    assert result.returncode == 0, result.stderr
    (check, _), (agent, variables) = starts(tmp_path)
    assert check == ["-m", "trainer", "check", "a.yaml", "run.dir=x y", "--world-size", "2"]
    assert agent[-6:] == ["--", "-m", "trainer", "train", "a.yaml", "run.dir=x y"]
    assert option(agent, "--nodes") == "1"
    assert option(agent, "--master") == option(agent, "--local-addr") == "127.0.0.1"
    assert option(agent, "--master-port") == "0"
    assert option(agent, "--max-restarts") == "3"
    assert variables["GLOO_SOCKET_IFNAME"] == variables["NCCL_SOCKET_IFNAME"] == "lo"
    assert variables["OMP_NUM_THREADS"] == str(max(1, len(os.sched_getaffinity(0)) // 2))
    assert variables["TORCH_ELASTIC_SHUTDOWN_TIMEOUT"] == "120"
    assert variables["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] == "1"


@pytest.mark.parametrize("by", ["options", "equals", "environment", "behind", "around"])
def test_the_second_of_two_nodes(tmp_path: Path, by: str) -> None:
    values = {
        "NODES": "2",
        "NODE_RANK": "1",
        "MASTER_ADDR": "10.0.0.1",
        "MASTER_PORT": "29411",
        "LOCAL_ADDR": "10.0.0.2",
    }
    values |= {"RANKS_PER_NODE": "8", "RUN_ID": "mine", "OMP_NUM_THREADS": "7"}
    names = {"MASTER_ADDR": "--master"}
    options = {names.get(name, "--" + name.lower().replace("_", "-")): value for name, value in values.items()}
    threads = {"OMP_NUM_THREADS": options.pop("--omp-num-threads"), "GLOO_SOCKET_IFNAME": "e7"}
    python = interpreter(tmp_path)
    match by:
        case "behind":
            result = launch(python, "a.yaml", *(word for pair in options.items() for word in pair), **threads)
        case "around":
            words = [word for pair in options.items() for word in pair]
            result = launch(python, *words[:4], "a.yaml", *words[4:], **threads)
        case "options":
            result = launch(python, *(word for pair in options.items() for word in pair), "a.yaml", **threads)
        case "equals":
            result = launch(python, *("=".join(pair) for pair in options.items()), "a.yaml", **threads)
        case _:
            result = launch(python, "a.yaml", **{**values, **threads})
    assert result.returncode == 0, result.stderr
    (check, _), (agent, variables) = starts(tmp_path)
    assert option(check, "--world-size") == "16"
    assert option(agent, "--nodes") == "2"
    assert option(agent, "--node-rank") == "1"
    assert option(agent, "--ranks-per-node") == "8"
    assert option(agent, "--run-id") == "mine"
    assert option(agent, "--master") == "10.0.0.1"
    assert option(agent, "--master-port") == "29411"
    assert option(agent, "--local-addr") == "10.0.0.2"
    assert variables["OMP_NUM_THREADS"] == "7"
    assert variables["GLOO_SOCKET_IFNAME"] == "e7"


@pytest.mark.parametrize(
    ("words", "field"),
    [
        ((), "CONFIG is missing"),
        (("--nodes",), "--nodes needs a value"),
        (("--nodes=two", "a.yaml"), "--nodes: 'two'"),
        (("--nodes", "0", "a.yaml"), "--nodes: '0'"),
        (("--nodes", "1" * 30, "a.yaml"), "--nodes: '1111"),
        (("--nodes", "2", "a.yaml"), "--master: missing; give the address of node 0"),
        (("--nodes", "2", "--master", "0x7f.1", "a.yaml"), "--master: 0x7f.1 is 127.0.0.1 here, where no other node"),
        (("--node-rank", "1", "a.yaml"), "--node-rank: 1 is too large"),
        (("--master", "256.0.0.1", "a.yaml"), "--master: 256.0.0.1 cannot be reached"),
        (("--ranks-per-node", "", "--grace", "0", "a.yaml"), "--grace: '0'"),
        (("--restart", "sometimes", "a.yaml"), "--restart: 'sometimes'"),
        (("--gpus", "8", "a.yaml"), "unknown option --gpus"),
        (("-x", "a.yaml"), "unknown option -x"),
        (("a.yaml", "run.dir=x", "--nodes"), "--nodes needs a value"),
    ],
)
def test_wrong_input_is_one_line_and_2(tmp_path: Path, words: tuple[str, ...], field: str) -> None:
    result = launch(interpreter(tmp_path), *words)
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr.startswith(f"launch.sh: {field}")
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "starts").exists()


def test_what_is_not_for_the_script_goes_to_the_trainer_in_its_order(tmp_path: Path) -> None:
    result = launch(interpreter(tmp_path), "a.yaml", "--debug", "--ranks-per-node=2", "run.dir=x", "optim.lr=-1")
    assert result.returncode == 0, result.stderr
    (check, _), (agent, _) = starts(tmp_path)
    assert check[2:] == ["check", "a.yaml", "--debug", "run.dir=x", "optim.lr=-1", "--world-size", "2"]
    assert agent[-6:] == ["trainer", "train", "a.yaml", "--debug", "run.dir=x", "optim.lr=-1"]


def test_a_wrong_configuration_is_one_line_and_2() -> None:
    result = launch(Path(sys.executable), "configs/runs/digits_moe.yaml", "optim.stepz=3")
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1
    assert "optim.stepz" in result.stderr


def test_a_missing_interpreter_is_refused(tmp_path: Path) -> None:
    result = launch(tmp_path / "nothing", "a.yaml")
    assert result.returncode == 2
    assert "PYTHON" in result.stderr


def test_help_names_every_option_and_variable() -> None:
    result = launch(Path(sys.executable), "--help")
    assert result.returncode == 0
    options = re.search(r"case \$name in(.*?)esac", LAUNCH.read_text(), re.DOTALL)
    assert options is not None
    for option in re.findall(r"--[a-z-]+(?=[ )])", options[1]):
        assert f"  {option} " in result.stdout or option == "--help", option
    for variable in OPTIONS | {"OMP_NUM_THREADS"}:
        assert variable in result.stdout, variable


def test_exit_codes_are_passed_on(tmp_path: Path) -> None:
    assert launch(interpreter(tmp_path, check="sys.exit(2)"), "a.yaml").returncode == 2
    assert len(starts(tmp_path)) == 1, "the agent is not started"
    assert launch(interpreter(tmp_path, agent="sys.exit(1)"), "a.yaml").returncode == 1
    killed = interpreter(tmp_path, agent="os.kill(os.getpid(), signal.SIGKILL)")
    assert launch(killed, "a.yaml").returncode == 128 + signal.SIGKILL


@pytest.mark.parametrize(("restart", "ended"), [("failed", 0), ("always", 0), ("never", 1)])
def test_what_failed_is_started_again_where_asked(tmp_path: Path, restart: str, ended: int) -> None:
    python = interpreter(tmp_path, agent="sys.exit(starts < 1)")
    result = launch(python, "--restart", restart, "a.yaml")
    assert result.returncode == ended
    assert len(starts(tmp_path)) == 2 + (restart != "never"), "the check is made once"


def test_it_is_started_again_so_many_times_at_most(tmp_path: Path) -> None:
    python = interpreter(tmp_path, agent="sys.exit(1)")
    assert launch(python, "--restart", "failed", "--restarts", "1", "a.yaml").returncode == 1
    assert len(starts(tmp_path)) == 3


def test_wrong_input_is_never_started_again(tmp_path: Path) -> None:
    assert launch(interpreter(tmp_path, agent="sys.exit(2)"), "--restart", "always", "a.yaml").returncode == 2
    assert len(starts(tmp_path)) == 2


@pytest.mark.parametrize("code", [75, 130, 143])
def test_a_stop_on_another_node_is_no_failure(tmp_path: Path, code: int) -> None:
    python = interpreter(tmp_path, agent=f"sys.exit({code})")
    assert launch(python, "--restart", "failed", "a.yaml").returncode == code
    assert len(starts(tmp_path)) == 2


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR2, signal.SIGHUP, signal.SIGINT])
def test_a_signal_reaches_the_agent_whose_code_counts(tmp_path: Path, number: signal.Signals) -> None:
    process = started(tmp_path, "--restart", "failed", agent=STOPS)
    process.send_signal(number)
    assert process.wait(20) == (75 if number == signal.SIGINT else 143), "Ctrl-C stays itself, the others are SIGTERM"
    assert len(starts(tmp_path)) == 2


def test_a_rehearsal_on_one_machine_shares_its_cores(tmp_path: Path) -> None:
    result = launch(interpreter(tmp_path), "--nodes", "2", "--node-rank", "1", "--master", "127.0.0.1", "a.yaml")
    assert result.returncode == 0
    assert result.stderr == (
        "launch.sh: node 1: a rehearsal, for 127.0.0.1 is this machine: all 2 nodes must be here\n"
    )
    agent, variables = starts(tmp_path)[1]
    assert option(agent, "--local-addr") == "127.0.0.1"
    assert variables["GLOO_SOCKET_IFNAME"] == "lo"
    assert variables["OMP_NUM_THREADS"] == str(max(1, len(os.sched_getaffinity(0)) // 2))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_starts_again_where_always_is_asked(tmp_path: Path, number: signal.Signals) -> None:
    process = started(tmp_path, "--restart", "always", agent=f"starts == 1 and sys.exit(0)\n        {STOPS}")
    process.send_signal(number)
    assert process.wait(20) == (75 if number == signal.SIGINT else 0)
    assert len(starts(tmp_path)) == (2 if number == signal.SIGINT else 3)


def test_a_run_that_ends_well_in_spite_of_the_signal_is_done(tmp_path: Path) -> None:
    process = started(tmp_path, agent=f"signal.signal(signal.SIGTERM, lambda *_: sys.exit(0)); {WAITS}")
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 0


def test_a_signal_while_checking_starts_nothing(tmp_path: Path) -> None:
    process = started(tmp_path, check=WAITS)
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 143
    assert len(starts(tmp_path)) == 1


def started(folder: Path, *words: str, **bodies: str) -> "subprocess.Popen[bytes]":
    """launch.sh, as far as the wait of the program that it starts."""
    python = interpreter(folder, **bodies)
    restored = dict.fromkeys((signal.SIGINT, signal.SIGHUP), signal.SIG_DFL)  # ignored where the tests run behind nohup
    process = subprocess.Popen(
        [LAUNCH, *words, "a.yaml"],
        env=environment(python),
        cwd=ROOT,
        stderr=subprocess.DEVNULL,
        preexec_fn=lambda: [signal.signal(number, action) for number, action in restored.items()],
    )
    for _ in range(2000):
        if (folder / "waits").exists():
            return process
        time.sleep(0.01)
    process.kill()
    raise AssertionError("nothing was started")


@pytest.mark.parametrize(("code", "requeued"), [(0, False), (1, False), (2, False), (75, True)])
def test_slurm_queues_again_after_75(tmp_path: Path, code: int, requeued: bool) -> None:
    for name, body in {"srun": f'echo "$@" > {tmp_path}/srun; exit {code}', "scontrol": CONTROL}.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{body}\n")
        (tmp_path / name).chmod(0o755)
    job = {"SLURM_SUBMIT_DIR": str(ROOT), "SLURM_JOB_NUM_NODES": "2", "SLURM_JOB_NODELIST": "n[1-2]"}
    job["SLURM_CPUS_ON_NODE"] = "96"
    variables = {**job, "SLURM_JOB_ID": "4711", "OUT": str(tmp_path), "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    result = subprocess.run(
        [SLURM, "a.yaml", "run.dir=x"], env=environment(Path("python"), **variables), timeout=30, check=False
    )
    assert result.returncode == code
    assert (tmp_path / "srun").read_text().endswith("launch a.yaml run.dir=x\n")
    assert (tmp_path / "requeued").exists() is requeued


@pytest.mark.parametrize("image", [None, "registry#flowfabric:1"])
def test_a_slurm_task_has_all_cores_of_its_node_and_the_image_that_is_asked_for(
    tmp_path: Path, image: str | None
) -> None:
    for name, body in {"srun": f'printf "%s\\n" "$PYTHON" "$@" > {tmp_path}/words', "scontrol": CONTROL}.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{body}\n")
        (tmp_path / name).chmod(0o755)
    variables = {"SLURM_SUBMIT_DIR": str(ROOT), "SLURM_JOB_NUM_NODES": "2", "SLURM_JOB_NODELIST": "n[1-2]"}
    variables |= {"SLURM_JOB_ID": "4711", "SLURM_CPUS_ON_NODE": "96", "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    variables |= {} if image is None else {"CONTAINER_IMAGE": image}
    settings = {name: value for name, value in environment(Path(), **variables).items() if name != "PYTHON"}
    subprocess.run([SLURM, "a.yaml"], env=settings, timeout=30, check=True)
    python, *words = (tmp_path / "words").read_text().splitlines()
    assert "--cpus-per-task=96" in words[: words.index("bash")]
    container = [word for word in words if "container" in word]
    if image is None:
        assert (python, container) == (str(ROOT / ".venv/bin/python"), [])
    else:
        mounts = [f"--container-mounts={ROOT}:{ROOT}", f"--container-workdir={ROOT}", "--no-container-entrypoint"]
        assert (python, container) == ("python", [f"--container-image={image}", *mounts])


CONTROL = 'if [ "$1" = requeue ]; then echo "$2" > "$OUT/requeued"; else echo n1; echo n2; fi'


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed")
def test_shellcheck_finds_nothing() -> None:
    found = subprocess.run(["shellcheck", LAUNCH, SLURM], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout
