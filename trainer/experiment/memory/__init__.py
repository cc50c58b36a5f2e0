"""The memory of a rank, by part, before anything is started: what ``check`` prints and what ``--fit`` searches."""
