"""Averages for exchange that are too large for one file: written in parts by several ranks, read by every reader."""

import json
import math
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from netsim.foundation.refusal import Refusal
from tests.each import each
from tests.fuzz import sound_files
from tests.ranks import run_ranks
from tests.trainer.checkpoint.test_redivision import SHAPES, save, values
from trainer.__main__ import main
from trainer.checkpoint import writers
from trainer.checkpoint.intact import newest_checkpoint, weights_file
from trainer.checkpoint.manifest import Manifest, records
from trainer.checkpoint.storage import SavedState
from trainer.checkpoint.writers import write_averages
from trainer.model.values import check_weights
from trainer.model.weight_files import belongs_to, files_of, index_of, open_weights, part_of
from trainer.sampling.trained import Reference

ELEMENTS = sum(map(math.prod, SHAPES.values()))


@each("num_ranks", [1, 2, 5])
@each("part_bytes", [4 * ELEMENTS, 150, 4])
def test_ranks_write_the_parts(
    tmp_path: Path, num_ranks: int, part_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writers, "PART_BYTES", part_bytes)
    save(tmp_path / "state", "runs", 3)
    by_rank = [write_averages(tmp_path, ELEMENTS, 7, rank, num_ranks) for rank in range(num_ranks)]
    written = {name: record for of_rank in by_rank for name, record in of_rank.items()}
    assert len(written) == sum(map(len, by_rank))
    assert written == records(tmp_path, [path for path in tmp_path.iterdir() if path.is_file()])
    assert all(belongs_to(name, "ema.safetensors") for name in written)
    if part_bytes == 4 * ELEMENTS:
        assert by_rank[0].keys() == {"ema.safetensors"} == written.keys()
        parts = [load_file(tmp_path / "ema.safetensors")]
    else:
        index = json.loads((tmp_path / "ema.safetensors.index.json").read_text())
        assert index["metadata"] == {"total_size": 4 * ELEMENTS}
        names = sorted({*index["weight_map"].values()})
        assert names == [f"ema-{i + 1:05d}-of-{len(names):05d}.safetensors" for i in range(len(names))]
        assert len(names) > 1
        assert written.keys() == {*names, "ema.safetensors.index.json"}
        parts = [load_file(tmp_path / name) for name in names]
        assert all(index["weight_map"][name] == file for file, part in zip(names, parts, strict=True) for name in part)
        if part_bytes > 4:
            assert [bool(of_rank) for of_rank in by_rank[:2]] == [True] * min(2, num_ranks), "they write by turns"
        most = part_bytes + 4 * max(map(math.prod, SHAPES.values()))
        assert all(4 * sum(tensor.numel() for tensor in part.values()) <= most for part in parts)
    found = {name: tensor for part in parts for name, tensor in part.items()}
    assert sum(map(len, parts)) == len(found)
    assert found.keys() == SHAPES.keys()
    assert all(torch.equal(tensor, values(name, "ema")) for name, tensor in found.items())


