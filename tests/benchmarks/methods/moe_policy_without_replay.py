"""The trainer, but loss passes of a policy choose their experts anew; started by moe_policy under torchrun."""

import sys

import trainer.task.policy.grpo as policy
from trainer.__main__ import main

policy.replayed = lambda *_: None

if __name__ == "__main__":
    sys.exit(main())
