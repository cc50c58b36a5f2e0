"""Reading a configuration: what it accepts, and the one line with which it refuses."""

from pathlib import Path

import pytest
import yaml

from moe.config import TopKRouterConfig
from netsim.foundation.refusal import Refusal
from tests.each import each, rows
from tests.trainer.data.pictures import digit_pictures
from tests.trainer.data.texts import encoded, stories
from trainer import load_config
from trainer.__main__ import main
from trainer.config.rules.plan import plan_layout
from trainer.config.run import RunConfig
from trainer.config.sample import ImageSample, TextSample
from trainer.data.builtin import PythonSourceConfig
from trainer.flow.sampler import Heun

RUNS = Path(__file__).parents[3] / "configs" / "runs"
MINIMAL = """\
run: {dir: runs/test}
model: {hidden: 16, num_layers: 2, num_heads: 4}
optim: {steps: 10, global_batch: 8}
"""


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    path = tmp_path / "run.yaml"
    path.write_text(MINIMAL)
    return path


def test_overrides_reach_nested_keys_lists_and_null(config_file: Path) -> None:
    config = load_config(
        config_file,
        [
            "optim.lr=1e-3",
            "optim.betas=[0.8, 0.95]",
            "optim.clip_norm=null",
            "optim.micro_batch=",
            "trace.steps=[3, 4]",
            "flow.time={kind: logit_normal, std: 0.5}",
            "flow.time.mean=0.25",
            "sample.sampler.kind=heun",
            "sample.sampler.steps=7",
            "run.dir='runs/with = and: colon'",
            "moe={num_experts: 4, expert_hidden: 8}",
            "moe.top_k=2",
        ],
    )
    assert config.optim.lr == 1e-3
    assert config.optim.betas == (0.8, 0.95)
    assert config.optim.clip_norm is None
    assert config.optim.micro_batch is None
    assert config.trace.steps == (3, 4)
    assert config.flow is not None
    assert config.flow.time.model_dump() == {"kind": "logit_normal", "mean": 0.25, "std": 0.5}
    assert config.sample == ImageSample(sampler=Heun(steps=7))
    assert config.run.dir == Path("runs/with = and: colon")
    assert config.moe is not None
    assert (config.moe.num_experts, config.moe.top_k) == (4, 2)


def test_a_later_override_wins_and_a_section_can_be_taken_away(config_file: Path) -> None:
    config = load_config(config_file, ["optim.steps=5", "moe.num_experts=4", "optim.steps=6", "moe=null"])
    assert config.optim.steps == 6
    assert config.moe is None


def test_without_overrides_the_file_is_as_it_was(config_file: Path) -> None:
    assert load_config(config_file, ["optim.steps=5"]) != load_config(config_file)
    assert load_config(config_file) == load_config(str(config_file))


GPT_MINIMAL = """\
run: {dir: runs/test}
model: {kind: gpt, hidden: 16, num_layers: 2, num_heads: 4}
optim: {steps: 10, global_batch: 8}
"""


@pytest.fixture
def gpt_file(tmp_path: Path) -> Path:
    path = tmp_path / "gpt.yaml"
    path.write_text(GPT_MINIMAL)
    return path


def test_sections_without_a_kind_follow_the_model(config_file: Path, gpt_file: Path) -> None:
    images, text = load_config(config_file), load_config(gpt_file)
    assert (images.model.kind, images.data.kind, images.sample.kind) == ("dit", "digits", "images")
    assert (text.model.kind, text.data.kind, text.sample.kind) == ("gpt", "python_source", "text")
    assert images.flow is not None
    assert text.flow is None
    assert load_config(config_file, ["flow=null"]) == images
    changed = load_config(config_file, ["model={kind: gpt}", "data.context=64", "sample.num_bytes=9"])
    assert (changed.data, changed.sample) == (PythonSourceConfig(context=64), TextSample(num_tokens=9))


