"""docker/launch.sh ends where a rank has said that the start would be refused again."""

from pathlib import Path

import pytest

from tests.docker.scripts import interpreter, launch


@pytest.mark.parametrize("when", ["never", "failed", "always"])
def test_a_refused_start_is_wrong_input_and_is_not_repeated(when: str, tmp_path: Path) -> None:
    refuses = "pathlib.Path(os.environ['FLOWFABRIC_REFUSED']).touch(); sys.exit(1)"
    result = launch(interpreter(tmp_path, torchrun=refuses), "--restart", when, "a.yaml", TMPDIR=str(tmp_path))
    assert result.returncode == 2
    assert result.stderr == ""
    assert (tmp_path / "starts").read_text().count("torch.distributed.run") == 1
    assert {path.name for path in tmp_path.iterdir()} == {"starts", "python"}


def test_another_failure_is_none(tmp_path: Path) -> None:
    result = launch(interpreter(tmp_path, torchrun="sys.exit(1)"), "a.yaml", TMPDIR=str(tmp_path))
    assert result.returncode == 1
