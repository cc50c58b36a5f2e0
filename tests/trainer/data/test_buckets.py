"""Pictures of several shapes: cut as by hand, dealt one shape a step, each example as often as any other."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError

from moe.seeds import derive_seed, fold_in, uniform
from tests.each import each
from tests.trainer.data.pictures import picture
from trainer import data
from trainer.config.derived import with_shape
from trainer.config.model import DiTConfig
from trainer.config.rules.objection import refuse
from trainer.config.rules.pairing import of_shapes
from trainer.config.run import RunConfig
from trainer.data import Batch, Dataset, ImageFolderConfig, Loader, Split
from trainer.data.image_folder import ImageFolder
from trainer.data.order import Interleaved
from trainer.data.picture import buckets_around, nearest_buckets
from trainer.data.protocol import BadExamples, TooManyBadExamples
from trainer.flow import Condition
from trainer.model.dit import DiT, FeedForward
from trainer.model.network import NetworkSpec

SHAPES = ((8, 8), (12, 6), (6, 12))
SIZES = (37, 11, 5)


class Shapes(Dataset):
    """Examples of three shapes, one behind the other; image i is full of i."""

    num_classes = 0
    shape = (1, 8, 8)

    def __init__(self, bad: tuple[int, ...] = ()) -> None:
        self.bad = bad
        self.of = torch.tensor([group for group, size in enumerate(SIZES) for _ in range(size)])

    def indices(self, split: Split) -> torch.Tensor:
        """All of them in both."""
        return torch.arange(sum(SIZES) if split == "train" else sum(SIZES) - 1)

    def groups(self, split: Split) -> tuple[torch.Tensor, ...]:
        """By shape."""
        ids = self.indices(split)
        return tuple(ids[self.of[ids] == group] for group in range(3))

    def get(self, indices: torch.Tensor) -> Batch:
        """Refuses what is bad."""
        if reasons := {number: "bad" for number in indices.tolist() if number in self.bad}:
            raise BadExamples(reasons)
        (group,) = self.of[indices].unique().tolist()
        return Batch(indices.float()[:, None, None, None].expand(-1, 1, *SHAPES[group]), None, indices)


def loader(dataset: Dataset | None = None, **changes: Any) -> Loader:
    settings = {"global_batch": 8, "micro_batch": 2, "rank": 0, "world_size": 1, "seed": 3, "max_bad_share": 0.5}
    return Loader(dataset or Shapes(), **{**settings, **changes})


def test_shapes_around_a_size_hold_as_many_pixels_from_upright_to_lying() -> None:
    found = buckets_around(5, 64)
    assert (64, 64) in found
    assert len(found) == 5
    for height, width in found:
        assert height % 8 == width % 8 == 0
        assert 0.8 < height * width / 64**2 <= 1
    assert [width for _, width in found] == sorted(width for _, width in found)
    assert (found[0][0] / found[0][1], found[-1][0] / found[-1][1]) == pytest.approx((2, 1 / 2), rel=0.2)
    assert buckets_around(1, 32) == ((32, 32),)


def test_each_picture_goes_to_the_nearest_proportions_as_it_stands_upright(tmp_path: Path) -> None:
    sizes = [(10, 10), (20, 9), (9, 20), (11, 14), (100, 30)]
    for number, size in enumerate(sizes):
        picture(tmp_path / f"{number}.png", number, size)
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.new("RGB", (20, 9)).save(tmp_path / "5.jpg", exif=turned)
    (tmp_path / "6.png").write_text("no picture")
    paths = [tmp_path / f"{number}.png" for number in range(5)] + [tmp_path / "5.jpg", tmp_path / "6.png"]
    upright = [*sizes, (9, 20), (1, 1)]
    wanted = [
        min(range(3), key=lambda bucket: abs(np.log(height / width) - np.log(SHAPES[bucket][0] / SHAPES[bucket][1])))
        for width, height in upright
    ]
    assert nearest_buckets(paths, SHAPES) == wanted
    assert set(wanted) == {0, 1, 2}


def test_a_folder_cuts_each_picture_to_its_bucket(tmp_path: Path) -> None:
    held = {"wide": picture(tmp_path / "wide.png", 0, (24, 10)), "tall": picture(tmp_path / "tall.png", 1, (6, 12))}
    for number in range(4):
        picture(tmp_path / f"{number}.png", number, (8, 8))
    document = {"kind": "image_folder", "path": str(tmp_path), "buckets": [list(shape) for shape in SHAPES]}
    config = ImageFolderConfig.model_validate(ImageFolderConfig.resolved({**document, "held_out": 1}))
    assert (config.shape, config.size) == ((3, 12, 6), 8), "of equal ones the first"
    folder = ImageFolder(config)
    names = sorted(path.name for path in tmp_path.iterdir())
    seen = folder.get(torch.tensor([names.index("tall.png")])).x_1[0]
    np.testing.assert_allclose(seen, held["tall"].transpose(2, 0, 1) / 127.5 - 1, atol=1e-6)
    seen = folder.get(torch.tensor([names.index("wide.png")])).x_1[0]
    cut = Image.fromarray(held["wide"]).resize((12, 6), Image.Resampling.BICUBIC, box=(2, 0, 22, 10))
    np.testing.assert_allclose(seen, np.asarray(cut).transpose(2, 0, 1) / 127.5 - 1, atol=1e-6)
    groups = [group.tolist() for split in data.SPLITS for group in folder.groups(split)]
    assert sorted(number for group in groups for number in group) == list(range(6))
    together = sorted(
        len(folder.groups("train")[bucket]) + len(folder.groups("held_out")[bucket]) for bucket in range(3)
    )
    assert together == [1, 1, 4]
    points = [number for split in data.SPLITS for number in folder.data_points(split).tolist()]
    assert points == [names.index("tall.png")], "what samples of the largest shape are compared with"
    with pytest.raises(ValueError, match=r"data.buckets: no batch holds shapes .* together; read them one by one"):
        folder.get(torch.arange(6))


def test_a_number_of_buckets_is_written_out() -> None:
    same = {"kind": "image_folder", "path": "p", "held_out": 1, "classes": [], "digest": "d"}
    config = ImageFolderConfig.model_validate({**same, "size": 32, "buckets": 3})
    assert config.buckets == buckets_around(3, 32)
    assert ImageFolderConfig.model_validate(config.model_dump(mode="json")) == config
    assert "buckets" not in ImageFolderConfig.model_validate({**same, "size": 32}).model_dump()
    for buckets, line in (
        (0, "buckets: 0 is below 1; give a number of shapes from 1, or shapes"),
        ([], "buckets: there are none; give shapes such as"),
        ([[8, 8], [16, 16]], r"buckets: \[8, 8\] and \[16, 16\] have the same proportions; give each proportion once"),
        ([[8, 8], [8, 8]], "have the same proportions"),
    ):
        with pytest.raises(ValidationError, match=line):
            ImageFolderConfig.model_validate({**same, "size": 32, "buckets": buckets})


@each("batch", [1, 8, 30, 100])
def test_turns_are_the_order_of_drawn_times(batch: int) -> None:
    plan = Interleaved(SIZES, batch, seed=3)
    key = torch.tensor(derive_seed(3, "groups"))
    timed = []
    for group, size in enumerate(SIZES):
        numbers = torch.arange(60 * size // batch + 60)
        times = (numbers + uniform(fold_in(fold_in(key, group), numbers))) * batch / size
        timed += [(time, group, number) for number, time in enumerate(times.tolist())]
    wanted = [(group, number) for time, group, number in sorted(timed) if time < 50]
    assert len(wanted) > 20
    assert [plan.place(step) for step in range(len(wanted))] == wanted
    assert [Interleaved(SIZES, batch, seed=3).place(step) for step in (17, 5, len(wanted) - 1)] == [
        wanted[step] for step in (17, 5, len(wanted) - 1)
    ], "a function of the step alone"


def test_a_step_has_one_shape_on_any_number_of_ranks_and_every_example_is_seen_as_often() -> None:
    def step_of(step: int, world_size: int, **settings: Any) -> tuple[list[int], set[torch.Size]]:
        ids, shapes = [], set()
        for rank in range(world_size):
            own = loader(rank=rank, world_size=world_size, **settings)
            for local in range(own.accumulation):
                batch = own.batch(step, local)
                ids += batch.ids.tolist()
                shapes.add(batch.x_1.shape[1:])
        return ids, shapes

    for step in (0, 1, 2, 3, 40, 4000):
        one, shapes = step_of(step, 1)
        assert len(shapes) == 1
        for other in ({"world_size": 2}, {"world_size": 4}, {"world_size": 1, "micro_batch": 8}):
            assert step_of(step, **other) == (one, shapes)
    whole, epochs = loader(), 60
    seen: Counter[int] = Counter()
    for step in range(epochs * sum(SIZES) // 8):
        for local in range(4):
            seen.update(whole.batch(step, local).ids.tolist())
    for group, size in enumerate(SIZES):
        own = [seen[number] for number in range(sum(SIZES)) if Shapes().of[number] == group]
        assert max(own) - min(own) <= 1
        assert abs(sum(own) / size - epochs) <= 2 * 8 / size


def test_a_pass_shows_every_held_out_example_once_under_the_same_numbers() -> None:
    def shown(world_size: int) -> dict[int, tuple[int, ...]]:
        found = {}
        for rank in range(world_size):
            held_out = loader(rank=rank, world_size=world_size, global_batch=2 * world_size, split="held_out")
            for step in range(held_out.steps_of_pass):
                number, counted = held_out.counted(step, 0)
                if counted:
                    found[number] = tuple(held_out.batch(step, 0).ids.tolist()[:counted])
        return found

    one = shown(1)
    assert sorted(number for ids in one.values() for number in ids) == list(range(sum(SIZES) - 1))
    assert shown(2) == shown(4) == one


def test_a_bad_example_is_replaced_by_one_of_its_shape() -> None:
    dealt = loader(Shapes(bad=(38, 40)))
    steps = [dealt.batch(step, local) for step in range(30) for local in range(4)]
    replaced = [batch for batch in steps if batch.replaced]
    assert replaced
    assert not {38, 40} & {number for batch in steps for number in batch.ids.tolist()}
    hopeless = loader(Shapes(bad=tuple(range(48, 53))))
    of_last = next(step for step in range(100) if Interleaved(SIZES, 8, seed=3).place(step)[0] == 2)
    with pytest.raises(TooManyBadExamples, match="all 5 examples of one shape cannot be read"):
        hopeless.batch(of_last, 0)


def test_a_transformer_sees_another_shape_as_one_that_was_built_for_it() -> None:
    torch.manual_seed(0)
    config = DiTConfig(hidden=32, num_layers=2, num_heads=4)

    def built(height: int, width: int) -> DiT:
        spec = NetworkSpec(
            config=config, state_shape=(1, height, width), num_classes=3, mixture=lambda _: FeedForward(32, 64)
        )
        return DiT(spec).double()

    one, other = built(8, 8), built(12, 6)
    for parameter in one.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    other.load_state_dict(one.state_dict())
    x, t, condition = torch.randn(4, 1, 12, 6).double(), torch.rand(4).double(), Condition(torch.arange(4))
    for _ in range(2):
        assert torch.equal(one(x, t, condition), other(x, t, condition))
    assert one(torch.randn(4, 1, 8, 8).double(), t, condition).shape == (4, 1, 8, 8)


def run(**sections: Any) -> RunConfig:
    folder = {"kind": "image_folder", "path": "p", "held_out": 1, "classes": [], "digest": "d"}
    document = {
        "run": {"dir": "r"},
        "data": {**folder, "buckets": [[8, 8], [12, 6]]},
        "model": {"kind": "dit", "hidden": 16},
        "optim": {"steps": 1, "global_batch": 8},
    }
    return RunConfig.model_validate({**document, **sections})


@each(
    ("sections", "line"),
    [
        (
            {"model": {"kind": "autoencoder"}},
            "data.buckets: a model of kind autoencoder reads images of one shape; use",
        ),
        ({"model": {"kind": "blockwise"}}, "data.buckets: a model of kind blockwise reads images of one shape; use"),
        ({"model": {"kind": "dit", "patch_size": 4}}, r"data.buckets: \[12, 6\]: model.patch_size: 4"),
        ({"flow": {"coupling": {"kind": "minibatch_ot"}}}, "flow.coupling.kind: minibatch_ot goes with images of one"),
        ({"flow": {"context": {"kind": "semantic_map"}}}, "flow.context: semantic_map goes with images of one shape, "),
        ({"flow": {"source": {"kind": "digits"}}}, "flow.source: digits goes with images of one shape, and"),
        (
            {"trace": {"steps": [3]}},
            r"trace.steps: \[3\] goes with images of one shape, and data.buckets gives 2; leave",
        ),
    ],
)
def test_what_knows_one_shape_alone_is_refused(sections: dict[str, Any], line: str) -> None:
    refuse(of_shapes(run()))
    with pytest.raises(ValueError, match=f"^{line}"):
        refuse(of_shapes(run(**sections)))


def test_a_shape_is_chosen_among_those_of_the_run() -> None:
    assert run().state_shape == (3, 12, 6), "memory is that of the largest"
    assert with_shape(run(), 8, 8).state_shape == (3, 8, 8)
    with pytest.raises(ValueError, match="--shape: 6,12 is not a shape that r learns; use 8,8, 12,6"):
        with_shape(run(), 6, 12)