BAD_OVERRIDES = """
image | optim.stepz=5 | optim.stepz | 5 | write steps
image | optimiser.steps=5 | optimiser | 5 | write optim
image | flow.time={kind: logit_normal, sigma: 2} | flow.time.sigma | 2 | name
image | sample.sampler={kind: heun, steps: 0} | sample.sampler.steps | 0 | greater
image | flow.time.kind=beta | flow.time.kind | beta | logit_normal
image | flow.context={} | flow.context | kind | give flow.context={kind: inpainting}
image | optim.steps=many | optim.steps | many | integer
image | optim.steps=2.5 | optim.steps | 2.5 | integer
image | optim.lr=[1] | optim.lr | [1] | number
image | trace.steps=5 | trace.steps | 5 | use a list
image | optim=5 | optim | 5 | use settings
image | optim.steps=0 | optim.steps | 0 | greater than 0
image | run.seed=-1 | run.seed | -1 | greater
image | optim.lr=.inf | optim.lr | inf | finite
image | optim.ema_decay=.nan | optim.ema_decay | nan | finite
image | observe.port=65536 | observe.port | 65536 | 65535
image | optim.betas=[0.9, 1.0] | optim.betas.1 | 1.0 | less than 1
image | optim.betas=[0.9] | optim.betas.1 | missing | add it
image | optim.betas=[0.9, 0.9, 0.9] | optim.betas | 3 entries | 2 or fewer
image | engine.zero_stage=4 | engine.zero_stage | 4 | 0, 1, 2 or 3
image | optim.steps= | optim.steps | None | integer
image | run.dir=2024-01-01 | run.dir | 2024 | path
image | run.dir=2024-13-45 | run.dir | 2024-13-45 | quote
image | run.dir=[a | run.dir | [a | quote
image | moe={num_experts: 4, num_experts: 8} | moe | num_experts: 8 | quote
image | optim.steps | optim.steps | not a setting | dotted.key=value
image | =5 | =5 | not a setting | dotted.key=value
image | optim..steps=5 | optim..steps=5 | not a setting | dotted.key=value
image | model.hidden.x=1 | model.hidden.x | 16 | model.hidden=VALUE
image | optim.betas.0=1 | optim.betas | must be a list | use a list
image | model.hidden=60 | model.hidden | 60 | choose 64
image | moe={num_experts: 4, expert_hidden: 8, top_k: 5} | moe.top_k | 5 | choose
image | moe.top_k=1 | moe.num_experts | missing | add it
text | model.kind=rnn | model.kind | rnn | dit, blockwise, blockwise_mlp, gpt, mlp
text | data.kind=digits | data.kind | digits | use python_source
text | data.kind=tokens | data.kind | tokens | python_source
text | sample.kind=images | sample.kind | images | use text
text | flow={} | flow | gpt | remove the section
text | flow.time.kind=uniform | flow | gpt | remove the section
text | model.patch_size=2 | model.patch_size | 2 | name
text | model.label_dropout=0.1 | model.label_dropout | 0.1 | write dropout, or remove it
text | sample.guidance=1.5 | sample.guidance | 1.5 | name
text | data.size=8 | data.size | 8 | name
text | model.hidden=20 | model.hidden | 20 | choose
text | model.num_kv_heads=3 | model.num_kv_heads | 3 | divisor
text | model.num_kv_heads=8 | model.num_kv_heads | 8 | divisor
text | model.context=0 | model.context | 0 | greater than 0
text | model.dropout=1 | model.dropout | 1 | less than 1
text | data.held_out=256 | data.held_out | 256 | at least 257
text | data.max_bytes=100 | data.max_bytes | 100 | at least 257
text | data.context=0 | data.context | 0 | greater than 0
text | sample.prompts=[] | sample.prompts | no entries | 1 or more
text | sample.prompts=[def, ''] | sample.prompts.1 | '' | at least 1
text | sample.prompts=def | sample.prompts | def | use a list
text | sample.prompts=[1] | sample.prompts.0 | 1 | string
text | sample.num_bytes=0 | sample.num_bytes | 0 | greater than 0
text | sample.temperature=-1 | sample.temperature | -1 | greater
text | sample.temperature=.nan | sample.temperature | nan | finite
image | data.kind=python_source | data.kind | use digits
image | sample.kind=text | sample.kind | use images
image | model.context=64 | model.context | name
"""
"""What a run is of, an override, the field that is named, and what is said of it."""


@pytest.mark.parametrize("kind", ["image", "text"])
def test_a_wrong_override_is_refused(config_file: Path, gpt_file: Path, kind: str) -> None:
    path = config_file if kind == "image" else gpt_file
    for of, override, field, *said in rows(BAD_OVERRIDES):
        if of == kind:
            message = refusal(path, override)
            assert message.startswith(f"{path}: {field}: "), override
            assert all(part in message for part in said), override
            assert message.count("; ") == 1, override


