"""Reading a configuration from a YAML file and the command line."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from netsim.foundation.complaint import first_complaint
from netsim.foundation.refusal import Refusal
from trainer.config.document import apply_override, check_is_of_a_run, read_document
from trainer.config.fine_tuning import with_base
from trainer.config.resolution import resolve, with_unresolved
from trainer.config.run import RunConfig
from trainer.config.trust import importing_trusted, trust


def load_config(path: Path | str, overrides: Sequence[str] = ()) -> RunConfig:
    """Reads and validates a configuration.

    Args:
        path: YAML file.
        overrides: ``dotted.key=value`` with the value in YAML, applied in order.

    Returns:
        The configuration; :func:`trainer.config.rules.plan.plan_layout` checks what depends on the number of
        ranks.

    Raises:
        Refusal: the file is missing or malformed, a key is unknown or a value is out of range; names file, field,
            value and remedy.
    """
    path = Path(path)
    document = read_document(path)
    for override in overrides:
        apply_override(path, document, override)
    return validated(path, document)


def load_run(folder: Path) -> RunConfig:
    """Reads ``config.yaml`` of a run folder, of a checkpoint, or beside weights; refuses classes that are
    not trusted.
    """
    path = folder / "config.yaml"
    return _validated(path, read_document(path))


def validated(path: Path, document: dict[str, Any]) -> RunConfig:
    """The configuration that the sections of a file make, completed from the base and the files that they name.

    The classes that it names are trusted, as the user wrote them. A file that a section names and that cannot be read
    is refused only where all else is well.
    """
    trust(document)
    return _validated(path, document)


def _validated(path: Path, document: dict[str, Any]) -> RunConfig:
    check_is_of_a_run(path, document)
    document = with_base(document)
    with importing_trusted():
        complete, unresolved = resolve(document)
        try:
            return RunConfig.model_validate(complete)
        except ValidationError as error:
            complaint = first_complaint(with_unresolved(error, unresolved), document, RunConfig)
            remedy = complaint.remedy or "correct the value"
            raise Refusal(path, complaint.field, complaint.problem, remedy) from complaint.cause or error
