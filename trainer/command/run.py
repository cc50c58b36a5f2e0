"""train, check and keys: a run, a look at its configuration, and the keys of one."""

import json
from typing import Annotated, Any

from netsim.foundation.command import WORD, Request
from trainer.command.options import SHOW_RUN, verb
from trainer.experiment.request.verbs import Configured


class Train(Configured):
    """Options of train."""

    verify_data: bool = False
    """compare the whole content of the data, not a sample, with an earlier start that did (run.verify_data)"""
    stage: Annotated[str | None, "NAME"] = None
    """run only this stage of the configuration (default: all)"""
    overwrite: bool = False
    """write to the run's folder even if it holds what another verb wrote"""


@verb(
    "train",
    "train a run, or resume it from its newest complete checkpoint",
    "torchrun --nproc-per-node 2 -m trainer train configs/runs/digits_moe.yaml optim.steps=200 run.dir=runs/a",
    Train,
    "Stages run one after the other, each in its own folder below run.dir; those that are finished are skipped.",
    following=SHOW_RUN,
)
def train(options: Train) -> int:
    from trainer.experiment.train import run

    overrides = [*options.overrides, *(["run.verify_data=true"] if options.verify_data else [])]
    return run(options.config, overrides, options.stage, overwrite=options.overwrite)


class Check(Configured):
    """Options of check."""

    world_size: Annotated[int, "W"] = 1
    """ranks of the run (default: 1)"""
    fit: Annotated[str | None, "SIZE"] = None
    """propose the cheapest settings with which a rank fits into this memory, such as 80GB"""
    all: bool = False
    """also print every setting, defaults included, and every collective of a step"""


@verb(
    "check",
    "validate a configuration without starting anything: layout, parameters, memory, bytes per step, exports",
    "python -m trainer check configs/runs/digits_moe.yaml --world-size 2",
    Check,
)
def check(options: Check) -> int:
    from trainer.experiment.check import run

    return run(options.config, options.overrides, options.world_size, options.fit, whole=options.all)


class Keys(Request):
    """Options of keys."""

    prefix: Annotated[str | None, WORD, "PREFIX"] = None
    """show only the keys that begin so, with all that is said of each: optim, flow.path, data.shards (the keys of
    one kind of data), restore or edit (those of a request of that verb)"""


@verb(
    "keys",
    "list every key of a run configuration: what it takes, its default, its unit and what it means",
    "python -m trainer keys optim",
    Keys,
    "One line a key where the output is piped, for grep. The same is on the page configs/README.md; editors complete "
    "keys from configs/schemas/run.schema.json, which the first line of each file in configs names.",
    following="python -m trainer check configs/runs/digits_moe.yaml --world-size 2",
)
def keys(options: Keys) -> int:
    from netsim.foundation.reference import matching, print_groups

    verb, _, rest = (options.prefix or "").partition(".")
    if verb in ("restore", "edit"):
        print_groups(matching(_schema(verb), rest or None, f"a request of {verb}"), whole=bool(rest))
    else:
        groups = matching(_schema("run"), options.prefix, "a run configuration")
        print_groups(groups, whole=options.prefix is not None)
    return 0


def _schema(name: str) -> dict[str, Any]:
    """The JSON Schema of a document: from its file, which needs no torch, or else from the sections."""
    from netsim.foundation.shipped import SHIPPED

    try:
        return json.loads((SHIPPED / f"schemas/{name}.schema.json").read_text(encoding="utf-8"))
    except OSError:
        from trainer.experiment.schema import request_schema, run_schema

        return run_schema() if name == "run" else request_schema(name)
