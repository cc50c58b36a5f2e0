"""Runs that follow one another: a teacher, the pairs that it draws, the student that learns from them.

Or a path that is fitted to data, and the run along it; or the times at which few steps of a teacher are best; or
objects that a policy builds, whose measured objectives the next policy learns from. A
configuration with a list ``stages`` stands for several runs in folders below its ``run.dir``. What a stage does not say
itself is in the other sections of the file, and ``{run.dir}`` in a string is the folder of all stages together.
``train`` and ``prepare`` have the kinds of stages; ``reading`` makes them of a file, ``running`` runs them in order.
"""
