"""Small trained matrices beside the frozen ones of a network."""
