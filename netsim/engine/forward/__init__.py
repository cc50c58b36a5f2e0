"""Fast-forward: a run in which what repeats is simulated once, equal to the last bit to a run without it.

Messages that are released in one instant and share links are one unit. A unit that has the network's links to itself
is simulated alone, once; wherever an equal one occurs, its result is shifted. Two units may be under way together as
long as no link carries packets of both at a time: then neither can notice the other. That is checked for every unit
and link; where it fails, the run is simulated plainly from the last moment at which the network was idle.

Where ranks part in a collective, since paths or orders are drawn, they enter the next one at different moments. If
that next one begins on an idle network, these moments are known, and its messages are one unit with them.
"""
