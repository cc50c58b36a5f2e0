"""Every verb of trainer and moe that writes refuses what another verb wrote, unless it is told to replace it."""

import argparse
from pathlib import Path

import pytest

import moe.__main__
import trainer.__main__
from moe.command.program import PROGRAM as MOE
from netsim.foundation.outputs import OutputFile, OutputFolder, page_mark
from netsim.foundation.page import page
from netsim.foundation.refusal import Refusal
from tests.each import each

MAINS = {"moe": moe.__main__, "trainer": trainer.__main__}
PROGRAMS = {"moe": MOE, "trainer": trainer.__main__.program()}
FOLDERS = {
    ("moe", "price"): ("t.jsonl", "--routing", "r.npz", "--placement", "p.json", "--scenario", "s.yaml", "--out"),
    ("trainer", "compare"): ("a.yaml", "b.yaml", "--out"),
    ("trainer", "mixture"): (
        "configs/methods/projektor.yaml",
        "--sizes",
        "2,4",
        "--target",
        "8",
        "--out",
        "m.json",
        "--pilots",
    ),
    ("trainer", "encode"): ("run", "--out"),
    ("trainer", "encode-captions"): ("texts", "--encoder", "t5", "--out"),
    ("trainer", "encode-text"): ("texts", "--out"),
    ("trainer", "shards"): ("pictures", "--out"),
    ("trainer", "pairs"): ("run", "--num-pairs", "2", "--sampler", "{kind: heun}", "--out"),
    ("trainer", "index-tars"): ("a.tar", "--out"),
    ("trainer", "restore"): ("run", "flair_inpainting", "--out"),
    ("trainer", "edit"): ("run", "rf_inversion", "--out"),
    ("trainer", "export"): ("run", "--out"),
    ("trainer", "import-weights"): ("folder", "--out"),
    ("trainer", "sample"): ("run", "--out", "grid.png", "--trace"),
    ("trainer", "generate"): ("run", "--prompt", "a", "--record"),
    ("trainer", "train"): ("configs/runs/digits_moe.yaml", "run.dir="),
}
FILES = {
    ("moe", "place"): ("t.npz", "--nodes", "1", "--ranks-per-node", "2", "--out", "p.json", "--report"),
    ("moe", "replay"): ("t.jsonl", "--routing", "r.npz", "--placement", "p.json", "--out"),
    ("moe", "record"): ("--model", "m", "--texts", "t", "--out"),
    ("moe", "import"): ("map.json", "--out"),
    ("moe", "export"): ("p.json", "--to", "vllm"),
    ("trainer", "report"): ("run", "--out"),
    ("trainer", "steps"): ("run", "--evaluations", "2", "--out", "s.json", "--page"),
    ("trainer", "evaluate"): ("run", "--out"),
    ("trainer", "mixture"): ("configs/methods/projektor.yaml", "--sizes", "2,4", "--target", "8", "--out"),
    ("trainer", "fid"): ("run", "--features", "f", "--out"),
    ("trainer", "sample"): ("run", "--out", "grid.png", "--quality"),
    ("trainer", "trace"): ("configs/runs/digits_moe.yaml", "--world-size", "2", "--out"),
    ("trainer", "features"): ("configs/runs/toy.yaml", "--out"),
    ("trainer", "import-features"): ("w.safetensors", "--layout", "inception-fid", "--out"),
    ("trainer", "fit-path"): ("configs/runs/toy.yaml", "--out"),
}


def refusal(package: str, verb: str, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert MAINS[package].main([verb, *arguments]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    return printed.err


def addressed(arguments: tuple[str, ...], path: Path) -> list[str]:
    """The arguments, of which the last is followed by the path."""
    return [*arguments[:-1], f"{arguments[-1]}{path}"] if arguments[-1].endswith("=") else [*arguments, str(path)]


@each(("package", "verb"), FOLDERS)
def test_a_folder_of_another_verb_is_refused(
    package: str, verb: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "first"
    folder.mkdir()
    (folder / "results.json").write_text("{}")
    (folder / "report.html").write_text("a report of netsim")
    arguments = addressed(FOLDERS[package, verb], folder)
    line = refusal(package, verb, arguments, capsys)
    assert line.startswith(f"{package} {verb}: {folder}: ")
    assert line.endswith(
        "contains other things than results of this verb (report.html, results.json); "
        "give a new folder, or --overwrite\n"
    )
    assert sorted(file.name for file in folder.iterdir()) == ["report.html", "results.json"]


@each(("package", "verb"), FILES)
def test_a_file_of_another_verb_is_refused(
    package: str, verb: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "index.html"
    file.write_text(page("A report of a run", "It learned.", [], verb="bench"))
    line = refusal(package, verb, addressed(FILES[package, verb], file), capsys)
    assert line.startswith(f"{package} {verb}: {file}: ")
    assert line.endswith("was not written by this verb; give another name, or --overwrite\n")


def test_every_verb_with_an_output_says_what_it_recognises() -> None:
    """A verb whose outputs are pictures or texts alone is not among them."""
    for package, program in PROGRAMS.items():
        (verbs,) = (one for one in program.parser()._actions if isinstance(one, argparse._SubParsersAction))
        for name, of_verb in verbs.choices.items():
            options = {option for action in of_verb.fill()._actions for option in action.option_strings}
            if "--out" in options or name == "export":
                assert (package, name) in {**FOLDERS, **FILES}, name
                assert "--overwrite" in options, name


def test_own_results_empty_folders_and_those_that_may_be_replaced_are_taken(tmp_path: Path) -> None:
    folder, output = tmp_path / "price", OutputFolder("--out", ("price.json", "runs/*.yaml"))
    output.check(folder)
    folder.mkdir()
    (folder / ".lock").touch()
    output.check(folder)
    (folder / "notes.txt").touch()
    with pytest.raises(Refusal, match=r"--out: contains other things than results of this verb \(notes.txt\)"):
        output.check(folder)
    output.check(folder, overwrite=True)
    (folder / "runs").mkdir()
    (folder / "runs" / "a.yaml").touch()
    output.check(folder)
    with pytest.raises(Refusal, match="is a file; name a folder"):
        output.check(folder / "notes.txt", overwrite=True)


def test_a_page_is_recognised_by_the_verb_in_its_head(tmp_path: Path) -> None:
    file, output = tmp_path / "index.html", OutputFile("--report", (page_mark("place"),))
    output.check(file)
    file.touch()
    output.check(file)
    file.write_text(page("Expert placement", "It saves a half.", [], verb="place"))
    output.check(file)
    file.write_text(page("Expert placement", "It saves a half.", [], verb="report"))
    with pytest.raises(Refusal, match="was not written by this verb"):
        output.check(file)
    output.check(file, overwrite=True)
    with pytest.raises(Refusal, match="is a folder; name a file"):
        output.check(tmp_path, overwrite=True)
