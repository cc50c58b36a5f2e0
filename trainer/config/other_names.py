"""What other trainers call the settings of a run, for a refusal that names ours."""

from collections.abc import Mapping

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
