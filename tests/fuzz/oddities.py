"""Values that nobody expects in a file, as they would be written."""

import random


class Verbatim(str):
    """Text that is written into a document as it stands."""


BOTH = [
    *("null", "true", "false", "[]", "{}", "[[]]", '{"kind": []}', '{"kind": {"a": 1}}', '[1, "a", null]'),
    *(
        "0",
        "-0",
        "1",
        "-1",
        "2",
        "3",
        "7",
        "1000",
        "0.5",
        "-0.5",
        "1e-320",
        "1e300",
        "1e5",
        "3.0",
        "0.1",
        "1e400",
        "-1e400",
    ),
    *(str(2**power + off) for power in (31, 32, 53, 62, 63, 64, 65, 200) for off in (-1, 0)),
    *(f"-{2**power}" for power in (31, 63, 64, 200)),
    *("9" * 400, "9" * 5000),
    *('""', '" "', '"a"', '"0"', '"1"', '"-1"', '"1.5"', '"nan"', '"inf"', '"null"', '"none"', '"auto"', '"true"'),
    *(
        '"\\u0000"',
        '"\\n"',
        '"a\\nb"',
        '"\\ud800"',
        '"\\u202e\\u0661\\u00b2"',
        '"\U0001f600"',
        '"é\\u0301"',
        '"١٢"',
        '"²"',
    ),
    *(
        '"/"',
        '"."',
        '".."',
        '"no/such/file"',
        '"' + "x" * 300 + '"',
        '"' + "a/" * 3000 + '"',
        '"%s{}{0}"',
        '"; a; b: c"',
    ),
    *(
        '"4KB"',
        '"-1KB"',
        '"1e30GB"',
        '"1e4000s"',
        '"0bps"',
        '"0.5B"',
        '"1e18s"',
        '"9e18B"',
        '"1e999999999Gbps"',
        '"0s"',
    ),
    *('"kind"', '"module:Class"', '"os:system"', '"trainer:"', '":"', '"{run.dir}"', '"a=b"', '"toy"', '"ecmp"'),
    "[" * 60 + "]" * 60,
    "[" * 3000 + "]" * 3000,
    '{"a": ' * 400 + "1" + "}" * 400,
    "[" + "1, " * 3000 + "1]",
]
"""What JSON and YAML both understand, or both refuse."""

JSON = ["NaN", "Infinity", "-Infinity", "nan", "1.", "01", "'a'", "undefined", "[1,]", '{"a": 1, "a": 2}']

YAML = [
    *(".nan", ".inf", "-.inf", "~", "yes", "0x1F", "0b11", "1_000", "1:30:20", "2024-02-30", "2024-02-28", "=", "<<"),
    *("*missing", "&a [*a]", "&a {a: *a}", "{<<: {kind: toy}}", "{<<: 1}", "{<<: [{a: 1}, {b: 2}], <<: {c: 3}}"),
    *("&a {a: 1, <<: {a: 2}}", "{a: 1, a: 2}", "{[1]: 2}", "{{a: 1}: 2}", "{null: 1}", "{1: 2, true: 3}", "{? : }"),
    *(
        "!!python/object:os.system x",
        "!!binary aGk=",
        "!!binary '?'",
        "!!set {a, b}",
        "!!omap [a: 1]",
        "!!int x",
        "!!float x",
    ),
    *(
        "!!timestamp x",
        "!!bool x",
        "!unknown x",
        "!!str 1",
        "!!null x",
        "!!merge a",
        "!!pairs [a: 1, a: 2]",
        "0o9",
        "0x" + "f" * 5000,
    ),
    "&a {x: &b [1, 1, 1, 1, 1, 1, 1, 1], y: &c [*b, *b, *b, *b, *b, *b], z: &d [*c, *c, *c, *c, *c, *c], w: [*d, *d]}",
    *("|", "'a", "%", "@", "`", "- a", "? a", "{a: b: c}", "[a, b", "}", "\t"),
]


def odd(rng: random.Random, own: list[str]) -> Verbatim:
    """One of them.

    Args:
        rng: of the choice.
        own: those that the format has besides, `JSON` or `YAML`.
    """
    return Verbatim(rng.choice(own if rng.random() < 0.25 else BOTH))


def odd_word(rng: random.Random) -> str:
    """One of them as a word of a text or a table."""
    return odd(
        rng, ["NaN", "inf", "-", "->", "1,2", "0x10", "1e3", "+1", "1_0", "#", '"', "\x00", "\x85", "\u2028"]
    ).strip('"')