def divided(weights: Path) -> None:
    """Puts weights into three parts."""
    whole = load_file(weights)
    parts = {part_of(weights.name, number, 3): sorted(whole)[number::3] for number in range(3)}
    for file, names in parts.items():
        save_file({name: whole[name] for name in names}, weights.with_name(file))
    weight_map = {name: file for file, names in parts.items() for name in names}
    index_of(weights).write_text(json.dumps({"metadata": {"total_size": 0}, "weight_map": weight_map}))
    weights.unlink()


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folder of a run whose averages are in parts; the configuration is beside it."""
    monkeypatch.chdir(tmp_path)
    Path("toy.yaml").write_text(sound_files.TOY)
    for name in ("whole", "run"):
        folder = sound_files.checkpoint(Path(name), Path("toy.yaml"))
        weights = folder / "ema.safetensors"
        noise = torch.Generator().manual_seed(0)
        tensors = {key: torch.randn(value.shape, generator=noise) for key, value in sorted(load_file(weights).items())}
        save_file(tensors, weights)
        if name == "run":
            divided(weights)
        (folder / "COMPLETE").unlink()
        sound_files.seal(folder)
    return Path("run")


def test_every_reader_takes_the_parts(run: Path) -> None:
    folder = newest_checkpoint(run)
    expected = load_file(Path("whole") / "checkpoints" / folder.name / "ema.safetensors")
    weights = weights_file(run)
    assert weights == folder / "ema.safetensors"
    assert len(files_of(weights)) == 4
    shapes = {name: tuple(tensor.shape) for name, tensor in expected.items()}
    for path in (weights, index_of(weights)):
        check_weights(path, shapes)
        with open_weights(path) as opened:
            assert {*opened.names} == expected.keys()
            assert all(torch.equal(opened.tensor(name), tensor) for name, tensor in expected.items())
    assert Reference(folder).digest == Manifest.read(folder).weights_sha256()
    for name in ("run", "whole"):
        assert main(["sample", name, "--num", "16", "--out", f"{name}.png"]) == 0
    assert Path("run.png").read_bytes() == Path("whole.png").read_bytes()
    for start in (run, weights, index_of(weights)):
        assert main(["check", "toy.yaml", "run.dir=other", f"model.init_from={start}"]) == 0


def test_an_export_is_in_parts_and_says_how_to_load_them(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = load_file(Path("whole") / "checkpoints" / newest_checkpoint(run).name / "ema.safetensors")
    assert main(["export", str(run), "--out", "exported"]) == 0
    names = {path.name for path in Path("exported").iterdir()}
    parts = {f"model-{number:05d}-of-00003.safetensors" for number in (1, 2, 3)}
    assert names == parts | {"model.safetensors.index.json", "config.yaml", "README.md"}
    assert main(["check", "toy.yaml", "run.dir=other", "model.init_from=exported/model.safetensors"]) == 0
    (snippet,) = re.findall(r"```python\n(.*?)```", Path("exported", "README.md").read_text(), re.DOTALL)
    monkeypatch.chdir("exported")
    found: dict[str, dict[str, torch.Tensor]] = {}
    exec(snippet, found)
    assert found["weights"].keys() == expected.keys()
    assert all(torch.equal(found["weights"][name], tensor) for name, tensor in expected.items())


def test_damage_to_a_part_is_found(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    part = sorted(newest_checkpoint(run).glob("ema-*"))[1]
    digest = Manifest.read(part.parent).weights_sha256()
    content = part.read_bytes()
    part.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(Refusal, match=rf"{part.name}: checksum: "):
        newest_checkpoint(run)
    (part.parent / "COMPLETE").unlink()
    sound_files.seal(part.parent)
    assert Manifest.read(part.parent).weights_sha256() != digest
    part.unlink()
    assert main(
        ["check", "toy.yaml", "run.dir=other", f"model.init_from={index_of(part.with_name('ema.safetensors'))}"]
    )
    assert "cannot be read" in capsys.readouterr().err
    save_file({"another": torch.zeros(1)}, part)
    with pytest.raises(Refusal, match=rf"{part.name}: .*: is missing, though ema.safetensors.index.json names it"):
        check_weights(part.with_name("ema.safetensors"), {})


def saved(rank: int, world_size: int, root: Path) -> list[Path | str]:
    """A checkpoint of two ranks whose averages are in parts; what the ranks go on from, before and after damage."""
    import torch.distributed as dist

    from tests.trainer.training.migration.migrated import Run, configuration
    from trainer.checkpoint.intact import newest_intact_collective
    from trainer.distributed.groups import divide_ranks

    writers.PART_BYTES = 5000
    config = configuration(zero_stage=1)
    divide_ranks(config.parallel.expert, 1)
    run = Run(config, world_size)
    run.step(1)
    folder = run.save(root, 1)
    found: list[Path | str] = [newest_intact_collective(root, allow_rng_loss=False) or "none"]
    dist.barrier()
    if rank == 0:
        (part,) = folder.glob("ema-00002-of-*")
        content = bytearray(part.read_bytes())
        (root / part.name).write_bytes(content)
        content[-1] ^= 1
        part.write_bytes(content)
    dist.barrier()
    try:
        newest_intact_collective(root, allow_rng_loss=False)
    except Refusal as error:
        found.append(str(error))
    return found


def test_a_run_saves_parts(tmp_path: Path) -> None:
    folder = tmp_path / "step_00000001"
    found = run_ranks(saved, 2, tmp_path)
    (part,) = tmp_path.glob("ema-00002-of-*")
    for intact, complaint in found:
        assert intact == folder
        assert f"{part.name}: checksum: " in str(complaint)
    part.replace(folder / part.name)
    state = SavedState(folder / "state").of_kind("ema")
    with open_weights(folder / "ema.safetensors") as weights:
        assert weights.names == list(state)
        assert all(torch.equal(weights.tensor(name), tensor.values()) for name, tensor in state.items())
    count = len([*folder.glob("ema-*")])
    assert part.name == f"ema-00002-of-{count:05d}.safetensors"
    assert f"the {count} files that `ema.safetensors.index.json` names" in (folder / "README.md").read_text()
    assert not (folder / "ema.safetensors").exists()