SAMPLERS = (
    "euler, heun, dopri5, first_order, euler_maruyama, stochastic_heun, renoise, segmented, transition, "
    "causal_transition"
)
MISTAKES = {
    "sample.sampler.kind=eulr": f"sample.sampler.kind: 'eulr' is not one of {SAMPLERS}; use euler",
    "sample.sampler.kind=9": f"sample.sampler.kind: '9' is not one of {SAMPLERS}; use one of them",
    "flow.coupling={kind: gibbs_weighted, epsilon: nan}": (
        "flow.coupling.epsilon: must be greater than 0 ('nan'); use a number above 0, or auto"
    ),
    "flow.context={a: 1}": "flow.context: has no kind ({'a': 1}); give flow.context={kind: inpainting, a: ...}",
    "flow.couplng={}": "flow.couplng: is not a known key ({}); write coupling, or remove it",
    "flow.path.sigmamin=1": "flow.path.sigmamin: is not a known key (1); write sigma_min, or remove it",
    "flow.time={kind: clipped, margin: 0.5}": ("flow.time.margin: must be less than 0.5 (0.5); use a number below 0.5"),
    "optim.nonsense=1": "optim.nonsense: is not a known key (1); correct its name or remove it",
    "optim.steps=0": "optim.steps: must be greater than 0 (0); use 1 or more",
    "optim.lr=0": "optim.lr: must be greater than 0 (0); use a number above 0",
    "run.seed=-1": "run.seed: must be greater than or equal to 0 (-1); use 0 or more",
    "run.resume=nevr": "run.resume: must be 'auto' or 'never' ('nevr'); use never",
    "evaluate=7": "evaluate: is not a section (7); use settings, such as {key: value}",
    f"model.hidden={2**64}": "model.hidden: the number has more than 64 bits; write a smaller one",
    "stages=[]": "stages: cannot be replaced as a whole; write them in the file; stages.NAME.key=value changes one",
}


@each("override", MISTAKES)
def test_a_mistake_is_told_with_what_to_write_instead(override: str) -> None:
    assert refusal(RUNS / "toy.yaml", override) == f"{RUNS / 'toy.yaml'}: {MISTAKES[override]}"


@each("section", ["model", "data", "sample", "engine", "flow.path", "flow.coupling", "sample.sampler"])
@each("kind", ["[mlp]", "{a: mlp}", "3", "true", "[[]]"])
def test_a_kind_that_is_no_text_is_refused_with_the_section(section: str, kind: str) -> None:
    complaint = refusal(RUNS / "toy.yaml", f"{section}.kind={kind}")
    assert complaint.startswith(f"{RUNS / 'toy.yaml'}: {section}")
    assert "; " in complaint


