"""Runs that nothing speaks against, and how some of their settings are changed."""

from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from trainer.config.document import apply_override
from trainer.config.file import resolve
from trainer.config.run import RunConfig
from trainer.data import write_shards
from trainer.data.shard.writer import Examples

RUNS: dict[str, dict[str, Any]] = yaml.safe_load("""
images: {model: {}}
points: {model: {kind: mlp}, data: {kind: toy, held_out: 10}}
parts of paths:
  model: {kind: mlp}
  data: {kind: pairs, path: pairs, held_out: 1, shape: [2], num_classes: 0, digest: "0", segments: 4}
  flow: {coupling: {kind: paired}}
experts:
  model: {hidden: 16, num_layers: 3, num_heads: 4}
  moe: {num_experts: 8, expert_hidden: 16}
  optim: {steps: 1, global_batch: 48}
  parallel: {expert: 2}
text:
  model: {kind: gpt, hidden: 16, num_layers: 3, num_heads: 4, context: 64}
  data: {context: 64}
  moe: {num_experts: 8, expert_hidden: 16}
  optim: {steps: 1, global_batch: 48}
  parallel: {expert: 2}
blockwise:
  model: {kind: blockwise, segments: 3, hidden: 16, num_heads: 2, trunk_layers: 2, segment_layers: 1}
  optim: {steps: 1, global_batch: 12}
  sample: {sampler: {kind: segmented, segments: 3}}
chain:
  data: {kind: toy}
  model: {kind: causal_transition, hidden: 16}
  sample: {kind: points, sampler: {kind: causal_transition, head: {kind: euler, steps: 2}}}
clusters:
  data: {kind: digits}
  model: {kind: prototypes, hidden: 16, num_layers: 1, clusters: 4}
  task: {labels: {neighbours: 3}}
  optim: {steps: 8, global_batch: 8}
captions:
  data: {kind: digits}
  model: {kind: encoded_dit, hidden: 16, num_layers: 1, num_heads: 2}
  flow: {coupling: {kind: encoded}, captions: {path: unused, width: 6, digest: "0"}}
labels in states:
  data: {kind: digits}
  model: {kind: dit, hidden: 16, num_layers: 1, num_heads: 2, label_dropout: 0.0}
  flow: {coupling: {kind: symmetric}}
  sample: {guidance: 1.0}
masks in states:
  data: {kind: shards, held_out: 5}
  model: {kind: dit, hidden: 16, num_layers: 1, num_heads: 2, label_dropout: 0.0}
  flow: {coupling: {kind: symmetric, label: {kind: channels}}}
  sample: {guidance: 1.0}
letters:
  data: {kind: sequences, path: sequences.txt, held_out: 1}
  model: {kind: dit, patch_size: 1, hidden: 16, num_layers: 1, num_heads: 2}
  flow: {path: {kind: gumbel_softmax}, target: {kind: token}, objective: {kind: cross_entropy}}
  sample: {kind: sequences}
reactions: {model: {kind: equivariant}, data: {kind: reactions, held_out: 9}, flow: {coupling: {kind: ends}}}
spread: {model: {}, flow: {objective: {spread: {draws: 2}}}}
map:
  model: {kind: mlp}
  data: {kind: toy, held_out: 10}
  flow: {objective: {kind: monge_map}}
  sample: {sampler: {kind: euler, times: [0, 1]}}
gap:
  model: {kind: mlp}
  data: {kind: toy, held_out: 10}
  flow: {objective: {monge_gap: {weight: 0.5}}}
  sample: {sampler: {kind: euler, times: [0, 1]}}
matching:
  model: {kind: mlp}
  flow: {objective: {kind: velocity_distillation, teacher: {run: runs/teacher}}}
consistency:
  model: {kind: mlp}
  flow: {objective: {kind: consistency_distillation, teacher: {run: runs/teacher}}}
""")


def changed(run: str, changes: str = "") -> RunConfig:
    """A run after overrides, apart by &; its files are in the working folder."""
    document = {"run": {"dir": "unused"}, "optim": {"steps": 1, "global_batch": 8}, **deepcopy(RUNS[run])}
    for change in filter(None, changes.split(" & ")):
        apply_override(Path("run.yaml"), document, change)
    return RunConfig.model_validate(resolve(document).document)


def write_files(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Writes what the runs learn from to a folder, which becomes the working folder."""
    monkeypatch.chdir(folder)
    Path("sequences.txt").write_text("CAG\t5\nGAU\n")
    images = np.zeros((20, 1, 8, 8), np.float32)
    for masks in (0, 1, 2):
        write_shards(Path(f"{masks}_masks"), [Examples(images, None, images.repeat(masks, 1) if masks else None)])
