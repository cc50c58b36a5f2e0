"""Every page of the documentation: links lead somewhere, commands are commands, code is code."""

import ast
import re
import shlex
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from mkdocs.config import load_config

from moe.command.program import PROGRAM as MOE
from netsim.command.program import PROGRAM as NETSIM
from netsim.foundation.command import Program
from trainer.__main__ import program

ROOT = Path(__file__).parents[1]
READMES = sorted(ROOT.glob("*/README.md"))
PAGES = sorted(
    {
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
        *READMES,
        *ROOT.glob("configs/*.md"),
        *ROOT.glob("configs/methods/*.md"),
        *ROOT.glob("configs/docs/**/*.md"),
    }
)
PROGRAMS: dict[str, Program] = {"trainer": program(), "moe": MOE, "netsim": NETSIM}
COMMAND = re.compile(
    r"(?:python -m (?P<module>[\w.]+)|(?<!/)\bflowfabric-(?P<script>train|place|simulate))(?P<words>[^|;#]*)"
)
SCRIPTS = {"train": "trainer", "place": "moe", "simulate": "netsim"}
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


@each_page
def test_links_lead_to_files_and_headings(page: Path) -> None:
    for target in re.findall(r"(?<!`)\[[^\]]*\]\(([^)\s]+)\)", _prose(page)):
        path, _, anchor = target.partition("#")
        if ":" in path:
            continue
        found = (page.parent / path).resolve() if path else page
        assert found.exists(), target
        assert not anchor or anchor in _anchors(found), target


@each_page
def test_commands_are_understood(page: Path) -> None:
    for command in {*_commands(page)}:
        found = COMMAND.search(command)
        if found is None or re.search(r"…|\.\.\.|VERB|NAME", command):
            continue
        module = found["module"] or SCRIPTS[found["script"]]
        words = shlex.split(found["words"].split(" > ")[0])
        for word in words:
            path = word.partition("=")[2] if re.match(r"[\w.]+=", word) else word
            if path.startswith(("tests/", "configs/")) and "{" not in path and "*" not in path:
                assert (ROOT / path.partition("::")[0]).exists(), f"{path} in {command}"
        if module in PROGRAMS and words:
            assert words[0] in {verb.name for verb in PROGRAMS[module].verbs} | {"--help"}, command
            if len(words) > 1:
                PROGRAMS[module].parser().read(words)
        elif module.startswith("tests."):
            assert find_spec(module) is not None, command


@each_page
def test_python_blocks_are_python(page: Path) -> None:
    for block in re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL):
        compile(block, str(page), "exec")


def test_pages_of_the_library_name_what_exists() -> None:
    named = [
        name
        for page in ROOT.glob("configs/docs/library/*.md")
        for name in re.findall(r"^::: (\S+)", page.read_text(), re.M)
    ]
    assert len(named) > 20
    for name in named:
        module, _, attribute = name.rpartition(".")
        file = ROOT / module.replace(".", "/")
        source = file.with_suffix(".py") if file.with_suffix(".py").exists() else file / "__init__.py"
        defined = (
            node for node in ast.parse(source.read_text()).body if isinstance(node, ast.ClassDef | ast.FunctionDef)
        )
        assert next(ast.get_docstring(node) for node in defined if node.name == attribute), name


def test_readmes_are_short() -> None:
    assert {page.name for page in READMES if page.parent.name != "configs" and page.stat().st_size > 25_000} == set()


def _prose(page: Path) -> str:
    """The text of a page without its blocks of code."""
    return re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)


def _anchors(page: Path) -> set[str]:
    """What a link can name of a page: its headings as they are written in addresses."""
    headings = re.findall(r"^#+ (.*)$", _prose(page), re.MULTILINE)
    plain = [re.sub(r"[^\w\- ]", "", re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()) for heading in headings]
    return {heading.strip().replace(" ", "-") for heading in plain} | set(re.findall(r'id="([^"]+)"', page.read_text()))


def _commands(page: Path) -> Iterator[str]:
    """Commands of a page's blocks, continued lines joined, and those inside a line of text."""
    for block in re.findall(r"```(?:sh|console)\n(.*?)```", page.read_text(), re.DOTALL):
        for line in re.sub(r"\\\n\s*", " ", block).splitlines():
            if not re.search(r"^\S*:|^ {2,}\S", line):  # what a command prints
                yield line.removeprefix("$ ")
    yield from re.findall(r"`((?:\w+=\S+ )?python -m [^`]+)`", _prose(page))


def test_the_site_loads_nothing_from_elsewhere() -> None:
    config = load_config(str(ROOT / "configs" / "mkdocs.yml"))
    config = config.plugins.on_config(config)
    loaded = [*config.extra["polyfills"], *map(str, config.extra_javascript), *config.extra_css]
    assert not [one for one in loaded if "//" in one]
