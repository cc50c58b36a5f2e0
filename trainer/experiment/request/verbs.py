"""Shared options of verbs about runs, and requests of drivers that are the options of their verb."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

from netsim.foundation.command import WORD, Either, Request


class OfRuns(Request):
    """Options of a verb that may read run folders, whose classes are imported with `--trust-code` alone."""

    trust_code: bool = False
    """import the classes that the config.yaml of a run folder names, which is code of whoever wrote it"""


class Configured(OfRuns):
    """A configuration file and the settings that replace its own."""

    config: Annotated[Path, WORD]
    """YAML configuration; configs/runs holds examples"""
    overrides: Annotated[tuple[str, ...], WORD, "key=value"] = ()
    """settings that replace the file's, for example optim.lr=1e-3"""


class CompareRequest(OfRuns):
    """Options of compare."""

    overrides: Annotated[tuple[str, ...], WORD, "CONFIG|key=value"] = ()
    """configurations of methods, such as configs/methods/*.yaml, and settings that replace those of --base, for
    example optim.steps=500; stages.NAME.key=value changes the stage of that name in every method that has it"""
    base: Annotated[Path, "CONFIG"] = Path("configs/methods/flow_matching.yaml")
    """configuration of everything but flow and stages: data, model, optimiser, budget (default:
    configs/methods/flow_matching.yaml, points in the plane)"""
    seeds: int = 3
    """runs of each method (default: 3)"""
    ranks: Annotated[int, "--nproc", "NPROC"] = 1
    """ranks of each run, on this machine (default: 1)"""
    jobs: int = 1
    """runs that are trained at a time, the cores shared among them unless OMP_NUM_THREADS is set; runs at the same
    time slow each other (default: 1)"""
    evaluations: Annotated[str, "N,N,..."] = "1,2,4,8,16,32,100"
    """function evaluations of a sample, with commas between them (default: 1,2,4,8,16,32,100)"""
    num: int = 1000
    """samples of each set (default: 1000)"""
    fabric: Annotated[Path | None, "SCENARIO"] = None
    """scenario of netsim that prices samples: its fabric, transports and seeds; the collectives of a network call
    take the place of its workload (default: configs/scenarios/sampling_64.yaml)"""
    fabric_ranks: Annotated[int, "W"] = 64
    """ranks that draw on that fabric, the experts spread over the greatest common divisor of their number and the ranks
    (default: 64)"""
    fabric_examples: Annotated[int, "N"] = 16
    """samples that each rank of that fabric draws at once (default: 16)"""
    teraflops: Annotated[float, "T"] = 400.0
    """arithmetic that a rank of that fabric sustains, in TFLOP/s (default: 400, of one accelerator in bf16)"""
    out: Annotated[Path, "DIR"] = Path("runs/compare")
    """folder of the page (index.html), the figures (compare.json) and the runs (default: runs/compare)"""


Measure = Literal["class_accuracy", "frechet_distance", "held_out_loss"]


class MixtureRequest(Configured):
    """Options of mixture."""

    sizes: Annotated[str, "N,N"]
    """training examples of small and of large pilots, such as 200,400; the second at least twice the first"""
    target: Annotated[int, "N"]
    """training examples of the run that is planned"""
    measure: Measure = "held_out_loss"
    """figure that pilots are judged by: of samples, drawn by the run's own sampler, or the loss on held-out examples
    (default: held_out_loss)"""
    wanted: Annotated[str | None, "SOURCE"] = None
    """source whose examples pilots are judged by, which may have the share 0 in the configuration and is then not
    mixed (default: all sources as they are)"""
    grid: Annotated[int, "N"] = 5
    """shares of pilots are multiples of 1/N: 21 mixes of three sources with 5 (default: 5)"""
    seeds: int = 1
    """runs of each pilot (default: 1)"""
    ranks: Annotated[int, "--nproc", "NPROC"] = 1
    """ranks of each run, on this machine (default: 1)"""
    jobs: int = 1
    """runs that are trained at a time, the cores shared among them unless OMP_NUM_THREADS is set (default: 1)"""
    num: int = 1000
    """samples that a pilot is measured by (default: 1000)"""
    features: Annotated[Path | None, "FILE"] = None
    """compare examples on the features of the network in this safetensors file; import-features makes one (default:
    values of the examples)"""
    pilots: Annotated[Path, "DIR"] = Path("runs/mixture")
    """folder of the pilots, which are trained once (default: runs/mixture)"""
    out: Annotated[Path, "JSON"]
    """the shares, which train takes as data.shares, and the figures that they were picked by"""
    page: Annotated[Path | None, "HTML"] = None
    """also write a page that needs nothing else: what was measured, what is projected, and how sure that is"""


class GenerateRequest(OfRuns):
    """Options of generate; None leaves what the run has."""

    run_dir: Annotated[Path, WORD]
    """folder of the run"""
    prompt: Annotated[str, "TEXT"] = "def "
    """prompt that the text begins with (default: 'def ')"""
    prompts: Annotated[Path | None, "FILE"] = None
    """a prompt a line, all continued at once (in place of --prompt)"""
    num_tokens: Annotated[int | None, "N"] = None
    """tokens to write after the prompt (default: the run's sample.num_tokens)"""
    num_bytes: Annotated[int | None, "N"] = None
    """bytes to write after the prompt, for a run without a tokenizer, whose tokens are bytes"""
    temperature: Annotated[float | None, "T"] = None
    """0: always the likeliest token, 1: tokens as likely as the network says (default: the run's
    sample.temperature)"""
    seed: int = 0
    """seed of the draws (default: 0)"""
    placement: Annotated[Path | None, "JSON"] = None
    """where the experts live on the ranks (default: as in the run)"""
    record: Annotated[Path | None, "DIR"] = None
    """write the collectives that the ranks issue meanwhile, their placement and the texts to this folder"""
    out: Annotated[Path | None, "FILE"] = None
    """write prompt and text there as they are (default: print them)"""


