"""Fast-forward: simulates repeated traffic once, with results equal to the last bit to those of a plain run.

Messages that are released in one instant and share links are one unit. A unit is simulated once, alone on the
network; wherever an equal unit occurs, its result is shifted in time. Two units may be under way together as long as
no link carries packets of both at a time: then neither affects the other. That is checked for every unit and link.
Where it fails, the run is simulated plainly from the last moment at which the network was idle.

Where paths or orders are drawn, the ranks of a collective end at different moments, and enter the next collective at
different moments. If that collective begins on an idle network, these moments are known, and its messages form one
unit with them.
"""
