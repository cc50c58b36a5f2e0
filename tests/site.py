"""What the site of `make docs` has besides configs/docs: pages that lie elsewhere, and the gallery.

mkdocs calls the functions whose names begin with ``on_``. A page keeps the links that it has in the repository: one to
another page of the site leads there, a picture is taken along, and a link to any other file becomes its name.
"""

import os
import posixpath
import re
import shlex
import subprocess
import sys
from html import escape
from pathlib import Path
from typing import NamedTuple

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
DOCS = "configs/docs"
PAGES = {
    "README.md": "index.md",
    "trainer/README.md": "trainer/README.md",
    "moe/README.md": "moe/README.md",
    "netsim/README.md": "netsim/README.md",
    "configs/TUTORIAL.md": "tutorial.md",
    "configs/methods/README.md": "methods.md",
    "configs/README.md": "settings.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
}
"""Pages outside of configs/docs: path in the repository -> path in the site."""

_LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)")


class Written(NamedTuple):
    """A page that a command writes, for the gallery."""

    title: str
    command: str
    page: str


RUN = "runs/gallery"
GALLERY = [
    Written(
        "Transports compared: an all-to-all of 64 hosts",
        f"python -m netsim compare configs/scenarios/all_to_all_64.yaml seeds=[0,1] --out {RUN}/compare",
        f"{RUN}/compare/report.html",
    ),
    Written(
        "A sweep: how many spines pay",
        f"python -m netsim sweep configs/sweeps/spines.yaml --out {RUN}/sweep",
        f"{RUN}/sweep/index.html",
    ),
    Written(
        "Experts placed by where tokens went",
        f"python -m moe place tests/files/routing.npz --nodes 2 --ranks-per-node 2 --out {RUN}/placement.json",
        f"{RUN}/placement.html",
    ),
    Written(
        "A run: what it draws, and how it learned",
        f"python -m trainer train configs/runs/toy.yaml optim.steps=800 run.dir={RUN}/toy && "
        f"python -m trainer report {RUN}/toy",
        f"{RUN}/toy/report.html",
    ),
    Written(
        "Quality by evaluations of the network",
        f"python -m trainer evaluate {RUN}/toy --evaluations 1,2,5,20 --num 500 --out {RUN}/evaluation.json "
        f"--page {RUN}/evaluation.html",
        f"{RUN}/evaluation.html",
    ),
    Written(
        "Times searched for few steps",
        f"python -m trainer steps {RUN}/toy --evaluations 2,4,6 --out {RUN}/steps.json --page {RUN}/steps.html",
        f"{RUN}/steps.html",
    ),
]


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages that lie elsewhere, their pictures, and the gallery with what its commands wrote."""
    for source, target in PAGES.items():
        files.append(File.generated(config, target, content=(ROOT / source).read_text()))
    files.append(File.generated(config, "first_run.png", content=(ROOT / "configs/first_run.png").read_bytes()))
    for written in GALLERY:
        _write(written)
        page = (ROOT / written.page).read_bytes()
        files.append(File.generated(config, _in_site(written), content=page))
    files.append(File.generated(config, "gallery.md", content=_gallery()))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:  # noqa: ARG001
    """Makes the links of a page those of the site."""
    here = page.file.src_uri
    origin = next((source for source, target in PAGES.items() if target == here), f"{DOCS}/{here}")
    return _LINK.sub(lambda link: _linked(link, origin, here), markdown)


def _linked(link: re.Match[str], origin: str, here: str) -> str:
    picture, text, target = link.groups()
    path, _, anchor = target.partition("#")
    if not path or ":" in path:
        return link[0]
    named = posixpath.normpath(posixpath.join(posixpath.dirname(origin), path))
    if picture:
        return f"![{text}]({_from(here, posixpath.basename(named))})"
    found = PAGES.get(named) or (named.removeprefix(f"{DOCS}/") if named.startswith(f"{DOCS}/") else None)
    if found is None:
        return text if "`" in text else f"`{text}`"
    return f"[{text}]({_from(here, found)}{'#' + anchor if anchor else ''})"


def _from(here: str, target: str) -> str:
    return posixpath.relpath(target, posixpath.dirname(here) or ".")


def _in_site(written: Written) -> str:
    return f"gallery/{'_'.join(Path(written.page).relative_to(RUN).parts)}"


def _write(written: Written) -> None:
    """Runs the command of a page, unless the page is there."""
    if (ROOT / written.page).exists():
        return
    for command in written.command.split(" && "):
        print(f"gallery: {command}", flush=True)
        words = shlex.split(command)
        subprocess.run([sys.executable, *words[1:]], check=True, cwd=ROOT, stdout=subprocess.DEVNULL, env=os.environ)


def _gallery() -> str:
    figures = "\n".join(
        f'<figure><a class="page" href="{_in_site(written)}">'
        f'<iframe src="{_in_site(written)}" title="{escape(written.title)}" loading="lazy" scrolling="no"></iframe></a>'
        f'<figcaption><a href="{_in_site(written)}"><b>{escape(written.title)}</b></a>'
        f"<br><code>{escape(written.command)}</code></figcaption></figure>"
        for written in GALLERY
    )
    about = "Pages that commands write: each is one file, opens without a network, and begins with its answer."
    return f'---\nhide: [toc]\n---\n\n# Gallery\n\n{about}\n\n<div class="gallery">\n{figures}\n</div>\n'
