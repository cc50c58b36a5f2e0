"""Surfaces: analytic pairs, files of a user's, what bending leaves of them, and what is refused."""

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from netsim.foundation.refusal import Refusal
from tests.each import each
from trainer.data import build
from trainer.data.spectra import distances, laplacian, spectrum, wave_signatures
from trainer.data.surface_files import Surface, read_surface, write_surface
from trainer.data.surface_pairs import analytic_pair, icosphere
from trainer.data.surfaces import SurfacePairs, SurfacesConfig

SMALL = {"eigenfunctions": 8, "waves": 12, "signatures": 5}


def config(**settings: Any) -> SurfacesConfig:
    document = {"kind": "surfaces", **SMALL, **settings}
    return SurfacesConfig.model_validate(SurfacesConfig.resolved(document))


def surfaces(**settings: Any) -> SurfacePairs:
    made = build(config(**settings))
    assert isinstance(made, SurfacePairs)
    return made


def sphere(halvings: int = 1) -> Surface:
    vertices, faces = icosphere(halvings)
    every = np.arange(len(vertices))
    return Surface(vertices, faces, every, len(every))


def off(path: Path, vertices: Any, faces: Any) -> Path:
    lines = ["OFF # a comment", f"{len(vertices)} {len(faces)} 0"]
    lines += [" ".join(map(str, row)) for row in vertices]
    lines += [" ".join(map(str, (len(row), *row))) for row in faces]
    path.write_text("\n".join(lines) + "\n")
    return path


def spheres(folder: Path, *names: str) -> Path:
    folder.mkdir(exist_ok=True)
    for number, name in enumerate(names):
        made = sphere()
        off(folder / name, made.vertices * (1 + 0.3 * number * made.vertices[:, :1]), made.triangles)
    return folder


def test_eigenvalues_of_a_sphere_are_l_times_l_plus_1() -> None:
    made = sphere(3)
    found = spectrum(made, 9)
    functions = found.eigenfunctions
    expected = [0, *[2] * 3, *[6] * 5]
    np.testing.assert_allclose(found.eigenvalues / (4 * np.pi), expected, atol=0.08)
    np.testing.assert_allclose(functions.T @ (found.areas[:, None] * functions), np.eye(9), atol=1e-8)
    stiffness, areas = laplacian(made)
    assert abs(stiffness.sum()) < 1e-10
    assert areas.sum() == pytest.approx(4 * np.pi, rel=0.02)
    small, all_but_one = spectrum(sphere(0), 12), spectrum(sphere(0), 11)
    np.testing.assert_allclose(small.eigenvalues[:11], all_but_one.eigenvalues, atol=1e-9)


def test_signatures_and_distances_do_not_change_with_scale_place_and_turn() -> None:
    made = analytic_pair(3, halvings=2, bend=0.5)[0]
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    moved = Surface(3 * made.vertices @ turn + 1, made.triangles, made.kept, made.total)
    one, other = (wave_signatures(spectrum(each, 30), 10) for each in (made, moved))
    np.testing.assert_allclose(one, other, atol=1e-6)
    sources = np.array([0, 5])
    np.testing.assert_allclose(distances(made, sources), distances(moved, sources), atol=1e-9)


def test_analytic_pairs_are_known_and_depend_on_their_seed_alone() -> None:
    made = surfaces(analytic={"pairs": 3, "halvings": 2}, held_out=1)
    assert [len(made.indices(split)) for split in ("train", "held_out")] == [2, 1]
    pair = made.pair(1)
    assert pair.truth is not None
    assert pair.first.surface.closed
    batch = made.get(torch.tensor([1, 0]))
    assert batch.context is not None
    assert (batch.x_1.shape, batch.context.shape) == ((2, 2, 162, 5), (2, 2, 163, 9))
    assert (made.config.shape, made.config.context_shape) == ((2, 162, 5), (2, 163, 9))
    torch.testing.assert_close(batch.context[:, :, 1:, 0].sum(-1), torch.ones(2, 2))
    other = surfaces(analytic={"halvings": 2, "seed": 1})
    again = other.get(torch.tensor([0]))
    assert torch.equal(again.x_1[0], batch.x_1[0])
    assert [len(other.indices(split)) for split in ("train", "held_out")] == [1, 1], "all are measured, too"
    straight, bent, truth = analytic_pair(0, halvings=2, bend=0.0)
    assert np.linalg.norm(bent.vertices - straight.vertices[truth], axis=1).max() < 0.3, "the same but for the cut"


def test_fewer_points_are_spread_out_and_more_have_no_area() -> None:
    some = surfaces(analytic={"halvings": 2}, points=50).get(torch.tensor([0]))
    filled = surfaces(analytic={"halvings": 2}, points=170).get(torch.tensor([0]))
    assert some.context is not None
    assert filled.context is not None
    torch.testing.assert_close(some.context[0, :, 1:, 0].sum(-1), torch.ones(2))
    assert (some.context[0, :, 1:, 0] > 0).all()
    assert not filled.context[0, :, 163:].any()
    assert not filled.x_1[0, :, 162:].any()


