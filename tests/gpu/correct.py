"""The GPU beside the CPU: losses, gradients, and runs that were stopped and gone on with."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from tests.forked import ROOT
from tests.gpu.measure import Measure

ON_CPU = {"CUDA_VISIBLE_DEVICES": ""}
LOSS_ERROR, BF16_LOSS_ERROR, GRADIENT_ERROR = 1e-4, 3e-2, 1e-2
DIGITS = "configs/runs/digits_moe.yaml"
RUN = (
    "parallel.expert=1", "optim.steps=10", "optim.warmup_steps=0", "optim.global_batch=32", "checkpoint.every=5",
    "checkpoint.keep=9", "evaluate.every=null", "sample.every=null", "trace.steps=[]", "observe.log_every=1",
    "observe.tensorboard=false", "run.deterministic=true",
)  # fmt: skip


def measures(out: Path, names: Sequence[str] = (), sides: Sequence[dict[str, str]] = ({}, ON_CPU)) -> Iterator[Measure]:
    """Compares short runs of the GPU with those of the CPU.

    Args:
        out: folder for the runs.
        names: cases of :mod:`tests.gpu.runs`; none: all.
        sides: variables of the two sides.
    """
    found = [figures(out / side, names, variables) for side, variables in zip(("gpu", "cpu"), sides, strict=True)]
    for name in names or [name for name in found[1] if name != "recorded collectives"]:
        bound = BF16_LOSS_ERROR if "bf16" in name else LOSS_ERROR
        yield Measure(f"{name}: loss against the CPU's", _error(*(side[name] for side in found)), "relative", bound)
    yield Measure("collectives in the flight record", found[0]["recorded collectives"], "", 1, "at least")
    yield from _continued(out, sides)
    if torch.cuda.is_available():
        yield Measure(
            "gradients in bf16 against float64", gradient_error(torch.device("cuda")), "relative", GRADIENT_ERROR
        )


def figures(out: Path, names: Sequence[str], variables: dict[str, str]) -> dict[str, Any]:
    """What the cases show in a process with its own variables."""
    out.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "tests.gpu.runs", str(out), *names]
    with (out / "log.txt").open("w") as log:
        subprocess.run(command, cwd=ROOT, env={**os.environ, **variables}, stdout=log, stderr=log, check=True)
    return json.loads((out / "figures.json").read_text())


def gradient_error(device: torch.device) -> float:
    """The relative error of a transformer's gradient in bf16 on a device, against float64 on the CPU."""
    from tests.gpu.networks import diffusion_transformer, loss_of

    exact = diffusion_transformer(hidden=128, layers=4, dtype=torch.float64, device=torch.device("cpu"))
    rounded = diffusion_transformer(hidden=128, layers=4, dtype=torch.bfloat16, device=device)
    rounded.load_state_dict(exact.state_dict())
    exact.load_state_dict({name: values.double() for name, values in rounded.cpu().state_dict().items()})
    rounded.to(device)
    gradients = []
    for network in (exact, rounded):
        loss_of(network, examples=8).backward()
        parts = [parameter.grad for parameter in network.parameters() if parameter.grad is not None]
        gradients.append(torch.cat([part.detach().double().cpu().flatten() for part in parts]))
    return float((gradients[1] - gradients[0]).norm() / gradients[0].norm())


def _continued(out: Path, sides: Sequence[dict[str, str]]) -> Iterator[Measure]:
    """A run gone on with from its checkpoint, on the same side and on the other."""
    straight = [_trained(out / f"straight_{number}", variables) for number, variables in enumerate(sides)]
    for number, variables in enumerate(sides):
        for other in range(len(sides)):
            folder = out / f"from_{other}_to_{number}"
            shutil.copytree(straight[other], folder)
            shutil.rmtree(folder / "checkpoints" / "step_00000010")
            _trained(folder, variables)
            if number == other:
                same = _weights(folder) == _weights(straight[number])
                yield Measure(f"side {number}: bytes of a run that was gone on with", float(not same), "differ", 0)
            else:
                error = abs(_last_loss(folder) / _last_loss(straight[number]) - 1)
                yield Measure(f"from side {other} to side {number}: last loss", error, "relative", 10 * LOSS_ERROR)


def _trained(folder: Path, variables: dict[str, str]) -> Path:
    command = [sys.executable, "-m", "trainer", "train", DIGITS, *RUN, f"run.dir={folder}"]
    subprocess.run(command, cwd=ROOT, env={**os.environ, **variables}, capture_output=True, check=True)
    return folder


def _weights(folder: Path) -> str:
    return hashlib.sha256((folder / "checkpoints" / "step_00000010" / "ema.safetensors").read_bytes()).hexdigest()


def _last_loss(folder: Path) -> float:
    return json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])["loss"]


def _error(first: dict[str, Any], second: dict[str, Any]) -> float:
    """The largest relative difference of two runs' losses; infinite where one of them did not run."""
    if "error" in first or "error" in second:
        print(f"    {first.get('error') or second.get('error')}", flush=True)
        return float("inf")
    pairs = zip(first["steps"], second["steps"], strict=True)
    return max(abs(one["loss"] - other["loss"]) / abs(other["loss"]) for one, other in pairs)
