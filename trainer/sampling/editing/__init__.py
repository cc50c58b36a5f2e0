"""Editing pictures with a trained flow: the driver behind the edit verb.

    request    request.py     a section of YAML
    plan       plan.py        its meaning for one run: classes, sampler, levels, mask; everything that is refused
    edits      edits.py       pictures to noise and from there to pictures of other classes, and the files of a picture

The run of the verb, what it measures and its page are in `trainer.evaluation.editing`.
"""