def test_the_three_formats_hold_the_same(tmp_path: Path) -> None:
    made = sphere()
    one = read_surface(off(tmp_path / "a.off", made.vertices, made.triangles))
    lines = [f"v {x} {y} {z}" for x, y, z in made.vertices] + ["vn 0 0 1", "g body"]
    faces = [" ".join(f"{corner + 1}//1" for corner in row) for row in made.triangles]
    backwards = " ".join(str(corner - len(made.vertices)) for corner in made.triangles[0])
    (tmp_path / "b.obj").write_text("\n".join([*lines, f"f {backwards}", *(f"f {row}" for row in faces[1:])]))
    write_surface(tmp_path / "c.ply", made, np.zeros((len(made.vertices), 3), np.uint8))
    rows = [" ".join(map(str, row)) for row in made.vertices] + [f"3 {a} {b} {c}" for a, b, c in made.triangles]
    head = ["ply", "format ascii 1.0", "comment ours", f"element vertex {len(made.vertices)}"]
    head += [f"property double {axis}" for axis in "xyz"]
    head += [f"element face {len(made.triangles)}", "property list uchar int vertex_index", "end_header"]
    (tmp_path / "d.ply").write_text("\n".join([*head, *rows]))
    for other in (read_surface(tmp_path / name) for name in ("b.obj", "c.ply", "d.ply")):
        np.testing.assert_allclose(other.vertices, one.vertices, atol=1e-6)
        assert np.array_equal(other.triangles, one.triangles)


def test_polygons_become_triangles(tmp_path: Path) -> None:
    corners = [(x, y, z) for x in (0, 1) for y in (0, 1) for z in (0, 1)]
    sides = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]
    cube = read_surface(off(tmp_path / "cube.off", corners, sides))
    assert len(cube.triangles) == 12
    assert cube.closed
    head = "ply\nformat binary_big_endian 1.0\nelement vertex 8\nproperty float x\nproperty float y\nproperty float z\n"
    head += "element face 6\nproperty list uchar ushort vertex_indices\nend_header\n"
    body = b"".join(struct.pack(">3f", *row) for row in corners) + b"".join(
        struct.pack(">B4H", 4, *row) for row in sides
    )
    (tmp_path / "cube.ply").write_bytes(head.encode() + body)
    assert np.array_equal(read_surface(tmp_path / "cube.ply").triangles, cube.triangles)


def test_of_several_parts_the_largest_is_taken_and_said_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, made = spheres(tmp_path / "s", "a.off", "b.off"), sphere()
    apart = [(9, 9, 9), (9, 9, 10), (9, 10, 9)]
    off(folder / "b.off", np.concatenate([apart, made.vertices]), [(0, 1, 2), *(made.triangles + 3)])
    (tmp_path / "map").write_text("\n".join(map(str, [-1, -1, -1, *range(42)])))
    (tmp_path / "s" / "map").write_text((tmp_path / "map").read_text())
    (tmp_path / "pairs").write_text("a.off b.off map\nb.off a.off\na.off a.off same\n")
    read = config(path=folder, pairs=tmp_path / "pairs")
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "b.off: has 2 connected parts, of which the one of most vertices (42 of 45) is taken" in said
    config(**read.model_dump(exclude_unset=True, exclude={"kind", *SMALL}))
    assert not capsys.readouterr().err, "the run knows it"
    data = build(read)
    assert isinstance(data, SurfacePairs)
    (first, second, third) = (data.pair(number).truth for number in range(3))
    assert second is None
    for truth in (first, third):
        assert truth is not None
        assert np.array_equal(truth, np.arange(42))
    data.get(torch.arange(3))
    kept = sorted((folder / "spectra").iterdir())
    assert len(kept) == 2
    again = build(read).get(torch.arange(3))
    assert torch.equal(again.x_1, data.get(torch.arange(3)).x_1)
    kept[0].write_bytes(b"damaged")
    assert torch.equal(build(read).get(torch.arange(3)).x_1, again.x_1)


TETRAHEDRON = [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)], [(0, 2, 1), (0, 1, 3), (0, 3, 2), (1, 2, 3)]


@each(
    ("vertices", "faces", "words"),
    [
        (TETRAHEDRON[0], [], r"triangles: there are none; give triangles as OFF, OBJ or PLY"),
        (TETRAHEDRON[0], [(0, 1, 4)], r"triangle 0: has the vertices \[0, 1, 4\], and the file has those from 0 to 3"),
        (TETRAHEDRON[0], [(0, 1, 1)], r"triangle 0: has no area \(vertices \[0, 1, 1\]\), and so have 0 others"),
        ([*TETRAHEDRON[0], (2, 0, 0)], [(0, 1, 4)], r"triangle 0: has no area"),
        (TETRAHEDRON[0], [*TETRAHEDRON[1], (0, 1, 2)], r"edge: \[0, 1\] is of 3 triangles, and so is no surface"),
        (TETRAHEDRON[0], [(0, 1)], r"polygon 0: has 2 corners; give three or more"),
        ([(0, 0, "nan"), *TETRAHEDRON[0][1:]], TETRAHEDRON[1], r"vertices: have coordinates that are not finite"),
        ([(0, 0, "x"), *TETRAHEDRON[0][1:]], TETRAHEDRON[1], r"line 3: has something else than numbers"),
        ([(0, 0, 1e300), *TETRAHEDRON[0][1:]], TETRAHEDRON[1], r"vertices: are too far apart"),
    ],
)
def test_triangles_that_are_no_surface_are_refused(tmp_path: Path, vertices: Any, faces: Any, words: str) -> None:
    with pytest.raises(Refusal, match=words):
        read_surface(off(tmp_path / "a.off", vertices, faces))


