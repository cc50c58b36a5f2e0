"""Runs that follow one another: a teacher, the pairs that it draws, the student that learns from them.

Other stages fit a path to data for a run along it, search the best times of few steps of a teacher, or measure objects
that a policy builds, for the next policy to learn from. A configuration with a list ``stages`` stands for several runs
in folders below its ``run.dir``. Settings that a stage omits are in the other sections of the file, and ``{run.dir}``
in a string is the folder of all stages together. ``train`` and ``prepare`` define the kinds of stages; ``reading``
makes stages from a file, ``running`` runs them in order.
"""
