"""Malformed input for every reader of a file that a user gives: ``python -m tests.fuzz --cases 10000 --seed 0``.

A case damages one file of a sound set, lets a reader read the set, and asks that it ends with exit status 0 or 2, with
one line on standard error in the second case (of a check: one for each objection), without a traceback, without a
warning of this repository's packages, and in time. ``readers`` lists who reads; ``sound_files``, ``tests/files`` and
``configs`` give what they read; and ``mutations`` and the files that it names damage that; ``trial`` judges one case,
and ``run`` runs all of them.
"""
