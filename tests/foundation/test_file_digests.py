"""What identifies the content of files."""

import hashlib
from pathlib import Path

from netsim.foundation.files import file_digest, files_digest


def test_the_digest_of_a_file_and_of_several(tmp_path: Path) -> None:
    contents = (b"", b"abc", bytes(100_000))
    paths = [tmp_path / str(number) for number in range(len(contents))]
    for path, content in zip(paths, contents, strict=True):
        path.write_bytes(content)
    each = [hashlib.sha256(content) for content in contents]
    assert [file_digest(path) for path in paths] == [one.hexdigest() for one in each]
    assert files_digest(paths) == hashlib.sha256(b"".join(one.digest() for one in each)).hexdigest()
