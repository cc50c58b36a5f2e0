"""Sheets of pictures: headings, words, names of rows, empty places, equal bytes."""

import numpy as np

from netsim.foundation.sheet import Column, sheet

IMAGE = np.linspace(0, 1, 12).reshape(3, 4)


def test_a_sheet_has_its_pictures_words_and_names() -> None:
    columns = [
        Column("observed", [IMAGE, None], ["a.png", ""]),
        Column("truth", [IMAGE, np.zeros((3, 4, 3))], ["error 0.1\nresidual 0", "none"]),
    ]
    markup = sheet(columns, rows=["first", "second"], name="one")
    assert "<image" in markup
    for text in ("observed", "truth", "a.png", "error 0.1", "residual 0", "none", "first", "second"):
        assert f">{text}</text>" in markup
    assert markup == sheet(columns, rows=["first", "second"], name="one")


def test_words_that_are_too_long_keep_their_end() -> None:
    name = "held_out_00001_of_a_long_folder.png"
    markup = sheet([Column("", [IMAGE], [name])] * 12, name="long")
    assert name not in markup
    assert name[-6:] in markup