@each(
    ("name", "content", "words"),
    [
        ("a.stl", b"solid", r"file: ends in .stl, and no surface does; give triangles as OFF, OBJ or PLY"),
        ("a.off", b"OFF 3 1 0\n0 0 0", r"announces 3 and 1 vertices and faces, and 1 lines follow"),
        ("a.off", b"OFF 1 1 0\n0 0 0\n3 0 0", r"line 3: announces 3 corners, and has 2; give triangles"),
        ("a.off", b"NOFF", r"file: does not begin with OFF"),
        ("a.off", b"\xff\xfe", r"file: is not UTF-8"),
        ("a.obj", b"v 0 0", r"line 1: has 2 coordinates of a vertex; give three"),
        ("a.ply", b"plyx", r"file: has no header of PLY"),
        ("a.ply", b"ply\nend_header\n", r"format: is missing"),
        ("a.ply", b"ply\nformat ascii 1.0\nelement vertex 99\nend_header\n1", r"element vertex: announces 99 rows"),
        ("a.ply", b"ply\nformat ascii 1.0\nproperty float x\nend_header\n", r"line 3: is no line of a header"),
    ],
)
def test_files_that_are_no_surfaces_are_refused(tmp_path: Path, name: str, content: bytes, words: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(Refusal, match=words):
        read_surface(tmp_path / name)


@each(
    ("settings", "words"),
    [
        ({"held_out": 1}, r"held_out: 1 leaves none of the 1 pairs; use 0"),
        ({"eigenfunctions": 42}, r"eigenfunctions: 42 of surfaces of 42 vertices; use fewer"),
        ({"waves": 50}, r"waves: 50 of surfaces of 42 vertices"),
        ({"points": 7}, r"points: 7 do not tell 8 eigenfunctions apart; use as many or more"),
        ({"pairs": "pairs"}, r"pairs: pairs without a path; name the folder of the surfaces"),
        ({"num_pairs": 2}, r"num_pairs: 2 with analytic.pairs 1; leave it out"),
    ],
)
def test_settings_of_analytic_pairs_that_do_not_fit_are_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        config(analytic={"halvings": 1}, **settings)


@each(
    ("pairs", "settings", "words"),
    [
        ("a.off", {}, r"line 1: has 1 words; give two files and, where it is known, same or a map"),
        ("", {}, r"pairs: there are none; give a line for each"),
        ("a.off b.off same", {}, None),
        (
            "a.off c.off same",
            {"waves": 11},
            r"c.off: vertices: are 12, those of a.off are 42, and the pair has no map but same",
        ),
        ("a.off b.off short", {}, r"short: numbers: are 2, and the second surface has 42 vertices"),
        ("a.off b.off outside", {}, r"outside: number 0: is 42, and the first surface has the vertices from 0 to 41"),
        ("a.off b.off gone", {}, r"gone: file: cannot be read"),
        ("a.off gone.off", {}, r"gone.off: file: cannot be read"),
        ("a.off c.off", {}, r"c.off: vertices: are 12, and data.waves are 12; use data.waves=11 or less"),
        ("a.off open.off", {"closed": True}, r"open.off: surface: has a border, and data.closed is true; close it"),
        ("a.off open.off", {}, None),
    ],
)
def test_pairs_that_cannot_be_are_refused(
    tmp_path: Path, pairs: str, settings: dict[str, Any], words: str | None
) -> None:
    folder, small, made = spheres(tmp_path / "s", "a.off", "b.off"), sphere(0), sphere()
    off(folder / "c.off", small.vertices, small.triangles)
    off(folder / "open.off", made.vertices, made.triangles[1:])
    (folder / "short").write_text("0 1")
    (folder / "outside").write_text("42 " * 42)
    (tmp_path / "pairs").write_text(pairs)
    if words is None:
        build(config(path=folder, pairs=tmp_path / "pairs", **settings))
        return
    with pytest.raises(ValueError, match=words):
        config(path=folder, pairs=tmp_path / "pairs", **settings)


def test_without_a_list_every_two_surfaces_are_a_pair(tmp_path: Path) -> None:
    assert config(path=spheres(tmp_path / "s", "a.off", "b.off", "c.off")).num_pairs == 3
    with pytest.raises(ValueError, match=r"surfaces: are 1; give two or more, as OFF, OBJ or PLY"):
        config(path=spheres(tmp_path / "t", "a.off"))
    with pytest.raises(ValueError, match=r"folder: cannot be read \(No such file or directory\); correct data.path"):
        config(path=tmp_path / "gone")
