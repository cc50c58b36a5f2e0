"""Networks of other packages: their kinds, and the recognition of the network in a folder."""

from pathlib import Path

from netsim.foundation.refusal import Refusal
from trainer.config.run import RunConfig
from trainer.model.foreign.diffusers import DiffusersDiT
from trainer.model.foreign.language_models import GPTNeoX, Llama
from trainer.model.foreign.protocol import NAME, Document, Foreign
from trainer.model.weight_files import files_of

FOREIGN: dict[str, Foreign] = {kind.name: kind for kind in (DiffusersDiT(), Llama(), GPTNeoX())}
"""Every kind of network that weights come from and go to, by its name on the command line."""


def exports(config: RunConfig) -> dict[str, str | None]:
    """For each package with networks of this family, the reason why a run cannot be exported to it; None if it can."""
    objections: dict[str, str | None] = {}
    for name, kind in FOREIGN.items():
        try:
            kind.document(config)
            objections[name] = None
        except ValueError as error:
            if f"a {config.model.kind} network is not" not in str(error):
                objections[name] = str(error).removeprefix("--to: ")
    return objections


def network_in(folder: Path) -> tuple[Foreign, Document, Path]:
    """The kind of network in a folder, its settings, and the file of its weights or of their index."""
    document = Document.read(folder)
    for kind in FOREIGN.values():
        if kind.recognises(document):
            weights = folder / kind.weights
            if not all(file.exists() for file in files_of(weights)):
                remedy = "save them with save_pretrained(FOLDER, safe_serialization=True); other formats are not read"
                raise Refusal(weights, "weights", "are missing", remedy)
            return kind, document, weights
    named = document.values.get("_class_name") or document.values.get("model_type") or "nothing"
    known = ", ".join(f"{kind.network} ({kind.name})" for kind in FOREIGN.values())
    raise Refusal(document.path, "network", f"is {named!r}, which is not read here", f"give one of {known}")


def is_foreign(path: Path) -> bool:
    """Whether a path is that of a folder, or of a file in one, that another package has written."""
    folder = path if path.is_dir() else path.parent
    return (folder / NAME).is_file() and not (folder / "config.yaml").is_file()
