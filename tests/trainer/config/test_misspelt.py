"""Unknown keys and kinds: the schema refuses them in the words of the models, without torch, and nothing else."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from netsim.foundation.keys import groups
from netsim.foundation.refusal import Refusal
from tests.each import each
from trainer.config.document import apply_override, read_document
from trainer.config.file import validated
from trainer.config.misspelt import OTHER_NAMES, SCHEMA, check_names
from trainer.experiment.schema import run_schema

ROOT = Path(__file__).parents[3]
RUN = {
    "run": {"dir": "out"},
    "model": {"kind": "mlp", "hidden": 8},
    "data": {"kind": "toy"},
    "flow": {},
    "optim": {"steps": 2, "global_batch": 4},
}
TYPOS = {
    "optim.stpes=5": "write steps",
    "optm.lr=1": "write optim",
    "optim.learning_rate=1e-3": "write optim.lr, or",
    "optim.Batch-Size=4": "write optim.global_batch, or",
    "batch_size=4": "write optim.global_batch, or",
    "optim.epochs=3": "write optim.steps, which is epochs x examples / optim.global_batch, or",
    "engine.gradient_accumulation_steps=3": "write optim.micro_batch, which",
    "output_dir=runs/a": "write run.dir, or",
    "model.kind=mpl": "use mlp",
    "model.hiden=3": "write hidden",
    "flow.path={kind: linaer}": "use linear",
    "flow.coupling={kind: minibatch_ot, blurr: 1}": "correct its name",
    "engine={kind: fsdp, zero_stage: 2}": "correct its name or",
    "guard.spike_factr=3": "write spike_factor",
    "sample.sampler={kind: euler, stesp: 3}": "write steps",
    "flow.time={kind: clipped, margn: 0.1}": "write margin",
    "moe={num_experts: 4, experts_per_token: 2, expert_hidden: 8}": "write moe.top_k, or",
}


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "my.yaml"
    path.write_text(yaml.safe_dump(RUN))
    return path


def test_packages_copied_without_configs_leave_it_to_the_models(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainer.config.misspelt.SCHEMA", tmp_path / "schemas" / "run.schema.json")
    check_names(config, ["optim.stpes=5"])


@pytest.mark.parametrize("override", TYPOS)
def test_the_schema_refuses_in_the_words_of_the_models(override: str, config: Path) -> None:
    with pytest.raises(Refusal) as by_schema:
        check_names(config, [override])
    document = read_document(config)
    apply_override(config, document, override)
    with pytest.raises(Refusal) as by_models:
        validated(config, document)
    assert by_schema.value.remedy.startswith(TYPOS[override])
    assert (by_schema.value.field, by_schema.value.remedy) == (by_models.value.field, by_models.value.remedy)
    assert by_models.value.problem.startswith(by_schema.value.problem)


def test_several_typos_are_named_at_once(config: Path) -> None:
    with pytest.raises(
        Refusal, match=r"optim.stpes: .* \(also wrong: run.sed\)|run.sed: .* \(also wrong: optim.stpes\)"
    ):
        check_names(config, ["optim.stpes=5", "run.sed=5"])


@each("path", sorted((ROOT / "configs").glob("[rme]*s/*.yaml")), ids=lambda path: path.stem)
def test_what_comes_with_the_package_passes(path: Path) -> None:
    if "run.schema.json" in path.read_text():
        check_names(path, [])


@pytest.mark.parametrize(
    "override",
    [
        "optim.rates={routing: 3}",
        "optim.lr=fast",
        "optim=5",
        "model={class: my:Net, anything: 3}",
        "data={kind: mixture, sources: {a: {kind: toy}}}",
        "sample={kind: text, num_bytes: 3}",
        "stages.a.optim.stpes=3",
    ],
)
def test_what_the_schema_does_not_know_is_left_to_the_models(override: str, config: Path) -> None:
    check_names(config, [override])


def test_other_names_stand_for_keys_that_there_are() -> None:
    keys = {key.name for group in groups(run_schema()) for key in group.keys}
    named = {text.removeprefix("write ").partition(",")[0].partition("=")[0] for text in OTHER_NAMES.values()}
    assert named <= keys


def test_a_typo_is_answered_without_torch(config: Path) -> None:
    program = (
        "import sys, trainer.__main__ as main; code = main.main(sys.argv[1:]); "
        "print(code, *sorted({'torch', 'scipy', 'numpy'} & sys.modules.keys()))"
    )
    command = [sys.executable, "-c", program, "train", str(config), "optim.stpes=5"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    assert result.stdout == "2\n"
    assert result.stderr == f"trainer train: {config}: optim.stpes: is not a known key (5); write steps, or remove it\n"


def test_a_package_has_the_schema() -> None:
    assert SCHEMA.is_file()
