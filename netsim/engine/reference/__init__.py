"""The reference engine, on simpy: the plain definition of a run, with which all other engines must agree."""
