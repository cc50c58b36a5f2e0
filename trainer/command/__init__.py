"""The verbs of the command line, which trainer/__main__.py lists."""
