"""Editing pictures with a trained flow: the driver behind the edit verb.

    request    request.py     what is asked for, a section of YAML
    plan       plan.py        what it comes to for one run: classes, sampler, levels; everything that is refused
    control    strength.py    a control with a share of its strength
    mask       mask.py        the part of a picture that is held
    edits      edits.py       pictures to noise and from there to pictures of other classes
    files      files.py       what becomes of the edits of one picture

The run of the verb, what it measures and its page are in `trainer.evaluation.editing`.
"""
