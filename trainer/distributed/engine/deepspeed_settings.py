"""What a run's configuration means in DeepSpeed's own settings."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

from deepspeed.runtime import engine as deepspeed_engine

from trainer.config.layout import Layout
from trainer.config.run import RunConfig
from trainer.config.sections import DeepSpeedConfig

NO_LIMIT = 10**15


def settings_of(config: RunConfig, engine: DeepSpeedConfig, layout: Layout, elements: int) -> dict[str, Any]:
    """Translates a run to DeepSpeed.

    Under bf16 gradients are averaged over the ranks in float32 while the backward pass goes on, and several micro
    batches add up in float32. A single one is kept as it was computed: nothing is added to it. `elements` are of all
    parameters of this rank; a bucket of gradients, which is memory, is never larger.
    """
    bf16 = engine.precision == "bf16"
    bucket = engine.bucket_elements
    return {
        "train_micro_batch_size_per_gpu": layout.micro_batch,
        "gradient_accumulation_steps": layout.accumulation,
        "gradient_clipping": 0.0 if engine.zero_stage == 0 else config.optim.clip_norm or 0.0,
        "bf16": {"enabled": bf16},
        "communication_data_type": "fp32",
        "data_types": {"grad_accum_dtype": "fp32" if layout.accumulation > 1 else None},
        "zero_optimization": {
            "stage": engine.zero_stage,
            "overlap_comm": bf16,
            "reduce_bucket_size": min(bucket, elements),
            "allgather_bucket_size": bucket,
            "stage3_param_persistence_threshold": 0,
            "stage3_prefetch_bucket_size": bucket,
            "stage3_max_reuse_distance": bucket,
            "stage3_max_live_parameters": NO_LIMIT,  # what is fetched ahead and kept is limited by the bucket
        },
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "timers": {"throughput": {"enabled": False}},  # they would wait for the device in every micro batch
    }


@contextmanager
def zero_optimizer_in_every_stage() -> Iterator[None]:
    """Keeps DeepSpeed from taking another optimiser for stage 1 with bf16 weights and float32 sums of gradients.

    That one keeps the whole float32 gradient on every rank, and neither its step nor its state is that of the others.
    """
    engine = deepspeed_engine.DeepSpeedEngine
    of_deepspeed = engine._do_optimizer_sanity_check

    def chosen(initialised: Any, optimizer: Any) -> Any:
        if initialised.zero_optimization():
            return deepspeed_engine.ZERO_OPTIMIZATION
        return of_deepspeed(initialised, optimizer)

    with patch.object(engine, "_do_optimizer_sanity_check", chosen):
        yield
