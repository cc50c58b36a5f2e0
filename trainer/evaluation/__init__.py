"""How near samples are to data, without weights from elsewhere: distances between two sets of points."""