@each(
    ("config", "override"),
    [
        ("runs/toy.yaml", "run.dir={}"),
        ("runs/toy.yaml", "model.init_from={}"),
        ("methods/rectified_flow.yaml", "run.dir={}"),
        ("methods/rectified_flow.yaml", "stages.pairs.run={}"),
    ],
)
@each("name", ["x" * 300, "a/" * 3000])
def test_a_folder_that_no_file_system_holds_is_refused(
    config: str, override: str, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", str(RUNS.parent / config), override.format(name)]) == 2
    error = capsys.readouterr().err
    assert error.endswith("checkpoints: folder: its name is too long; give a shorter one\n")
    assert error.count("\n") == 1


@each(
    ("given", "meant"),
    [
        ("flow.path.sigma_min=0.01", "flow.path={kind: linear, sigma_min: 0.01}"),
        ("flow.objective.error={}", "flow.objective={kind: regression, error: {kind: squared}}"),
        ("flow.time={kind: clipped, within: {}}", "flow.time={kind: clipped, within: {kind: uniform}}"),
        ("sample={sampler: {}}", "sample={kind: points, sampler: {kind: heun, steps: 20}}"),
        ("engine={zero_stage: 2}", "engine={kind: deepspeed, zero_stage: 2}"),
    ],
)
def test_settings_without_a_kind_are_of_the_default_kind(given: str, meant: str) -> None:
    assert load_config(RUNS / "toy.yaml", [given]) == load_config(RUNS / "toy.yaml", [meant])


def test_the_default_router_is_meant_where_a_router_has_no_kind() -> None:
    config = load_config(RUNS / "digits_moe.yaml", ["moe.router={capacity_factor: 2.0}"])
    assert config.moe is not None
    assert config.moe.router == TopKRouterConfig(capacity_factor=2.0)


BAD_FILES = {
    "empty": ("", "document", "is empty", "sections"),
    "comment only": ("# nothing\n", "document", "is empty", "sections"),
    "a list": ("- run\n- model\n", "document", "list", "sections"),
    "a word": ("run\n", "document", "single value", "sections"),
    "not YAML": ("run: {dir: a\noptim: 3\n", "line 2", "not YAML", "syntax"),
    "tab": ("run:\n\tdir: a\n", "line 2", "not YAML", "syntax"),
    "object": ("run: !!python/object:os.system {}\n", "line 1", "not YAML", "syntax"),
    "control character": ("run: \x01\n", "document", "not YAML", "syntax"),
    "impossible date": ("run: {dir: 2024-13-45}\n", "document", "date", "quote"),
    "key twice": (MINIMAL + "optim: {steps: 5, global_batch: 8}\n", "line 4", "optim is written twice", "syntax"),
    "inner key twice": (
        MINIMAL.replace("steps: 10", "steps: 10, steps: 20"),
        "line 3",
        "steps is written twice",
        "syntax",
    ),
    "section missing": (MINIMAL.replace("optim", "optimizer"), "optim", "missing (also wrong: optimizer)", "add it"),
    "no model": (MINIMAL.replace("model:", "flow: null\nnetwork:"), "model", "missing (also wrong: network)", "add it"),
    "a word for a model": ("model: gpt\n" + MINIMAL.replace("model: ", "network: "), "model", "gpt", "{key: value}"),
    "key missing": (MINIMAL.replace("steps: 10, ", ""), "optim.steps", "missing", "add it"),
    "list as a key": (MINIMAL + "[1, 2]: 3\n", "line 4", "unhashable", "syntax"),
}


@each("case", BAD_FILES)
def test_a_wrong_file_is_refused(tmp_path: Path, case: str) -> None:
    text, field, problem, remedy = BAD_FILES[case]
    path = tmp_path / "run.yaml"
    path.write_text(text)
    message = refusal(path)
    assert message.startswith(f"{path}: {field}: ")
    assert problem in message
    assert remedy in message


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "latin.yaml").write_bytes(b"run: {dir: caf\xe9}\n")
    for path, problem in (
        (tmp_path / "none.yaml", "No such file"),
        (tmp_path, "directory"),
        (tmp_path / "latin.yaml", "UTF-8"),
    ):
        message = refusal(path)
        assert message.startswith(f"{path}: file: ")
        assert problem in message
        assert "configs/runs" in message


def test_the_resolved_configuration_reads_back_as_itself(tmp_path: Path, config_file: Path) -> None:
    configs = [load_config(path, own_data(path, tmp_path)) for path in sorted(RUNS.glob("*.yaml"))]
    odd = ["run.dir='1e3'", "optim.lr=1e-05", "trace.steps=[1]", "model.init_from=null", "sample.sampler.kind=dopri5"]
    configs.append(load_config(config_file, odd))
    configs.append(load_config(config_file, ["model={kind: gpt}", "sample.prompts=['\"a: b\\n', '1e3']"]))
    for config in configs:
        path = tmp_path / "resolved.yaml"
        path.write_text(config.to_yaml())
        again = load_config(path)
        assert again == config
        assert again.to_yaml() == config.to_yaml()
        assert yaml.safe_load(config.to_yaml()).keys() == RunConfig.model_fields.keys()


WORLD_SIZES = {
    "digits_mixture.yaml": 2,
    "digits_moe.yaml": 2,
    "dit_moe_64.yaml": 64,
    "gpt_moe_512.yaml": 512,
    "gpt_moe.yaml": 2,
    "gpt_text.yaml": 2,
    "pictures.yaml": 1,
    "toy.yaml": 1,
    "digits_autoencoder.yaml": 1,
}


@each("path", sorted(RUNS.glob("*.yaml")), ids=lambda path: path.name)
def test_the_runs_that_we_ship_fit_their_ranks(path: Path, tmp_path: Path) -> None:
    config = load_config(path, own_data(path, tmp_path))
    layout = plan_layout(config, WORLD_SIZES[path.name])
    assert layout.world_size == WORLD_SIZES[path.name]
    assert layout.world_size % layout.expert_parallel == 0
    assert layout.micro_batch * layout.accumulation * layout.world_size == config.optim.global_batch


def own_data(path: Path, folder: Path) -> list[str]:
    """Overrides of a configuration that learns from a user's text or pictures, which are made here."""
    if path.name == "pictures.yaml":
        return [f"data.path={digit_pictures(folder / 'pictures')}"]
    if path.name != "gpt_text.yaml":
        return []
    return [f"data.path={encoded(folder / 'text', stories(folder / 'stories'))}"]


def refusal(path: Path, *overrides: str) -> str:
    with pytest.raises(Refusal) as caught:
        load_config(path, overrides)
    return str(caught.value)
