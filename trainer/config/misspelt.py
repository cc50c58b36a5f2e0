"""Keys and kinds that no configuration of a run has, refused before the parts of a run are imported.

The parts bring torch, which takes seconds. The schema, from which editors complete, is read in milliseconds. It knows
less than the models, which may refuse what passes here.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from netsim.foundation.complaint import also_wrong, of_unknown_key, unknown_key, unknown_kind
from netsim.foundation.refusal import Refusal, nearest
from netsim.foundation.shipped import SHIPPED
from trainer.config.document import apply_override, check_is_of_a_run, read_document

_OURS: dict[str, str] = {
    "run.dir": "dir output_dir out_dir save_dir log_dir logging_dir work_dir checkpoint_dir default_root_dir",
    "run.seed": "seed random_seed manual_seed",
    "run.resume": "resume resume_from resume_from_checkpoint",
    "data.path": "data_dir data_path dataset dataset_path dataset_name train_data train_data_dir root",
    "data.size": "image_size resolution img_size",
    "data_loading.workers": "num_workers dataloader_num_workers",
    "model.hidden": "hidden_size hidden_dim d_model n_embd embed_dim dim width",
    "model.num_layers": "depth n_layer n_layers num_hidden_layers num_blocks layers",
    "model.num_heads": "heads n_head n_heads num_attention_heads",
    "model.patch_size": "patch",
    "model.label_dropout": "class_dropout_prob cfg_dropout cond_drop_prob uncond_prob",
    "model.init_from": "pretrained pretrained_model_name_or_path init_checkpoint load_from",
    "moe.num_experts": "experts n_experts num_local_experts n_routed_experts",
    "moe.top_k": "num_experts_per_tok experts_per_token moe_top_k",
    "moe.expert_hidden": "moe_intermediate_size ffn_hidden_size moe_ffn_hidden_size",
    "optim.lr": "lr learning_rate base_lr max_lr peak_lr",
    "optim.final_lr": "min_lr eta_min lr_end",
    "optim.warmup_steps": "warmup warmup_iters lr_warmup_steps lr_warmup_iters num_warmup_steps",
    "optim.steps": "steps max_steps max_iters num_steps total_steps train_steps train_iters num_train_steps "
    "max_train_steps iterations",
    "optim.global_batch": "batch_size batch global_batch_size train_batch_size total_batch_size",
    "optim.micro_batch": "micro_batch_size per_device_train_batch_size train_micro_batch_size_per_gpu "
    "batch_size_per_gpu device_batch_size",
    "optim.betas": "adam_betas",
    "optim.weight_decay": "wd decay",
    "optim.clip_norm": "grad_clip gradient_clip gradient_clipping gradient_clip_val max_grad_norm clip_grad "
    "clip_grad_norm",
    "optim.ema_decay": "ema ema_rate ema_momentum use_ema",
    "engine.precision": "precision dtype mixed_precision bf16 fp16 amp",
    "engine.activation_checkpointing": "gradient_checkpointing recompute recompute_granularity",
    "engine.zero_stage": "zero stage zero_optimization",
    "engine.compile": "torch_compile compile_model",
    "parallel.expert": "expert_parallel ep expert_model_parallel_size expert_parallel_degree",
    "parallel.tensor": "tensor_parallel tp tensor_model_parallel_size tensor_parallel_degree",
    "checkpoint.every": "save_steps save_every save_interval save_freq checkpoint_every checkpoint_interval ckpt_every "
    "checkpointing_steps",
    "checkpoint.keep": "save_total_limit keep_last max_checkpoints checkpoints_total_limit",
    "evaluate.every": "eval_steps eval_every eval_interval eval_freq val_check_interval validation_steps",
    "sample.every": "sample_interval sample_steps sample_freq",
    "sample.guidance": "guidance_scale cfg_scale cfg",
    "observe.log_every": "log_every log_interval log_freq logging_steps log_every_n_steps",
    "observe.wandb": "wandb_project report_to",
}

OTHER_NAMES: Mapping[str, str] = {
    **{other: f"write {ours}" for ours, others in _OURS.items() for other in others.split()},
    **dict.fromkeys(
        ("epochs", "num_epochs", "max_epochs", "n_epochs", "num_train_epochs"),
        "write optim.steps, which is epochs x examples / optim.global_batch",
    ),
    **dict.fromkeys(
        ("gradient_accumulation_steps", "accumulate_grad_batches", "grad_accum", "accumulation_steps"),
        "write optim.micro_batch, which is optim.global_batch / (ranks x accumulated passes)",
    ),
    **dict.fromkeys(("adam_beta1", "adam_beta2", "beta1", "beta2"), "write optim.betas=[B1,B2]"),
}
"""What to do about a key of another trainer."""


Node = dict[str, Any]
Place = tuple[int | str, ...]

SCHEMA = SHIPPED / "schemas" / "run.schema.json"


def check_names(path: Path, overrides: Sequence[str]) -> None:
    """Refuses an unknown key or kind in the words of the models; overrides of stages are left for later."""
    document = read_document(path)
    for override in overrides:
        if not override.startswith("stages."):
            apply_override(path, document, override)
    check_is_of_a_run(path, document)
    document.pop("stages", None)
    if not SCHEMA.exists():  # the packages were copied without configs; the models check alone
        return
    schema = json.loads(SCHEMA.read_text(encoding="utf-8"))
    misspelt = list(_Walk(schema["$defs"]).misspelt(document, [schema], ()))
    if not misspelt:
        return
    (place, problem, remedy), *others = misspelt
    further = {other: False for other, *_ in others if place[: len(other)] != other}
    raise Refusal(path, ".".join(map(str, place)), f"{problem} ({also_wrong(further)})" if further else problem, remedy)


class _Walk:
    def __init__(self, definitions: Node) -> None:
        self._definitions = definitions

    def misspelt(self, value: Any, nodes: Sequence[Node], place: Place) -> Iterator[tuple[Place, str, str]]:
        """Yields place, problem and remedy of each unknown key or kind in a value, which may match any of the nodes."""
        if isinstance(value, list):
            items = [node["items"] for node in map(self._resolved, nodes) if "items" in node]
            for number, inner in enumerate(value):
                yield from self.misspelt(inner, items, (*place, number))
        if not isinstance(value, dict):
            return
        sections = [section for node in nodes for section in self._sections(node, value)]
        kinds = [kind for section in sections for kind in section.get("unknown_kind_of", ())]
        if kinds and not any("properties" in section for section in sections):
            near = nearest(value["kind"], kinds)
            yield (*place, "kind"), unknown_kind(value["kind"], kinds), f"use {near}" if near else "use one of them"
        if not sections or any(
            section.get("additionalProperties") is not False or "patternProperties" in section for section in sections
        ):
            return
        known: dict[str, list[Node]] = {}
        for section in sections:
            for key, node in section["properties"].items():
                known.setdefault(key, []).append(node)
        for key in known:
            if key in value:
                yield from self.misspelt(value[key], known[key], (*place, key))
        current = [key for key, meanings in known.items() if not any("deprecated" in node for node in meanings)]
        for key in value:
            if key not in known:
                yield (*place, key), unknown_key(value[key]), of_unknown_key(key, current, OTHER_NAMES)

    def _sections(self, node: Node, value: Node) -> Iterator[Node]:
        """Yields a node's schema sections that fit a value's kind; one without `additionalProperties` takes any key."""
        node = self._resolved(node)
        if "x-class" in node:
            yield from [{}] if "class" in value else self._sections(node["else"], value)
        elif "discriminator" in node:
            places: dict[str, str] = node["discriminator"]["mapping"]
            kind = value.get("kind")
            if isinstance(kind, str) and kind not in places:
                yield {"unknown_kind_of": node["properties"]["kind"]["enum"]}
            else:
                fitting = [places[kind]] if isinstance(kind, str) else dict.fromkeys(places.values())
                yield from (self._resolved({"$ref": place}) for place in fitting)
        elif "anyOf" in node:
            for branch in node["anyOf"]:
                yield from self._sections(branch, value)
        elif node.get("type") == "object":
            yield node

    def _resolved(self, node: Node) -> Node:
        while "$ref" in node:
            at: Any = self._definitions
            for part in node["$ref"].removeprefix("#/$defs/").split("/"):
                at = at[part]
            node = at
        return node