class TraceRequest(Configured):
    """Options of trace; `sampling` is empty for the run's own sampler, and None where a step of training is written."""

    world_size: Annotated[int, "W"]
    """ranks of the run"""
    ranks_per_node: Annotated[int, "R"] = 8
    """ranks on one node (default: 8)"""
    steps: Annotated[str | None, "N,N"] = None
    """optimiser steps to write (default: 1); of steps that share what a task collects only the first has rollouts,
    such as 1 of 1,2 with task.updates 2"""
    sampling: Annotated[str | None, "SAMPLER", "?"] = None
    """the collectives of drawing instead of those of a training step: by this sampler, as YAML, or by the run's own
    sample.sampler"""
    examples: Annotated[int | None, "N"] = None
    """with --sampling: examples that each data rank draws (default: as many as in a training step's pass)"""
    guidance: Annotated[float | None, "G"] = None
    """with --sampling: scale of classifier-free guidance; any but 0 and 1 doubles the rows of each call (default:
    the run's sample.guidance)"""
    gap_ns: Annotated[int | None, "N", Either("x")] = None
    """compute before each collective in ns (default: unknown)"""
    times: Annotated[Path | None, "JSONL", Either("x")] = None
    """take the mean compute by phase, operation and layer from a recording; rollouts that it lacks take that of
    forward passes, in the ratio of their tokens"""
    work: bool = False
    """say what is computed before each collective, operations and bytes of memory, from which python -m netsim
    compare --device h100 computes how long it takes; version 3 of the format"""
    out: Annotated[Path, "JSONL"]
    """the trace to write"""


PAGE = "report.html"
"""The page, in the run's folder."""
FOUND = {
    "quality": ("quality.json", ""),
    "steps": ("steps.json", ""),
    "drawing": ("drawing", "formula.jsonl"),
    "restored": ("restored", "results.json"),
    "edited": ("edited", "results.json"),
    "placement": ("placement.json", ""),
    "price": ("price", "price.json"),
    "simulation": ("simulation", "results.json"),
    "other_simulation": ("netsim", "results.json"),
    "comparison": ("comparison", "compare.json"),
}
"""Name of each input in a run's folder and, if that is a folder, of a file in it."""


class ReportRequest(OfRuns):
    """Options of report; None: the file of the run's folder by the name in `FOUND`, or nothing."""

    run_dir: Annotated[Path, WORD]
    """folder of the run"""
    quality: Annotated[Path | None, "JSON"] = None
    """what sample --quality wrote (default: quality.json in the run's folder, where there is one)"""
    steps: Annotated[Path | None, "JSON"] = None
    """what steps wrote for this run (default: steps.json in the run's folder, where there is one)"""
    drawing: Annotated[Path | None, "DIR"] = None
    """collectives.jsonl of sample --trace under torchrun, and formula.jsonl of trace --sampling (default: drawing
    in the run's folder, where there is one)"""
    restored: Annotated[Path | None, "DIR"] = None
    """what restore wrote for this run (default: restored in the run's folder, where there is one)"""
    edited: Annotated[Path | None, "DIR"] = None
    """what edit wrote for this run (default: edited in the run's folder, where there is one)"""
    policy: Annotated[Path | None, "DIR"] = None
    """a run that continues this one and learns from a reward (task.base)"""
    placement: Annotated[Path | None, "JSON"] = None
    """what moe place wrote (default: placement.json in the run's folder, where there is one)"""
    routing: Annotated[Path | None, "NPZ"] = None
    """routing trace to measure the placement on (default: the run's own)"""
    unplaced_run: Annotated[Path | None, "DIR"] = None
    """a continuation of the run with its experts where they were (default: the run itself)"""
    placed_run: Annotated[Path | None, "DIR"] = None
    """a continuation of the run under the placement, compared with the former step by step"""
    price: Annotated[Path | None, "DIR"] = None
    """what moe price wrote for this run and the placement (default: price in the run's folder, where there is
    one)"""
    decoding: Annotated[Path | None, "DIR"] = None
    """contiguous/ and placed/, each written by generate --record under torchrun"""
    simulation: Annotated[Path | None, "DIR"] = None
    """what netsim compare wrote for a trace of this run, or a replay of it (default: simulation in the run's
    folder, where there is one)"""
    other_simulation: Annotated[Path | None, "DIR"] = None
    """what netsim compare wrote for other traffic; the page says so (default: netsim in the run's folder, where
    there is one)"""
    comparison: Annotated[Path | None, "DIR"] = None
    """what compare wrote (default: comparison in the run's folder, where there is one)"""
    memory: bool = False
    """also show the memory of a rank, by formula; takes some seconds"""
    out: Annotated[Path | None, "HTML"] = None
    """the page to write (default: report.html in the run's folder)"""

    @property
    def page(self) -> Path:
        """The page to write."""
        return self.out or self.run_dir / PAGE

    def found(self) -> dict[str, Path]:
        """The inputs that are not given and that the run's folder has."""
        places = {name: self.run_dir / place for name, (place, _) in FOUND.items() if getattr(self, name) is None}
        return {name: path for name, path in places.items() if (path / FOUND[name][1]).is_file()}

    def having(self, inputs: dict[str, Path]) -> "ReportRequest":
        """The request with more inputs."""
        return replace(self, **inputs)  # pyright: ignore[reportArgumentType]  the values are paths
